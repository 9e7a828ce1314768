from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from inference.annotate import accounting, ledger
from inference.archive import inventory
from inference.archive.spans import Windows


def seen(path: str, reason: str = "", cut_short: str = "", rate: int = 48_000, note: str = "") -> dict[str, Any]:
    known = None if reason else 25.0
    return {
        "path": path,
        "size_bytes": 9,
        "duration_s": known,
        "sample_rate_hz": None if reason else rate,
        "reason": reason,
        "detail": "why",
        "cut_short": cut_short,
        "note": note,
    }


def unit(name: str, **files: tuple[int, int, str]) -> str:
    outcomes = [
        {"path": path, "version": "", "windows": windows, "silent": silent, "hits": windows - silent, "reason": reason}
        | {"detail": "d", "spans": []}
        for path, (windows, silent, reason) in files.items()
    ]
    return json.dumps({"unit": name, "parts": [], "files": outcomes})


def test_notes_of_headers_and_of_sound_stand_side_by_side() -> None:
    files = [seen("plain"), seen("low", rate=22_050), seen("odd"), seen("both", rate=22_050)]
    names = [file["path"] for file in files]
    outcome = json.loads(unit("u", **dict.fromkeys(names, (2, 0, ""))))
    for file in outcome["files"]:
        file["note"] = "two left feet" if file["path"] in ("odd", "both") else ""
    low = "22050 Hz: nothing above 11025 Hz, of the encoder's 14000 Hz"
    for outcomes, expected in (
        ([json.dumps(outcome)], [None, low, "two left feet", f"{low}; two left feet"]),
        ([unit("u", **dict.fromkeys(names, (2, 0, "")))], [None, low, None, low]),  # of a version that noted nothing
    ):
        table = accounting.settle(pa.Table.from_pylist(files, inventory.SEEN), ledger.gather(outcomes).files, 14_000)
        assert table["note"].to_pylist() == expected


def test_every_file_is_annotated_or_quarantined() -> None:
    files = [
        seen("half", cut_short="half of it"),
        seen("good"),
        seen("low", rate=22_050, note="the clock was not set: it says 1970"),
        seen("header", "empty"),
        seen("cut"),
        seen("dead"),
        seen("gone"),
        seen("nothing"),
    ]
    outcomes = [
        unit("u1", half=(1, 0, ""), good=(2, 0, ""), cut=(2, 0, ""), dead=(2, 2, "")),
        unit("u2", good=(1, 1, ""), cut=(0, 0, "truncated"), gone=(0, 0, "vanished"), nothing=(0, 0, "")),
        unit("u3", low=(3, 0, "")),
    ]
    table = accounting.settle(pa.Table.from_pylist(files, inventory.SEEN), ledger.gather(outcomes).files, 14_000)
    sums = accounting.totals(table, Windows(window_s=10, hop_s=10))
    assert (sums.annotated, sums.partial, sums.quarantined) == (4, 2, 4)
    assert sums.annotated + sums.quarantined == len(files)
    assert (sums.hits, sums.windows) == (1 + 2 + 2 + 3, 1 + 3 + 2 + 2 + 3)
    assert sums.annotated_s == 10 + 25 + 25 + 20
    assert sums.reasons == {"empty": 1, "silent": 1, "too-short": 1, "vanished": 1}
    assert sums.to_retry == 1
    rows = {row["path"]: row for row in table.to_pylist()}
    assert {path: (row["status"], row["reason"]) for path, row in rows.items()} == {
        "half": ("partial", "truncated"),
        "good": ("annotated", None),
        "low": ("annotated", None),
        "header": ("quarantined", "empty"),
        "cut": ("partial", "truncated"),
        "dead": ("quarantined", "silent"),
        "gone": ("quarantined", "vanished"),
        "nothing": ("quarantined", "too-short"),
    }
    assert (rows["half"]["detail"], rows["good"]["windows"], rows["good"]["hits"]) == ("half of it", 3, 2)
    assert rows["good"]["note"] is None
    low = "22050 Hz: nothing above 11025 Hz, of the encoder's 14000 Hz"
    assert rows["low"]["note"] == f"the clock was not set: it says 1970; {low}"
    assert {row["path"]: row["stage"] for row in accounting.quarantine(table).to_pylist()} == {
        "header": "inventory",
        "dead": "decode",
        "gone": "decode",
        "nothing": "decode",
    }


def test_what_lies_between_windows_is_not_heard() -> None:
    """Of 25 s, in windows of 3 s every 6 s: 0–3, 6–9, 12–15, 18–21 and 24–25."""
    files = [seen("all"), seen("cut"), seen("header", "empty")]
    outcomes = [unit("u1", all=(5, 0, ""), cut=(2, 0, "truncated"))]
    table = accounting.settle(pa.Table.from_pylist(files, inventory.SEEN), ledger.gather(outcomes).files, 14_000)
    assert accounting.totals(table.slice(0, 1), Windows(3, 6)).annotated_s == 3 + 3 + 3 + 3 + 1
    assert accounting.totals(table, Windows(3, 6)).annotated_s == 13 + 3 + 3
