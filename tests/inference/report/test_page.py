from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from inference.report import page as report
from songsight.store import tables


def hits(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "recording": f"{rng.integers(4)}.wav",
            "start_s": float(number),
            "end_s": number + 1.0,
            "start_utc": datetime(2024, 5, 14, int(rng.integers(24)), tzinfo=UTC) if rng.random() < 0.7 else None,
            "scientific_name": f"Genus s{rng.integers(9)}",
            "score": float(rng.integers(20)) / 32,
            "rank": 1,
        }
        for number in range(count)
    ]


def test_each_species_best_hits_of_as_many_recordings_as_there_are() -> None:
    rows = hits(300)
    shown = report.best_hits(pa.Table.from_pylist(rows, tables.HITS), per_species=6, most_species=5)
    best = {name: max(row["score"] for row in rows if row["scientific_name"] == name) for name, _, _ in shown}
    assert sorted(best.values(), reverse=True) == list(best.values())
    assert len(shown) == 5
    assert min(best.values()) >= sorted(Counter({r["scientific_name"]: r["score"] for r in rows}).values())[0]
    for name, chosen, count in shown:
        own = [row for row in rows if row["scientific_name"] == name]
        assert count == len(own)
        assert len(chosen) == min(6, len(own))
        scores = [hit["score"] for hit in chosen]
        assert scores == sorted(scores, reverse=True)
        for recording in {row["recording"] for row in own}:  # four of them: each has its best hit among the six
            top = max(row["score"] for row in own if row["recording"] == recording)
            assert max(hit["score"] for hit in chosen if hit["recording"] == recording) == top
    assert report.best_hits(tables.HITS.empty_table(), 3, 5) == []


def test_hours_of_the_day() -> None:
    rows = hits(200, seed=1)
    found = report._by_hour(pa.Table.from_pylist(rows, tables.HITS))
    for name in {row["scientific_name"] for row in rows}:
        expected = Counter(r["start_utc"].hour for r in rows if r["scientific_name"] == name and r["start_utc"])
        assert {hour: count for hour, count in enumerate(found[name].tolist()) if count} == expected
