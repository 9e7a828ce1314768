"""Sounds with one label find photographs: the same tables as of any recordings and gallery, at the level of files.

A file's vector is the mean of its windows' (see `naming`); queries are the test files whose species the gallery shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference.benchmarks.scores import Embed, Units
from inference.benchmarks.task import Labelled
from inference.evaluation import measured, methods, naming, probes
from inference.match.gallery import Gallery
from songsight.metrics import unit
from songsight.models import prompts
from songsight.store import tables


@dataclass(frozen=True)
class Models:
    """What retrieval asks of the models besides the units' vectors.

    Attributes:
        base_text, teacher_text: texts to float32 [texts, width].
        log_scale, base_log_scale: log inverse temperatures of the student and of the base model's sounds.
    """

    base_text: Embed
    teacher_text: Embed
    log_scale: float
    base_log_scale: float


def asked(task: Labelled, found: Units, gallery: Gallery) -> np.ndarray:
    """The units that are queries: bool [units]; none where the benchmark has several labels a unit."""
    if task.several:
        return np.zeros(len(found.names), bool)
    shown = set(gallery.of_split("test").species)
    return (found.split == "test") & np.array([name in shown for name in _species(task, found)], bool)


def evaluation(
    task: Labelled,
    found: Units,
    gallery: Gallery,
    models: Models,
    bridge: float,
    k: int,
    resamples: int,
    seed: int,
) -> measured.Evaluation:
    """Measures the queries as `songsight evaluate` measures recordings.

    Args:
        task: a benchmark of one label a unit.
        found: its units, some of which are `asked`.
        gallery: of the teacher's; its `test` photographs are asked for, all where it knows no such split.
        models: see there.
        bridge, k, resamples, seed: options of `songsight evaluate`.
    """
    species = _species(task, found)
    queries = np.flatnonzero(asked(task, found, gallery))
    train = np.flatnonzero((found.split == "train") & (species != ""))
    shown = gallery.names.to_pylist()
    names = np.array([row["scientific_name"] for row in shown], dtype=object)
    number = {name: i for i, name in enumerate(names)}
    asked_by = {kind: [prompts.text(row, kind) for row in shown] for kind in naming.TEXT_TYPES}
    base_texts = {kind: unit(models.base_text(some)) for kind, some in asked_by.items()}
    row_of = {row["scientific_name"]: row for row in task.classes}
    trained = list(dict.fromkeys(species[train]))
    texts = [prompts.text(row_of[name], "taxon_com") for name in trained]
    text_ND = models.teacher_text(texts) if texts else gallery.name_vectors[:0]
    place = {name: i for i, name in enumerate(trained)}
    material = methods.Material(
        vectors=found.vectors | {kind: unit(found.vectors[kind]) for kind in ("base_joint", "student")},
        train=train,
        asked=queries,
        species_of_query=np.array([number[name] for name in species[queries]], np.int64),
        in_gallery=len(names),
        base_names_SB=unit(base_texts["sci"] + base_texts["com"]),
        teacher_names_SD=gallery.name_vectors,
        base_texts=base_texts,
        teacher_texts={kind: models.teacher_text(some) for kind, some in asked_by.items()},
        train_text_ND=text_ND[np.array([place[name] for name in species[train]], np.int64)],
        log_scale=models.log_scale,
    )
    recordists = found.recordist
    return measured.measure(
        material,
        probes.Labels(species[train], species[queries], names, recordists[train], recordists[queries]),
        gallery.of_split("test"),
        models.base_log_scale,
        [{name: row.get(name) for name in ("scientific_name", *tables.RANKS)} for row in task.classes if _named(row)],
        bridge,
        k,
        resamples,
        seed,
    )


def _named(row: dict) -> bool:
    return row["scientific_name"] is not None


def _species(task: Labelled, found: Units) -> np.ndarray:
    """Scientific name of each unit's class, "" where it has none: object [units]."""
    names = np.array([row["scientific_name"] or "" for row in task.classes], dtype=object)
    return names[found.classes()]
