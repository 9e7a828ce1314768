"""Naming a sound by each type of text: scientific, common and taxonomic names, and the first two with the common name.

The zero-shot accuracies of arXiv 2602.00681 by text type. Both models are asked with the same texts: the base model
with its own text tower, the student with the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.evaluation import table
from songsight.metrics.accuracy import name_rank
from songsight.metrics.bootstrap import Bootstrap
from songsight.models import prompts

TEXT_TYPES = tuple(kind for kind in prompts.TEXT_TYPES if kind != "caption")
SHOWN = {
    "encoder": "audio embedding",
    "text_type": "texts",
    "zero_shot_top1": "zero-shot top-1",
    "zero_shot_top5": "top-5",
}
Columns = dict[tuple[str, str], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Space:
    """One encoder's audio–text space.

    Attributes:
        audio_QD: the queries, unit rows.
        texts: by text type, the embedding of each species' text, float32 [species, width], unit rows.
    """

    audio_QD: np.ndarray
    texts: Mapping[str, np.ndarray]


def texts(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The text of each row of names and ranks, by text type."""
    return {kind: [prompts.text(row, kind) for row in rows] for kind in TEXT_TYPES}


def columns(spaces: Mapping[str, Space], asked: np.ndarray, names: np.ndarray) -> Columns:
    """What each query came to, by encoder and text type: `zero_shot_top1` and `zero_shot_top5`, float64 [queries].

    Args:
        spaces: by encoder.
        asked: species of the queries, [queries].
        names: species of the texts, [species].
    """
    found: Columns = {}
    for encoder, space in spaces.items():
        for kind, names_SD in space.texts.items():
            first_Q = name_rank(space.audio_QD, names_SD, asked, names)
            found[encoder, kind] = {f"zero_shot_top{k}": (first_Q <= k).astype(np.float64) for k in (1, 5)}
    return found


def rows(found: Columns, boot: Bootstrap) -> list[table.Row]:
    """A row an encoder and text type: `encoder`, `text_type` and the means of the columns with intervals."""
    # All at once: each drawing anew of many recordings takes seconds.
    together = {f"{i} {name}": some for i, own in enumerate(found.values()) for name, some in own.items()}
    figures = table.figures(together, boot)
    made = []
    for i, (encoder, kind) in enumerate(found):
        own = {name.removeprefix(f"{i} "): value for name, value in figures.items() if name.startswith(f"{i} ")}
        made.append({"encoder": encoder, "text_type": kind} | own)
    return made
