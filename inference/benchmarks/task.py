"""What a benchmark asks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from songsight.datasets import files
from songsight.datasets.taxonomy import Taxonomy, name_key
from songsight.store import tables

CLIPS = pa.schema(
    [
        pa.field("path", pa.string()),  # absolute, or a URL
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),  # null: to the end of the file
        pa.field("unit", pa.string()),  # clips of one unit, such as a file's windows, are scored together
        pa.field("recording", pa.string()),  # what the unit was cut from: its units are heard, or drawn, together
        pa.field("labels", pa.list_(pa.string())),  # of the unit; empty: nothing is there
        pa.field("split", pa.string()),  # train, val or test
        pa.field("recordist", pa.string()),  # null where not known
    ]
)


@dataclass(frozen=True)
class Ask:
    """What the user said of a benchmark.

    Attributes:
        data: its folder or URL.
        parts: the benchmark's own parts to take; all of them if none is named.
        taxonomy: names and ranks of species and their codes.
        annotations, species_column: of `raven`, see `inference.truth.annotations`.
        window_s: the length of a window where the benchmark does not say it, in seconds.
        hop_s: from one window's beginning to the next one's; the window's length if None.
        unpack: folder or URL for sounds that a benchmark keeps inside its tables.
    """

    data: str
    parts: Sequence[str] = ()
    taxonomy: Taxonomy | None = None
    annotations: str | None = None
    species_column: str | None = None
    window_s: float = 5.0
    hop_s: float | None = None
    unpack: str | None = None


@dataclass(frozen=True)
class Pair:
    """Sound is to find photographs: `recordings` and `images` are the two tables, with absolute paths."""

    recordings: pa.Table
    images: pa.Table


@dataclass(frozen=True)
class Labelled:
    """Sound is to be named.

    Attributes:
        name: of the benchmark's part, for the tables.
        clips: `CLIPS`.
        classes: one row a label: `label`, and `scientific_name`, `common_name` and the ranks where they are known. A
            class without a `scientific_name` cannot be asked for by text.
        several: whether a unit may have any number of labels (a soundscape's window) or has exactly one.
        averaged: the labels over which measures are averaged; all that are in the test set if None.
        absent_counts: whether a class that is in no test unit counts 0 in `mAP`, as in BEANS.
        counts: what of the test set is left out, by the name of the table's column.
        notes: what the user should know of how the benchmark was read.
    """

    name: str
    clips: pa.Table
    classes: list[dict[str, Any]]
    several: bool
    averaged: frozenset[str] | None = None
    absent_counts: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def clips(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """`CLIPS` of rows."""
    return pa.Table.from_pylist([dict(row) for row in rows], CLIPS)


def absolute(folder: files.Folder, path: str) -> str:
    """A path in a data set's folder, from anywhere."""
    return folder.place(folder.locate(path))


def class_row(label: str, taxonomy: Taxonomy | None = None, common: str | None = None) -> dict[str, Any]:
    """A class with what a taxonomy knows of its label: a code, a scientific or a common name.

    Args:
        label: the benchmark's own.
        taxonomy: if there is one.
        common: what to call it where the taxonomy does not know it; None for nothing.
    """
    empty = dict.fromkeys(["scientific_name", "common_name", *tables.RANKS])
    key = name_key(label)
    entry = None
    if taxonomy is not None:
        entry = (
            taxonomy.by_code.get(label)
            or (taxonomy.by_scientific.get(key) if key else None)
            or (taxonomy.by_common.get(key) if key else None)
        )
    named: dict[str, Any] = dict(entry) if entry else {}
    if not named and common:
        # A text tower takes any name: where the scientific one is not known, the common one stands for it.
        named = {"scientific_name": common, "common_name": common}
    return empty | {name: value for name, value in named.items() if name in empty} | {"label": label}
