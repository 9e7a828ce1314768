from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from inference.match import codes, embeddings
from songsight import metrics
from songsight.store import tables


def unit(count: int, width: int) -> np.ndarray:
    return metrics.unit(np.random.default_rng(0).standard_normal((count, width))).astype(np.float32)


def write(path: Path, kind: embeddings.Kind, vectors: np.ndarray, rows_per_group: int | None = None) -> None:
    count = len(vectors)
    starts = [float(number) for number in range(count)]
    table = embeddings.table(kind, ["b.wav", "a.wav"] * (count // 2), starts, [s + 3 for s in starts], vectors)
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write_table(str(path), table, rows_per_group)


@pytest.mark.parametrize("width", [24, 768])
def test_float16_comes_back_to_its_precision(tmp_path: Path, width: int) -> None:
    vectors = unit(10, width)
    write(tmp_path / "e" / "x.parquet", "float16", vectors)
    table = pq.read_table(tmp_path / "e")
    assert table.schema.equals(embeddings.schema("float16", width))
    assert table["recording"].to_pylist() == ["a.wav"] * 5 + ["b.wav"] * 5
    assert table["start_s"].to_pylist() == [1, 3, 5, 7, 9, 0, 2, 4, 6, 8]
    back = embeddings.vectors(table, width)
    np.testing.assert_allclose(back, vectors[[1, 3, 5, 7, 9, 0, 2, 4, 6, 8]], atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("width", [24, 30])
def test_binary_comes_back_as_codes_do(tmp_path: Path, width: int) -> None:
    vectors = unit(10, width)
    write(tmp_path / "e" / "x.parquet", "binary", vectors)
    table = pq.read_table(tmp_path / "e")
    assert table.schema.equals(embeddings.schema("binary", width))
    expected = codes.decode(*codes.encode(vectors), width)[[1, 3, 5, 7, 9, 0, 2, 4, 6, 8]]
    np.testing.assert_array_equal(embeddings.vectors(table, width), expected)
    np.testing.assert_array_equal(embeddings.vectors(table.slice(3, 4), width), expected[3:7])


def test_row_groups_are_read_one_by_one(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "e" / "site=1" / f"{name}.parquet", "float16", unit(10, 8), 4)
    groups = embeddings.groups(str(tmp_path / "e"))
    assert [group.rows for group in groups] == [4, 4, 2] * 2
    assert sum(len(embeddings.read(group)) for group in groups) == 20
    assert embeddings.groups(str(tmp_path / "none")) == []


def test_duckdb_reads_the_vectors(tmp_path: Path) -> None:
    vectors = unit(4, 8)
    write(tmp_path / "x.parquet", "float16", vectors)
    rows = duckdb.sql(f"select embedding from '{tmp_path}/x.parquet'").fetchall()
    np.testing.assert_allclose([row[0] for row in rows], vectors[[1, 3, 0, 2]], atol=5e-4)
