"""The ways from a sound to a picture: the baselines, the student, and what no student can pass.

In the order of the papers: random projection, a mapping between the two text spaces, the zero-shot chain, a head on
the frozen encoder, the student, the student with the bridged query, and the ceiling: the true species' text as query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distill import baselines
from inference.bridge import bridged

_QUERIES_PER_BLOCK = 4096

STUDENT = "distilled"
MAPPINGS = {
    "text_mapping": ("ridge", True),
    "text_mapping_uncentred": ("ridge", False),
    "text_mapping_orthogonal": ("orthogonal", True),
    "text_mapping_orthogonal_uncentred": ("orthogonal", False),
}


@dataclass(frozen=True)
class Material:
    """What the methods make their queries of.

    Attributes:
        vectors: by `embedding.KINDS`, float32 [recordings, width].
        train, asked: rows of `vectors`: the training recordings (may be none) and the queries.
        species_of_query: number of each query's species, into the names; int [queries].
        base_names_SB, teacher_names_SD: the two models' embeddings of the gallery's species, unit rows.
        base_texts_TB, teacher_texts_TD: of the texts that the mappings are fitted on, unit rows.
        train_text_ND: the teacher's embedding of each training recording's text, unit rows.
        log_scale: the student's log inverse temperature.
    """

    vectors: dict[str, np.ndarray]
    train: np.ndarray
    asked: np.ndarray
    species_of_query: np.ndarray
    base_names_SB: np.ndarray
    teacher_names_SD: np.ndarray
    base_texts_TB: np.ndarray
    teacher_texts_TD: np.ndarray
    train_text_ND: np.ndarray
    log_scale: float


def queries(material: Material, bridge: float, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The query vectors of each method, one method at a time: all of them at once may not fit into the memory.

    Args:
        material: what they are made of.
        bridge: weight of the species' texts in the bridged query, 0 to 1; see `inference.bridge`.
        seed: of the random projection and the frozen head.

    Yields:
        (name, float32 [queries, teacher's width] of unit rows), in the papers' order.
    """
    pooled, joint = material.vectors["base_pooled"], material.vectors["base_joint"]
    heard_QB = joint[material.asked]
    # A mean of sounds that are no queries, where there are such: a query is answered without knowing the others.
    mean_B = joint[material.train].mean(axis=0) if len(material.train) else None
    width = material.teacher_names_SD.shape[1]
    yield "random_projection", baselines.random_projection(pooled[material.asked], width, seed)
    for name, (kind, centred) in MAPPINGS.items():
        yield (
            name,
            baselines.text_mapping(
                heard_QB,
                material.base_texts_TB,
                material.teacher_texts_TD,
                kind=kind,  # type: ignore[arg-type]
                centred=centred,
                audio_mean_B=mean_B,
            ),
        )
    yield "zero_shot_chain", baselines.zero_shot_chain(heard_QB, material.base_names_SB, material.teacher_names_SD)
    if len(material.train):
        yield (
            "frozen_head",
            baselines.frozen_head(pooled[material.train], material.train_text_ND, pooled[material.asked], seed),
        )
    student_QD = material.vectors["student"][material.asked]
    yield STUDENT, student_QD
    yield "distilled_bridged", bridge_in_blocks(student_QD, material.teacher_names_SD, bridge, material.log_scale)
    yield "ceiling", material.teacher_names_SD[material.species_of_query]


def bridge_in_blocks(queries_QD: np.ndarray, names_SD: np.ndarray, weight: float, log_scale: float) -> np.ndarray:
    """`bridge.bridged` at the student's own temperature, exp(−log_scale), without all queries × species at once."""
    temperature = float(np.exp(-log_scale))
    parts = [
        bridged(queries_QD[start : start + _QUERIES_PER_BLOCK], names_SD, weight, temperature)
        for start in range(0, len(queries_QD), _QUERIES_PER_BLOCK)
    ]
    return np.concatenate(parts) if parts else queries_QD
