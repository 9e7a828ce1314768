"""Staged rows become partitions; killed anywhere and started again, the same ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.annotate import ledger, publish
from inference.annotate.annotator import STAGED_HITS
from inference.annotate.record import Record
from inference.archive import inventory
from songsight.store import tables, urls


def hit(recording: str, site: str, date: str, start_s: float, rank: int = 1) -> dict[str, Any]:
    return {"run_id": "r", "recording": recording, "site": site, "date": date, "start_s": start_s, "rank": rank}


UNITS = {
    "u1": [
        hit("a/1.wav", "a", "2024-05-14", 3.0),
        hit("a/1.wav", "a", "2024-05-14", 0.0),
        hit("b/1.wav", "b", "unknown", 0),
    ],
    "u2": [hit("a/2.wav", "a", "2024-05-14", 0.0, 1), hit("a/2.wav", "a", "2024-05-14", 0.0, 2)],
    "u3": [hit("a/2.wav", "a", "2024-05-15", 9.0)],
}
LATER = {"u4": [hit("a/1.wav", "a", "2024-05-16", 1.0), hit("c/1.wav", "c/d", "unknown", 1.0)]}


def stage(out: Path, units: dict[str, list[dict[str, Any]]]) -> tuple[ledger.Ledger, ledger.Outcomes]:
    state = ledger.Ledger(str(out), "r")
    state.begin()
    texts = []
    for name, rows in units.items():
        keys = [(row["site"], row["date"]) for row in rows]
        parts = [(*key, keys.count(key)) for key in dict.fromkeys(keys)]
        texts.append(
            state.finish(name, {"hits": pa.Table.from_pylist(rows, STAGED_HITS)}, {"parts": parts, "files": []})
        )
    return state, ledger.gather(texts)


def recordings(*paths: str) -> pa.Table:
    rows = [{"path": path, "status": "annotated", "duration_s": 9.0, "windows": 1, "hits": 1} for path in paths]
    return pa.Table.from_pylist(rows, tables.RECORDINGS_SEEN)


def rows_of(out: Path) -> list[tuple[Any, ...]]:
    found = publish.read_hits(str(out)).to_pylist()
    return sorted((r["recording"], r["site"], r["date"], r["start_s"], r["rank"]) for r in found)


def expected(*units: dict[str, list[dict[str, Any]]], less: str = "") -> list[tuple[Any, ...]]:
    rows = [row for some in units for unit in some.values() for row in unit if row["recording"] != less]
    return sorted((r["recording"], r["site"], r["date"], float(r["start_s"]), r["rank"]) for r in rows)


def round_one(out: Path) -> None:
    state, outcomes = stage(out, UNITS)
    publish.publish(
        state, recordings("a/1.wav", "a/2.wav", "b/1.wav"), outcomes.parts, 1, pa.array([], pa.string()), print
    )
    urls.write_bytes(str(out / "run.json"), b'{"run_id": "r", "round": 1}')
    state.remove()


def round_two(out: Path) -> None:
    """A recording is added, and one has changed."""
    state, outcomes = stage(out, LATER)
    before, known = publish.earlier(state)
    assert before == Record(run_id="r", round=1)
    assert known["path"].to_pylist() == ["a/1.wav", "a/2.wav", "b/1.wav"]
    every = recordings("a/1.wav", "a/2.wav", "b/1.wav", "c/1.wav")
    publish.publish(state, every, outcomes.parts, 2, pa.array(["a/1.wav"]), print)
    urls.write_bytes(str(out / "run.json"), b'{"run_id": "r", "round": 2}')
    state.remove()


def files(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        path.relative_to(out).as_posix(): pq.ParquetFile(path).read().to_pylist() for path in out.rglob("*.parquet")
    }


def test_partitions_and_their_order(tmp_path: Path) -> None:
    round_one(tmp_path)
    names = {path.parent.relative_to(tmp_path / "hits").as_posix() for path in (tmp_path / "hits").rglob("*.parquet")}
    assert names == {"site=a/date=2024-05-14", "site=a/date=2024-05-15", "site=b/date=unknown"}
    assert rows_of(tmp_path) == expected(UNITS)
    part = pq.ParquetFile(tmp_path / "hits" / "site=a" / "date=2024-05-14" / "part-0001-000.parquet")
    assert {"site", "date"}.isdisjoint(part.schema_arrow.names)
    rows = part.read().to_pylist()
    keys = [(row["recording"], row["start_s"], row["rank"]) for row in rows]
    assert keys == sorted(keys)
    statistics = part.metadata.row_group(0).column(1).statistics
    assert (statistics.min, statistics.max) == ("a/1.wav", "a/2.wav")


def test_large_partitions_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "PART_ROWS", 2)
    round_one(tmp_path)
    folder = tmp_path / "hits" / "site=a" / "date=2024-05-14"
    assert sorted(path.name for path in folder.iterdir()) == ["part-0001-000.parquet", "part-0001-001.parquet"]
    assert rows_of(tmp_path) == expected(UNITS)


def test_a_later_round_adds_and_replaces(tmp_path: Path) -> None:
    round_one(tmp_path)
    untouched = tmp_path / "hits" / "site=b" / "date=unknown" / "part-0001-000.parquet"
    before = untouched.stat().st_mtime_ns
    round_two(tmp_path)
    assert rows_of(tmp_path) == expected(
        {"u": [r for unit in UNITS.values() for r in unit if r["recording"] != "a/1.wav"]}, LATER
    )
    assert untouched.stat().st_mtime_ns == before


def test_rows_that_are_large_come_in_smaller_files_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "LARGE_PART_ROWS", {"embeddings": 4})
    monkeypatch.setattr(publish, "ROW_GROUPS", {"embeddings": 2})

    def rows(recording: str, count: int) -> list[dict[str, Any]]:
        return [
            {"recording": recording, "start_s": float(at), "embedding": b"x", "site": "a", "date": "unknown"}
            for at in range(count)
        ]

    def publish_round(number: int, units: dict[str, list[dict[str, Any]]], replaced: list[str]) -> None:
        state = ledger.Ledger(str(tmp_path), "r")
        texts = []
        for name, some in units.items():
            heard = {"embeddings": pa.Table.from_pylist(some)}
            texts.append(state.finish(name, heard, {"heard": [("a", "unknown", len(some))], "files": []}))
        parts = ledger.gather(texts).heard
        publish.publish_hits(state, "embeddings", parts, number, pa.array(replaced, pa.string()), print)

    def groups() -> dict[str, list[int]]:
        found = {path.name: pq.ParquetFile(path).metadata for path in (tmp_path / "embeddings").rglob("*.parquet")}
        return {name: [one.row_group(at).num_rows for at in range(one.num_row_groups)] for name, one in found.items()}

    publish_round(1, {"u1": rows("1.wav", 1) + rows("2.wav", 4), "u2": rows("3.wav", 3)}, [])
    assert groups() == {"part-0001-000.parquet": [2, 2, 1], "part-0001-001.parquet": [2, 1]}
    publish_round(2, {"u3": rows("1.wav", 1)}, ["1.wav"])
    assert groups() == {
        "part-0001-000.parquet": [2, 2],
        "part-0001-001.parquet": [2, 1],
        "part-0002-000.parquet": [1],
    }


def test_no_hit_is_a_table_without_rows_until_there_is_one(tmp_path: Path) -> None:
    state, outcomes = stage(tmp_path, {})
    publish.publish(state, recordings("a/1.wav"), outcomes.parts, 1, pa.array([], pa.string()), print)
    table = pq.read_table(tmp_path / "hits")
    assert len(table) == 0
    assert set(table.schema.names) == {*tables.HITS.names, "date"}
    state, outcomes = stage(tmp_path, LATER)
    publish.publish(state, recordings("a/1.wav"), outcomes.parts, 2, pa.array([], pa.string()), print)
    assert rows_of(tmp_path) == expected(LATER)
    assert "part-0000-000.parquet" not in {path.name for path in (tmp_path / "hits").rglob("*")}


class Killed(BaseException):
    pass


@contextlib.contextmanager
def killed_at(change: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the block before the given change of a file; the changes before it are done."""
    left = [change]
    with monkeypatch.context() as patch:
        for name in ("write_bytes", "remove_file", "remove"):
            real = getattr(urls, name)

            def counted(*args: Any, real: Any = real) -> None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                real(*args)

            patch.setattr(urls, name, counted)
        yield


@pytest.mark.parametrize("second", [False, True])
def test_killed_before_any_change_it_ends_the_same(
    tmp_path: Path, second: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    round_one(whole)
    if second:
        round_two(whole)
    for change in range(100):
        out = tmp_path / str(change)
        if second:
            round_one(out)
        work = round_two if second else round_one
        try:
            with killed_at(change, monkeypatch):
                work(out)
        except Killed:
            ended = out / "run.json"
            if not ended.exists() or ended.read_text() != (whole / "run.json").read_text():
                work(out)
        else:
            break
        assert files(out / "hits") == files(whole / "hits"), change
        assert (out / "run.json").read_text() == (whole / "run.json").read_text()
        for name in ("recordings", "quarantine"):
            assert files(out / name) == files(whole / name)
    assert change > 8


def test_schemas_agree() -> None:
    assert {"path", "size_bytes", "etag_or_mtime", "reason"} <= set(inventory.SEEN.names)
    assert set(inventory.SEEN.names) - {"cut_short", "sequential"} <= set(tables.RECORDINGS_SEEN.names)
