"""Which rows of a recordings table are trained on and which are held out to look at, and which are neither, and why.

Rows whose split is `train`, or that have none, are trained on; `val` is looked at, `test` never touched. Rows with
another word, or without a path or a name, are left out, and how many there are is said.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from songsight.errors import UserError

KNOWN = ("train", "val", "test")
LISTED = ("row", "recording_id", "path", "split", "reason")
_REQUIRED = ("path", "scientific_name")


@dataclass(frozen=True)
class Splits:
    """A recordings table, split.

    Attributes:
        train, val: rows to use, of the table's columns.
        train_rows, val_rows: which rows of the table they are, int64, from 0.
        unusable: row of the table → why it was left out of `train` or `val`: no path, or no scientific_name.
        notes: one line for a person on each thing that was left out.
    """

    train: pa.Table
    val: pa.Table
    train_rows: np.ndarray
    val_rows: np.ndarray
    unusable: dict[int, str]
    notes: list[str]


def split(table: pa.Table, name: str) -> Splits:
    """Splits a `tables.RECORDINGS` table.

    Args:
        table: the recordings.
        name: of its file, for the lines.

    Raises:
        UserError: no row is left to train on.
    """
    given = [(word or "").strip() and word for word in table["split"].to_pylist()]
    word_of_row = np.array([word or "train" for word in given], dtype=object)
    notes = []
    without = sum(not word for word in given)
    if 0 < without < len(given):
        notes.append(f"{name}: {without:,} rows without a split are trained on")
    if strange := Counter(word_of_row[~np.isin(word_of_row, KNOWN)].tolist()):
        named = ", ".join(f"{count:,} whose split is {word!r}" for word, count in sorted(strange.items()))
        notes.append(f"{name}: rows left out: {named}; train, val and test are known")
    used = np.isin(word_of_row, ("train", "val"))
    unusable: dict[int, str] = {}
    for column in _REQUIRED:
        blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(table[column], "")), "").to_numpy(zero_copy_only=False)
        lacking = np.flatnonzero(blank & used)
        if len(lacking):
            notes.append(f"{name}: {len(lacking):,} rows left out that have no {column}; the first is row {lacking[0]}")
            unusable = dict.fromkeys(lacking.tolist(), f"no {column}") | unusable
    usable = np.ones(len(table), bool)
    usable[list(unusable)] = False
    train_rows = np.flatnonzero((word_of_row == "train") & usable)
    val_rows = np.flatnonzero((word_of_row == "val") & usable)
    if not len(train_rows):
        raise UserError("; ".join([f"--recordings: {name} has no row to train on, whose split is train", *notes]))
    return Splits(table.take(train_rows), table.take(val_rows), train_rows, val_rows, unusable, notes)


def listing(table: pa.Table, reasons: Mapping[int, str]) -> str:
    """Rows of a table as CSV: their number from 0, recording_id, path, split, and the reason for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LISTED)
    rows = sorted(reasons)
    for row, values in zip(rows, table.select(LISTED[1:4]).take(rows).to_pylist(), strict=True):
        writer.writerow([row, *values.values(), reasons[row]])
    return text.getvalue()
