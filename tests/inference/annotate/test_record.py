"""`run.json`, of this version and of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.annotate import record
from inference.annotate.record import Record
from songsight.errors import UserError

KEYS_0_1 = """
run_id round mlflow_run archive gallery files_found annotated quarantined partial skipped gone to_retry hours windows
hits elapsed_s audio_hours_per_hour windows_per_s first_window_s steady_windows_per_s steady_between begun_at precision
window_s hop_s encoder scored_with embeddings codes fingerprints versions options stamp
"""
"""What version 0.1 writes of an archive, in its order."""


def write(out: Path, told: dict[str, Any]) -> Path:
    (out / "run.json").write_text(json.dumps(told))
    return out


def as_0_1(**more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {name: number for number, name in enumerate(KEYS_0_1.split())}
    values |= {"run_id": "r", "steady_between": [1.5, 2.5], "codes": None, "options": {"top_k": 4}, "stamp": "s"}
    return values | {"embeddings": "float16", "fingerprints": {"model": "m"}} | more


@pytest.mark.parametrize("more", [{}, {"detections": 0}, {"from_embeddings": "u", "source_round": 2}])
def test_what_0_1_wrote_is_what_we_write(tmp_path: Path, more: dict[str, Any]) -> None:
    told = as_0_1(**more)
    found = record.read(str(write(tmp_path, told)))
    assert found is not None
    written = json.loads(found.as_bytes())
    assert written == told
    assert [key for key in written if key not in more] == KEYS_0_1.split()
    assert (found.options["top_k"], found.round, found.detections) == (4, 1, more.get("detections"))


def test_keys_of_other_versions_are_filled_in_or_kept(tmp_path: Path) -> None:
    found = record.read(str(write(tmp_path, {"run_id": "r", "quieter": [1]})))
    assert found == Record("r", more={"quieter": [1]})
    assert (found.round, found.embeddings, found.stamp, found.to_retry) == (1, "none", "", 0)
    assert found.as_dict()["quieter"] == [1]


def test_what_is_no_record_is_one_line(tmp_path: Path) -> None:
    assert record.read(str(tmp_path)) is None
    with pytest.raises(UserError, match=r"--annotated .*: no finished run is there \(no run.json\)"):
        record.finished(str(tmp_path), "--annotated", ())
    write(tmp_path, {"run_id": "r", "archive": "a"})
    assert record.finished(str(tmp_path), "--annotated", ("archive",)).archive == "a"
    with pytest.raises(UserError, match=r"is not the run.json of a songsight run \(it has no gallery\)"):
        record.finished(str(tmp_path), "--annotated", ("archive", "gallery"))
    write(tmp_path, {"steps": 3})
    with pytest.raises(UserError, match=r"it has no run_id"):
        record.read(str(tmp_path))
