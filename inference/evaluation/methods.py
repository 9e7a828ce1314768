"""The ways from a sound to a picture: the baselines, the student, and what no student can pass.

In the order of the papers: random projection, a mapping between the two text spaces, the zero-shot chain, a head on
the frozen encoder, the student, the student with the bridged query, and the ceiling: the true species' text as query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.evaluation import baselines, naming
from inference.match.bridge import bridged
from inference.match.gallery import SPECIES_TEXT_TYPE, Gallery
from songsight.metrics import unit

_QUERIES_PER_BLOCK = 4096

STUDENT = "distilled"
MAPPINGS = {
    "text_mapping": ("ridge", True),
    "text_mapping_uncentred": ("ridge", False),
    "text_mapping_orthogonal": ("orthogonal", True),
    "text_mapping_orthogonal_uncentred": ("orthogonal", False),
}
MAPPED = ("sci", "com", "taxon", "sci_com")
"""Types of the texts that mappings are fitted on."""


@dataclass(frozen=True)
class Models:
    """The text towers and temperatures of the two models.

    Attributes:
        base_text, teacher_text: texts to float32 [texts, width].
        log_scale, base_log_scale: log inverse temperatures of the student and of the base model's sounds.
    """

    base_text: Callable[[list[str]], np.ndarray]
    teacher_text: Callable[[list[str]], np.ndarray]
    log_scale: float
    base_log_scale: float


@dataclass(frozen=True)
class Recordings:
    """Embedded recordings: the queries, and what baselines and probes are fitted on.

    Attributes:
        vectors: by `embed.KINDS`, float32 [recordings, width].
        train, queries: rows of `vectors`: the training recordings (may be none) and the queries.
        species, recordists: of each, object [recordings]; a recordist is None where not known.
        train_text_ND: the teacher's embedding of each training recording's text, unit rows.
    """

    vectors: Mapping[str, np.ndarray]
    train: np.ndarray
    queries: np.ndarray
    species: np.ndarray
    recordists: np.ndarray
    train_text_ND: np.ndarray


@dataclass(frozen=True)
class Material:
    """What the methods make their queries of.

    Attributes:
        vectors, train, queries, train_text_ND: see `Recordings`.
        species_of_query: number of each query's species, into the names; int [queries].
        in_gallery: how many species the gallery has. They come first among the names; behind them those of recordings
            that it does not know, which can be named but not found.
        base_names_SB, teacher_names_SD: the two models' embeddings of the species, unit rows.
        base_texts, teacher_texts: the same by type of text.
        log_scale: the student's log inverse temperature.
    """

    vectors: Mapping[str, np.ndarray]
    train: np.ndarray
    queries: np.ndarray
    species_of_query: np.ndarray
    in_gallery: int
    base_names_SB: np.ndarray
    teacher_names_SD: np.ndarray
    base_texts: Mapping[str, np.ndarray]
    teacher_texts: Mapping[str, np.ndarray]
    train_text_ND: np.ndarray
    log_scale: float


def material(recordings: Recordings, names: Sequence[Mapping[str, Any]], gallery: Gallery, models: Models) -> Material:
    """Embeds the texts of the species.

    Args:
        recordings: the queries and the training recordings.
        names: rows with names and ranks: the gallery's species, in its order, then others that queries are of.
        gallery: whose species can be found.
        models: to embed texts with.
    """
    texts = naming.texts(names)
    base = {kind: unit(models.base_text(some)) for kind, some in texts.items()}
    teacher = {kind: models.teacher_text(some) for kind, some in texts.items()}
    in_gallery = len(gallery.name_vectors)
    number = {row["scientific_name"]: i for i, row in enumerate(names)}
    return Material(
        vectors=recordings.vectors,
        train=recordings.train,
        queries=recordings.queries,
        species_of_query=np.array([number[name] for name in recordings.species[recordings.queries]], np.int64),
        in_gallery=in_gallery,
        base_names_SB=unit(base["sci"] + base["com"]),
        teacher_names_SD=np.concatenate([gallery.name_vectors, teacher[SPECIES_TEXT_TYPE][in_gallery:]]),
        base_texts=base,
        teacher_texts=teacher,
        train_text_ND=recordings.train_text_ND,
        log_scale=models.log_scale,
    )


def ridges(material: Material) -> dict[str, float]:
    """The penalty of each mapping that has one, chosen by leaving each species' texts out: see `choose_ridge`."""
    base_TB, teacher_TD, species_T = _mapped(material)
    return {
        name: baselines.choose_ridge(base_TB, teacher_TD, species_T, centred)
        for name, (kind, centred) in MAPPINGS.items()
        if kind == "ridge"
    }


def _mapped(material: Material) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the base model's and the teacher's embeddings of the texts that mappings are fitted on, their species)."""
    own = slice(material.in_gallery)
    base, teacher = ([some[kind][own] for kind in MAPPED] for some in (material.base_texts, material.teacher_texts))
    return np.concatenate(base), np.concatenate(teacher), np.tile(np.arange(material.in_gallery), len(MAPPED))


def queries(
    material: Material, bridge: float, seed: int, ridge: Mapping[str, float]
) -> Iterator[tuple[str, np.ndarray]]:
    """The query vectors of each method, one method at a time: all of them at once may not fit into the memory.

    Args:
        material: what they are made of.
        bridge: weight of the species' texts in the bridged query, 0 to 1; see `inference.match.bridge`.
        seed: of the random projection and the frozen head.
        ridge: of `ridges`.

    Yields:
        (name, float32 [queries, teacher's width] of unit rows), in the papers' order.
    """
    pooled, joint = material.vectors["base_pooled"], material.vectors["base_joint"]
    heard_QB = joint[material.queries]
    # A mean of sounds that are no queries, where there are such: a query is answered without knowing the others.
    mean_B = joint[material.train].mean(axis=0) if len(material.train) else None
    width = material.teacher_names_SD.shape[1]
    base_TB, teacher_TD, _ = _mapped(material)
    yield "random_projection", baselines.random_projection(pooled[material.queries], width, seed)
    for name, (kind, centred) in MAPPINGS.items():
        yield (
            name,
            baselines.text_mapping(
                heard_QB,
                base_TB,
                teacher_TD,
                ridge.get(name, 0.0),
                kind=kind,  # type: ignore[arg-type]
                centred=centred,
                audio_mean_B=mean_B,
            ),
        )
    shown_SB, shown_SD = (some[: material.in_gallery] for some in (material.base_names_SB, material.teacher_names_SD))
    yield "zero_shot_chain", baselines.zero_shot_chain(heard_QB, shown_SB, shown_SD)
    if len(material.train):
        yield (
            "frozen_head",
            baselines.frozen_head(pooled[material.train], material.train_text_ND, pooled[material.queries], seed),
        )
    student_QD = material.vectors["student"][material.queries]
    yield STUDENT, student_QD
    yield "distilled_bridged", bridge_in_blocks(student_QD, shown_SD, bridge, material.log_scale)
    yield "ceiling", material.teacher_names_SD[material.species_of_query]


def bridge_in_blocks(queries_QD: np.ndarray, names_SD: np.ndarray, weight: float, log_scale: float) -> np.ndarray:
    """`bridge.bridged` at the student's own temperature, exp(−log_scale), without all queries × species at once."""
    temperature = float(np.exp(-log_scale))
    parts = [
        bridged(queries_QD[start : start + _QUERIES_PER_BLOCK], names_SD, weight, temperature)
        for start in range(0, len(queries_QD), _QUERIES_PER_BLOCK)
    ]
    return np.concatenate(parts) if parts else queries_QD
