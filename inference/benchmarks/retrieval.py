"""Sounds with one label find photographs: the same tables as of any recordings and gallery, at the level of files.

A file's vector is the mean of its windows' (see `naming`); queries are the test files whose species the gallery shows.
"""

from __future__ import annotations

import numpy as np

from inference.benchmarks.scores import Units
from inference.benchmarks.task import Labelled
from inference.evaluation import measured
from inference.evaluation.methods import Models, Recordings
from inference.match.gallery import Gallery
from songsight.metrics import unit
from songsight.models import prompts
from songsight.store import tables


def is_query(task: Labelled, found: Units, gallery: Gallery) -> np.ndarray:
    """The units that are queries: bool [units]; none where the benchmark has several labels a unit."""
    if task.several:
        return np.zeros(len(found.names), bool)
    shown = set(gallery.of_split("test").species)
    return (found.split == "test") & np.array([name in shown for name in _species(task, found)], bool)


def evaluation(
    task: Labelled, found: Units, gallery: Gallery, models: Models, settings: measured.Settings
) -> measured.Evaluation:
    """Measures the queries as `songsight evaluate` measures recordings.

    Args:
        task: a benchmark of one label a unit.
        found: its units, some of which are queries.
        gallery: of the teacher's; its `test` photographs are asked for, all where it knows no such split.
        models: of the units' vectors.
        settings: see there.
    """
    species = _species(task, found)
    train = np.flatnonzero((found.split == "train") & (species != ""))
    recordings = Recordings(
        vectors=found.vectors | {kind: unit(found.vectors[kind]) for kind in ("base_joint", "student")},
        train=train,
        queries=np.flatnonzero(is_query(task, found, gallery)),
        species=species,
        recordists=found.recordist,
        train_text_ND=_texts(task, species[train], models) if len(train) else gallery.name_vectors[:0],
    )
    columns = ("scientific_name", *tables.RANKS)
    rank_rows = [{name: row.get(name) for name in columns} for row in task.classes if row["scientific_name"]]
    return measured.measure(recordings, gallery.names.to_pylist(), gallery, models, rank_rows, settings)


def _texts(task: Labelled, species: np.ndarray, models: Models) -> np.ndarray:
    """The teacher's embedding of each species' text, float32 [species, width]."""
    row_of = {row["scientific_name"]: row for row in task.classes}
    place = {name: i for i, name in enumerate(dict.fromkeys(species))}
    vectors = models.teacher_text([prompts.text(row_of[name], "taxon_com") for name in place])
    return vectors[[place[name] for name in species]]


def _species(task: Labelled, found: Units) -> np.ndarray:
    """Scientific name of each unit's class, "" where it has none: object [units]."""
    names = np.array([row["scientific_name"] or "" for row in task.classes], dtype=object)
    return names[found.classes()]
