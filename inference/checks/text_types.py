"""Which text: scientific, common or taxonomic names, and the first two with the common name.

The ablation of arXiv 2602.00681: the same vectors are asked with each type of text. `distilled` is asked with the
teacher's text tower, `base` with its own. Beside naming sounds, each type's text finds recordings (`text_to_audio_mAP`)
and, in the teacher's own space, photographs (`text_to_image_mAP`, the ceiling of retrieval with that text); both are
means over the species whose recordings are asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inference.checks.subject import Rows, Subject, figures, top
from songsight.metrics import unit
from songsight.metrics.retrieval import retrieve
from songsight.models import prompts


def tables(subject: Subject) -> dict[str, Rows]:
    """A row a text type and model."""
    rows: Rows = []
    asked = np.unique(subject.species_number)
    for kind in (kind for kind in prompts.TEXT_TYPES if kind != "caption"):
        texts = [prompts.text(row, kind) for row in subject.names]
        spaces = {
            "base": (unit(subject.vectors["base_joint"]), unit(subject.base_text(texts))),
            "distilled": (subject.vectors["student"], subject.teacher_text(texts)),
        }
        for model, (audio_QD, names_SD) in spaces.items():
            first = subject.name_rank(audio_QD, names_SD)
            row: dict[str, Any] = {"text_type": kind, "model": model}
            row |= figures(
                {"zero_shot_top1": top(first, 1), "zero_shot_top5": top(first, 5)},
                subject.species,
                subject.resamples,
                subject.seed,
            )
            species, texts_SD = subject.name_species[asked], names_SD[asked]
            found = {"text_to_audio_mAP": retrieve(texts_SD, audio_QD, species, subject.species).average_precision}
            if model == "distilled":
                shown = subject.photographs
                ranked = retrieve(texts_SD, shown.vectors, species, shown.species)
                found["text_to_image_mAP"] = ranked.average_precision
            rows.append(row | figures(found, species, subject.resamples, subject.seed, species_too=False))
    return {"text_types": rows}
