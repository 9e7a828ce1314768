from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.annotate import detections
from songsight.store import tables

BEGIN = datetime(2024, 5, 14, 5, 30, tzinfo=UTC)


def hit(recording: str, start_s: float, name: str, score: float, probability: float | None = None) -> dict:
    return {
        "run_id": "r",
        "recording": recording,
        "site": "a",
        "start_utc": BEGIN + timedelta(seconds=start_s),
        "start_s": start_s,
        "end_s": start_s + 3,
        "rank": 1,
        "scientific_name": name,
        "common_name": f"the {name}",
        "score": score,
        "probability": probability,
        "images": [{"image_id": f"{name}{start_s:g}", "path": "x.jpg", "score": score}],
        "model": "m",
        "method": "distilled",
    }


def merged(folder: Path, hits: list[dict], gap_s: float, files: int = 1) -> list[dict]:
    for number in range(files):
        part = pa.Table.from_pylist(hits[number::files], tables.HITS)
        tables.write_table(str(folder / "hits" / f"{number}.parquet"), part)
    url = folder / "detections" / "r.parquet"
    rows = detections.write(str(folder / "hits"), str(url), gap_s)
    table = pq.read_table(url)
    assert table.schema.equals(tables.DETECTIONS)
    assert rows == len(table)
    return table.to_pylist()


def test_consecutive_windows_are_one_detection(tmp_path: Path) -> None:
    hits = [hit("b", 0, "x", 0.5), hit("b", 3, "x", 0.7, 0.9), hit("b", 6, "y", 0.1), hit("b", 9, "x", 0.6, 0.2)]
    first, second, third = merged(tmp_path, hits, 0)
    assert first == {
        "run_id": "r",
        "recording": "b",
        "site": "a",
        "start_utc": BEGIN,
        "start_s": 0,
        "end_s": 6,
        "scientific_name": "x",
        "common_name": "the x",
        "windows": 2,
        "score_max": pytest.approx(0.7),
        "score_mean": pytest.approx(0.6),
        "probability_max": pytest.approx(0.9),
        "image": {"image_id": "x3", "path": "x.jpg", "score": pytest.approx(0.7)},
        "model": "m",
        "method": "distilled",
    }
    assert (second["scientific_name"], second["probability_max"]) == ("y", None)
    assert (third["start_s"], third["end_s"], third["windows"]) == (9, 12, 1)
    assert third["start_utc"] == BEGIN + timedelta(seconds=9)


@pytest.mark.parametrize(("gap_s", "expected"), [(0, 2), (2.9, 2), (3, 1), (10, 1)])
def test_a_gap_as_long_as_allowed_is_bridged(tmp_path: Path, gap_s: float, expected: int) -> None:
    assert len(merged(tmp_path, [hit("b", 0, "x", 0.5), hit("b", 6, "x", 0.5)], gap_s)) == expected


def test_times_that_are_no_whole_numbers_still_touch(tmp_path: Path) -> None:
    hits = [hit("b", 0.1 * number, "x", 0.5) | {"end_s": 0.1 * number + 0.1} for number in range(40)]
    assert len(merged(tmp_path, hits, 0)) == 1


def test_equals_merging_window_by_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    chosen = {(str(rng.integers(5)), 1.5 * int(rng.integers(60)), "xyz"[rng.integers(3)]) for _ in range(300)}
    hits = [hit(*one, float(rng.random())) for one in sorted(chosen)]
    rng.shuffle(hits)  # type: ignore[arg-type]
    expected: list[list] = []
    for recording, name in sorted({(h["recording"], h["scientific_name"]) for h in hits}):
        last = None
        for start, score in sorted(
            (h["start_s"], h["score"]) for h in hits if (h["recording"], h["scientific_name"]) == (recording, name)
        ):
            if last is None or start - last[4] > 1.5:
                last = [recording, start, name, 0, 0.0, []]
                expected.append(last)
            last[3] += 1
            last[4] = start + 3
            last[5].append(score)
    expected.sort(key=lambda row: (row[0], row[1], row[2]))
    found = merged(tmp_path, hits, 1.5, files=7)
    assert [[d["recording"], d["start_s"], d["scientific_name"], d["windows"], d["end_s"]] for d in found] == [
        row[:5] for row in expected
    ]
    np.testing.assert_allclose([d["score_mean"] for d in found], [np.mean(row[5]) for row in expected], rtol=1e-5)


def test_no_hits_are_no_detections(tmp_path: Path) -> None:
    assert merged(tmp_path, [], 0) == []


def test_hive_partitions_are_read_alike(tmp_path: Path) -> None:
    hits = [hit("b", 0, "x", 0.5), hit("b", 3, "x", 0.7)]
    for date, one in zip(("2024-05-14", "2024-05-15"), hits, strict=True):
        part = pa.Table.from_pylist([one], tables.HITS)
        for columns, root in ((part, "with"), (part.drop_columns("site"), "without")):
            tables.write_table(str(tmp_path / root / "site=a" / f"date={date}" / "0.parquet"), columns)
    for root in ("with", "without"):
        assert detections.write(str(tmp_path / root), str(tmp_path / "d.parquet"), 0) == 1
        assert pq.read_table(tmp_path / "d.parquet")["site"].to_pylist() == ["a"]
