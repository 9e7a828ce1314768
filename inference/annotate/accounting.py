"""Files in = files annotated + files quarantined, always."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.archive.spans import Windows
from songsight.reasons import RETRIED
from songsight.store import tables

_NO_SOUND = ("too-short", "no sample is left at the encoder's rate")
_DEAD = ("silent", "every sample has the same value: a dead microphone")


@dataclass(frozen=True)
class Totals:
    """The sums over a `tables.RECORDINGS_SEEN`.

    Attributes:
        annotated, quarantined: files; together all that were found.
        partial: annotated files of which some could not be read.
        windows: windows that were decoded.
        hits: rows of hits.
        annotated_s: seconds of the annotated files that lie in a window, each second once.
        reasons: how many files were quarantined for each reason.
        to_retry: files that the next run of the same command tries again.
    """

    annotated: int
    quarantined: int
    partial: int
    windows: int
    hits: int
    annotated_s: float
    reasons: dict[str, int]
    to_retry: int


def settle(seen: pa.Table, files: pa.Table, band_hz: float) -> pa.Table:
    """Closes the books: what became of each recording.

    Args:
        seen: the inventory, `archive.SEEN`.
        files: what the annotators returned, `ledger.FILES`, each unit once.
        band_hz: the highest frequency that the encoder hears.

    Returns:
        `tables.RECORDINGS_SEEN`, in the order of `seen`.
    """
    sums = files.select(["path", "windows", "silent", "hits"]).group_by("path")
    sums = sums.aggregate([("windows", "sum"), ("silent", "sum"), ("hits", "sum")])
    at = pc.index_in(seen["path"], sums["path"])
    windows_F, silent_F, hits_F = (
        pc.fill_null(sums[f"{name}_sum"].take(at), 0).to_numpy() for name in ("windows", "silent", "hits")
    )
    troubled = files.filter(pc.not_equal(files["reason"], ""))
    first: dict[str, tuple[str, str]] = {}
    # That of the earliest span, however spans were put into units.
    for row in sorted(troubled.select(["path", "reason", "detail", "spans"]).to_pylist(), key=lambda row: row["spans"]):
        first.setdefault(row["path"], (row["reason"], row["detail"]))

    unusable_F = pc.not_equal(seen["reason"], "").to_numpy()
    cut_short_F = pc.not_equal(seen["cut_short"], "").to_numpy()
    troubled_F = pc.is_in(seen["path"], pa.array(list(first), pa.string())).to_numpy()
    status_F = np.full(len(seen), "annotated", object)
    reason_F, detail_F = np.full(len(seen), None, object), np.full(len(seen), None, object)
    fine_F = ~unusable_F & (windows_F > 0) & (silent_F < windows_F) & ~troubled_F & ~cut_short_F
    for row in np.flatnonzero(~fine_F):  # few among many
        file = seen.slice(row, 1).to_pylist()[0]
        status, (reason, detail) = "quarantined", first.get(file["path"], ("", ""))
        if file["reason"]:
            reason, detail = file["reason"], file["detail"]
        elif not windows_F[row]:
            reason, detail = (reason, detail) if reason else _NO_SOUND
        elif silent_F[row] == windows_F[row]:
            reason, detail = (reason, detail) if reason == "not-finite" else _DEAD
        else:
            status = "partial"
            reason, detail = (reason, detail) if reason else ("truncated", file["cut_short"])
        status_F[row], reason_F[row], detail_F[row] = status, reason, detail
    noted = files.filter(pc.not_equal(files["note"], ""))
    heard = noted["note"].take(pc.index_in(seen["path"], noted["path"]))
    columns: dict[str, Any] = {name: seen[name] for name in tables.RECORDINGS_SEEN.names if name in seen.column_names}
    columns |= {
        "status": pa.array(status_F, pa.string()),
        "reason": pa.array(reason_F, pa.string()),
        "detail": pa.array(detail_F, pa.string()),
        "note": _with(notes(seen, band_hz), heard),
        "windows": pa.array(windows_F, pa.int64()),
        "hits": pa.array(hits_F, pa.int64()),
    }
    return pa.table([columns[name] for name in tables.RECORDINGS_SEEN.names], tables.RECORDINGS_SEEN)


def notes(seen: pa.Table, band_hz: float) -> pa.ChunkedArray:
    """What to know of recordings, null where nothing: a doubtful clock or place, a rate too low for the encoder."""
    rate_hz = seen["sample_rate_hz"]
    rates = [rate for rate in pc.unique(rate_hz).to_pylist() if rate is not None and rate / 2 < 0.98 * band_hz]
    texts = [f"{rate} Hz: nothing above {rate // 2} Hz, of the encoder's {band_hz:.0f} Hz" for rate in rates]
    low = pa.array(texts, pa.string()).take(pc.index_in(rate_hz, pa.array(rates, pa.int32())))
    return _with(seen["note"], low)


def _with(told: pa.ChunkedArray, heard: pa.ChunkedArray) -> pa.ChunkedArray:
    """What headers told and what was heard, each of which may be null, as one note."""
    both = pc.binary_join_element_wise(pc.fill_null(told, ""), pc.fill_null(heard, ""), "; ")
    some = pc.utf8_trim(both, "; ")
    return pc.if_else(pc.equal(some, ""), None, some)


def quarantine(recordings: pa.Table) -> pa.Table:
    """`tables.QUARANTINE` of a `tables.RECORDINGS_SEEN`. What an inventory found wrong has no duration."""
    lost = recordings.filter(pc.equal(recordings["status"], "quarantined"))
    stage = pc.if_else(pc.is_valid(lost["duration_s"]), "decode", "inventory")
    return lost.append_column("stage", stage).select(tables.QUARANTINE.names).cast(tables.QUARANTINE)


def totals(recordings: pa.Table, windows: Windows) -> Totals:
    """The sums over a `tables.RECORDINGS_SEEN`.

    Args:
        recordings: of the run.
        windows: how they were cut.
    """
    status = recordings["status"]
    used = recordings.filter(pc.not_equal(status, "quarantined"))
    lost = recordings.filter(pc.equal(status, "quarantined"))
    counts = {row["values"]: row["counts"] for row in pc.value_counts(lost["reason"]).to_pylist()}
    return Totals(
        annotated=len(used),
        quarantined=len(lost),
        partial=pc.sum(pc.equal(used["status"], "partial")).as_py() or 0,
        windows=pc.sum(recordings["windows"]).as_py() or 0,
        hits=pc.sum(recordings["hits"]).as_py() or 0,
        annotated_s=float(windows.heard_s(used["duration_s"].to_numpy(), used["windows"].to_numpy()).sum()),
        reasons=dict(sorted(counts.items())),
        to_retry=pc.sum(pc.is_in(recordings["reason"], pa.array(RETRIED))).as_py() or 0,
    )
