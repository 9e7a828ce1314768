from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest

from jobs.distilling import splits
from songsight.errors import UserError
from songsight.store import tables


def table(*rows: tuple[str | None, str | None, str | None]) -> pa.Table:
    """Rows of (split, path, scientific_name)."""
    named = [dict(zip(("split", "path", "scientific_name"), row, strict=True)) for row in rows]
    return tables.conform(pa.Table.from_pylist([{"recording_id": f"r{i}"} | row for i, row in enumerate(named)]),
                          tables.RECORDINGS)  # fmt: skip


def test_only_the_known_words_count_and_the_others_are_said() -> None:
    words = ["train", "val", "valid", "Train", "test", None, "", "valid"]
    found = splits.split(table(*((word, f"{i}.wav", "Parus major") for i, word in enumerate(words))), "r.csv")
    assert found.train_rows.tolist() == [0, 5, 6]
    assert found.val_rows.tolist() == [1]
    assert found.train["path"].to_pylist() == ["0.wav", "5.wav", "6.wav"]
    assert found.unusable == {}
    assert found.notes == [
        "r.csv: 2 rows without a split are trained on",
        "r.csv: rows left out: 1 whose split is 'Train', 2 whose split is 'valid'; train, val and test are known",
    ]


def test_rows_without_a_name_or_path_matter_only_where_they_would_be_used() -> None:
    found = splits.split(
        table(
            ("test", "0.wav", None),  # BirdSet's no-call
            ("train", "1.wav", "Parus major"),
            ("train", 'a "b", c.wav', " "),
            ("val", None, None),
            ("train", "4.wav", None),
        ),
        "r.csv",
    )
    assert (found.train_rows.tolist(), found.val_rows.tolist()) == ([1], [])
    assert found.unusable == {2: "no scientific_name", 3: "no path", 4: "no scientific_name"}
    assert found.notes == [
        "r.csv: 1 rows left out that have no path; the first is row 3",
        "r.csv: 3 rows left out that have no scientific_name; the first is row 2",
    ]


def test_a_table_without_splits_is_all_training() -> None:
    found = splits.split(table((None, "0.wav", "a"), (" ", "1.wav", "b")), "r.csv")
    assert (found.train_rows.tolist(), found.notes) == ([0, 1], [])


def test_a_table_with_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match=r"--recordings: r.csv has no row to train on.*1 whose split is 'training'"):
        splits.split(table(("training", "0.wav", "a"), ("val", "1.wav", "a")), "r.csv")


def test_the_listing_is_csv_that_reads_back() -> None:
    rows = table(("train", 'a "b", c.wav', None), ("val", "1\n2.wav", "a"), ("val", "3.wav", "a"))
    read = list(csv.reader(io.StringIO(splits.listing(rows, {1: "vanished", 0: "no scientific_name"}))))
    assert read == [
        ["row", "recording_id", "path", "split", "reason"],
        ["0", "r0", 'a "b", c.wav', "train", "no scientific_name"],
        ["1", "r1", "1\n2.wav", "val", "vanished"],
    ]
