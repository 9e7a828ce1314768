"""Data sets, each in the layout it was published in, as the recordings and images tables.

In: a data set's folder on any filesystem. Out: an Arrow table with the columns of `songsight.store.tables` that the
data set can fill, its other columns behind them, and `path` relative to that folder.

Read `files` first (what a folder and a table in it are), then any adapter: `folder`, `csv_file`, `inatsounds`, `ssw60`,
`xeno_canto`, `animalspeak`, `birdset`, `inat_photos`. `taxonomy` fills in ranks and names; `assemble` sorts out missing
files, splits and ids, and makes the table that is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from songsight.datasets import (
    animalspeak,
    birdset,
    csv_file,
    files,
    folder,
    inat_photos,
    inatsounds,
    ssw60,
    taxonomy,
    xeno_canto,
)


@dataclass(frozen=True)
class Source:
    """An adapter and what it can be asked."""

    read: Callable[..., pa.Table]
    tables: tuple[str, ...] = ("recordings",)
    """The tables it can make; the first is made unless another is asked for."""
    asks: tuple[str, ...] = ()
    """The options of `songsight manifest` that `read` takes behind the folder, besides those that every source has."""
    notes: Callable[[files.Folder, pa.Table, taxonomy.Taxonomy | None], list[str]] | None = None
    """What the user should know of how the rows were read: a line each."""
    lists_files: bool = True
    """Whether the data set's files lie where they can be listed."""


BOTH = ("recordings", "images")

SOURCES = {
    "folder": Source(folder.read, BOTH, ("table",)),
    "csv": Source(csv_file.read, BOTH, ("table", "columns")),
    "inatsounds": Source(inatsounds.read, asks=("parts",)),
    "ssw60": Source(ssw60.read, BOTH, ("table", "parts"), notes=ssw60.notes),
    "xeno-canto": Source(xeno_canto.read),
    "animalspeak": Source(animalspeak.read, asks=("parts",)),
    "birdset": Source(birdset.read, asks=("parts", "taxonomy"), notes=birdset.notes),
    "inat-photos": Source(
        inat_photos.read,
        ("images",),
        ("species_list", "licenses", "quality_grade", "per_species"),
        lists_files=False,
    ),
}
