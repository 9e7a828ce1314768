"""Which rows of a recordings table are trained on and which are held out to look at, and which are neither, and why.

Rows whose split is `train`, or that have none, are trained on; `val` is looked at, `test` never touched. Rows with
another word, or without a path or a name, are left out, and how many there are is said.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from songsight.errors import UserError
from songsight.store import tables

KNOWN = ("train", "val", "test")
LISTED = ("row", "recording_id", "path", "split", "reason")
_REQUIRED = ("path", "scientific_name")


@dataclass(frozen=True)
class Splits:
    """A recordings table, split.

    Attributes:
        url: of the table, which the recordings' paths are relative to.
        table: all its rows.
        train, val: rows to use, of the table's columns.
        train_rows, val_rows: which rows of the table they are, int64, from 0.
        unusable: row of the table → why it was left out of `train` or `val`: no path, or no scientific_name.
        notes: one line for a person on each thing that was left out.
    """

    url: str
    table: pa.Table
    train: pa.Table
    val: pa.Table
    train_rows: np.ndarray
    val_rows: np.ndarray
    unusable: dict[int, str]
    notes: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the table, to train on and held out."""
        return {"recordings": len(self.table), "train": len(self.train), "val": len(self.val)}


def read(url: str) -> pa.Table:
    """Reads the table of `--recordings`.

    Raises:
        UserError: it is not there, or has no `path` or `scientific_name`.
    """
    return tables.read_table(url, "--recordings", _REQUIRED, tables.RECORDINGS)


def for_training(table: pa.Table, url: str, batch_size: int, eval_recordings: int, seed: int) -> Splits:
    """The rows to train on, and at most `eval_recordings` held-out rows, drawn by the seed.

    Raises:
        UserError: fewer rows to train on than a batch needs.
    """
    found = split(table, url)
    if batch_size > len(found.train):
        raise UserError(
            f"--batch-size {batch_size} is more than the {len(found.train)} rows of {url} whose split is train"
        )
    if len(found.val) > eval_recordings:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(found.val))[:eval_recordings])
        found = dataclasses.replace(found, val=found.val.take(drawn), val_rows=found.val_rows[drawn])
    return found


def split(table: pa.Table, url: str) -> Splits:
    """Splits a `tables.RECORDINGS` table.

    Args:
        table: the recordings.
        url: where it was read, for the lines too.

    Raises:
        UserError: no row is left to train on.
    """
    given = [(word or "").strip() and word for word in table["split"].to_pylist()]
    word_of_row = np.array([word or "train" for word in given], dtype=object)
    notes = []
    without = sum(not word for word in given)
    if 0 < without < len(given):
        notes.append(f"{url}: {without:,} rows without a split are trained on")
    if strange := Counter(word_of_row[~np.isin(word_of_row, KNOWN)].tolist()):
        named = ", ".join(f"{count:,} whose split is {word!r}" for word, count in sorted(strange.items()))
        notes.append(f"{url}: rows left out: {named}; train, val and test are known")
    used = np.isin(word_of_row, ("train", "val"))
    unusable: dict[int, str] = {}
    for column in _REQUIRED:
        blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(table[column], "")), "").to_numpy(zero_copy_only=False)
        lacking = np.flatnonzero(blank & used)
        if len(lacking):
            notes.append(f"{url}: {len(lacking):,} rows left out that have no {column}; the first is row {lacking[0]}")
            unusable = dict.fromkeys(lacking.tolist(), f"no {column}") | unusable
    usable = np.ones(len(table), bool)
    usable[list(unusable)] = False
    train_rows = np.flatnonzero((word_of_row == "train") & usable)
    val_rows = np.flatnonzero((word_of_row == "val") & usable)
    if not len(train_rows):
        raise UserError("; ".join([f"--recordings: {url} has no row to train on, whose split is train", *notes]))
    return Splits(url, table, table.take(train_rows), table.take(val_rows), train_rows, val_rows, unusable, notes)


def listing(table: pa.Table, reasons: Mapping[int, str]) -> str:
    """Rows of a table as CSV: their number from 0, recording_id, path, split, and the reason for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LISTED)
    rows = sorted(reasons)
    for row, values in zip(rows, table.select(LISTED[1:4]).take(rows).to_pylist(), strict=True):
        writer.writerow([row, *values.values(), reasons[row]])
    return text.getvalue()
