"""Which rows of the recordings table an evaluation takes, and which species it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from jobs.evaluate import Options


def split_rows(table: pa.Table, options: Options) -> tuple[pa.Table, np.ndarray, np.ndarray, int]:
    """The rows to embed, masks of what is training and what is test, and how many rows beside them have no split.

    A table without splits is all test. Beside rows that have one a row without is left out: `songsight distill` trains
    on it.
    """
    import numpy as np

    split = np.array([value or "" for value in table["split"].to_pylist()])
    if not (split != "").any():
        split[:] = "test"
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    if not len(test):
        raise UserError(f"--recordings: {options.recordings} has no rows whose split is test")
    if len(train) > options.train_recordings:
        train = np.sort(np.random.default_rng(options.seed).permutation(train)[: options.train_recordings])
    rows = np.concatenate([train, test])
    is_train = np.arange(len(rows)) < len(train)
    return table.take(rows), is_train, ~is_train, int((split == "").sum())


def with_taxonomy(table: pa.Table, names: pa.Table, options: Options) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The recordings and the gallery's species, with the names and ranks of `--taxonomy` where they lack them.

    Raises:
        UserError: the taxonomy knows none of the species.
    """
    from songsight.datasets import taxonomy

    if not options.taxonomy:
        return table, names.to_pylist()
    taxa = taxonomy.read(options.taxonomy)
    (table, unknown), (names, unshown) = taxonomy.fill(table, taxa), taxonomy.fill(names, taxa)
    missing = sorted({*unknown, *unshown})
    species = {*table["scientific_name"].to_pylist(), *names["scientific_name"].to_pylist()}
    if len(missing) >= len(species):
        raise UserError(f"--taxonomy: {options.taxonomy} has none of the species of the recordings and the gallery")
    if missing:
        opts.note(f"--taxonomy: {len(missing)} species are not in {options.taxonomy}, such as {missing[0]}")
    return table, names.to_pylist()


def strangers(tested: pa.Table, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Empty rows for the species of recordings that are not among those known, sorted."""
    from songsight.store import tables

    there = {row["scientific_name"] for row in known}
    empty = dict.fromkeys(["common_name", *tables.RANKS])
    tested_names = sorted({*tested["scientific_name"].to_pylist()})
    return [{"scientific_name": name} | empty for name in tested_names if name not in there]


def recording_ids(table: Any) -> list[str]:
    """What each recording is known by in another evaluation: its id, or its path and start."""
    rows = table.select(["recording_id", "path", "start_s"]).to_pylist()
    ids = [row["recording_id"] or row["path"] for row in rows]
    if len(set(ids)) == len(ids):
        return ids
    return [f"{name}@{row['start_s'] or 0:g}" for name, row in zip(ids, rows, strict=True)]
