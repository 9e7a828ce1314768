"""The tables of an evaluation: which recordings are embedded, and which species are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from distill.data import text_bank
from distill.data.text_bank import TextPlan
from inference.match import gallery as galleries
from inference.match.gallery import SPECIES_TEXT_TYPE, Gallery
from jobs.shared import options as opts
from songsight.datasets import taxonomy
from songsight.errors import UserError
from songsight.store import tables

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """Which sounds are to find which photographs.

    Attributes:
        recordings: URL of the recordings table.
        gallery: URL of the gallery.
        taxonomy: URL of a table of names and ranks that the two may lack; None for none.
        most_train: training recordings to embed at most, drawn once.
        seed: of the draw.
    """

    recordings: str
    gallery: str
    taxonomy: str | None
    most_train: int
    seed: int


@dataclass(frozen=True)
class Inputs:
    """The tables of a question.

    Attributes:
        question: that they answer to.
        recordings: those to embed, a `tables.RECORDINGS` table: first of training, then of test.
        is_train: bool [recordings]; the others are queries.
        without_split: how many rows were left out: they have no split, beside rows that have one.
        gallery: the photographs.
        names: rows with names and ranks of species: the gallery's, in its order, then those of queries that it lacks.
        texts: the text of each recording, and its species.
    """

    question: Question
    recordings: pa.Table
    is_train: np.ndarray
    without_split: int
    gallery: Gallery
    names: list[Row]
    texts: TextPlan


def read(question: Question) -> Inputs:
    """Reads the tables and checks that the one asks for what the other has.

    Raises:
        UserError: naming the table and what it should have.
    """
    url = question.recordings
    table = tables.read_table(url, "--recordings", ("path", "scientific_name"), tables.RECORDINGS)
    gallery = galleries.read(question.gallery)
    table, names = _with_taxonomy(table, gallery.names, question.taxonomy)
    if missing := table["scientific_name"].null_count:
        raise UserError(f"--recordings: {url} has {missing} rows without scientific_name")
    table, is_train, without_split = _split(table, question)
    queries = table.filter(~is_train)
    if not set(queries["scientific_name"].to_pylist()) & set(gallery.of_split("test").species):
        raise UserError(f"--recordings: no test recording of {url} is of a species that {question.gallery} shows")
    names = _completed(names + _not_in_gallery(queries, names), table)
    texts = text_bank.plan(table, {SPECIES_TEXT_TYPE: 1.0})
    return Inputs(question, table, is_train, without_split, gallery, names, texts)


def _with_taxonomy(table: pa.Table, names: pa.Table, url: str | None) -> tuple[pa.Table, list[Row]]:
    """The recordings and the gallery's species, with the names and ranks of `--taxonomy` where they lack them."""
    if not url:
        return table, names.to_pylist()
    taxa = taxonomy.read(url)
    (table, unknown), (names, unshown) = taxonomy.fill(table, taxa), taxonomy.fill(names, taxa)
    missing = sorted({*unknown, *unshown})
    species = {*table["scientific_name"].to_pylist(), *names["scientific_name"].to_pylist()}
    if len(missing) >= len(species):
        raise UserError(f"--taxonomy: {url} has none of the species of the recordings and the gallery")
    if missing:
        opts.note(f"--taxonomy: {len(missing)} species are not in {url}, such as {missing[0]}")
    return table, names.to_pylist()


def _split(table: pa.Table, question: Question) -> tuple[pa.Table, np.ndarray, int]:
    """The rows to embed, a mask of those of training, and how many rows beside them have no split.

    A table without splits is all test. Beside rows that have one a row without is left out: `songsight distill` trains
    on it.
    """
    split = np.array([value or "" for value in table["split"].to_pylist()])
    if not (split != "").any():
        split[:] = "test"
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    if not len(test):
        raise UserError(f"--recordings: {question.recordings} has no rows whose split is test")
    if len(train) > question.most_train:
        train = np.sort(np.random.default_rng(question.seed).permutation(train)[: question.most_train])
    rows = np.concatenate([train, test])
    return table.take(rows), np.arange(len(rows)) < len(train), int((split == "").sum())


def _not_in_gallery(queries: pa.Table, names: list[Row]) -> list[Row]:
    """Empty rows for the species of queries that are not among the names, sorted."""
    known = {row["scientific_name"] for row in names}
    empty = dict.fromkeys(["common_name", *tables.RANKS])
    species = sorted({*queries["scientific_name"].to_pylist()} - known)
    return [{"scientific_name": name} | empty for name in species]


def _completed(names: list[Row], recordings: pa.Table) -> list[Row]:
    """The species with the common names and ranks that they lack, as the recordings have them."""
    known: dict[str, Row] = {}
    for row in recordings.select(["scientific_name", "common_name", *tables.RANKS]).to_pylist():
        own = known.setdefault(row["scientific_name"], {})
        for key, value in row.items():
            if value:
                own.setdefault(key, value)
    return [
        {key: value or known.get(row["scientific_name"], {}).get(key) for key, value in row.items()} for row in names
    ]


def recording_ids(table: pa.Table) -> list[str]:
    """What each recording is known by in another evaluation: its id, or its path and start."""
    rows = table.select(["recording_id", "path", "start_s"]).to_pylist()
    ids = [row["recording_id"] or row["path"] for row in rows]
    if len(set(ids)) == len(ids):
        return ids
    return [f"{name}@{row['start_s'] or 0:g}" for name, row in zip(ids, rows, strict=True)]
