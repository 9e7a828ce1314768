"""The same recordings, damaged: noise, a low sample rate, MP3, a cheap microphone's band.

`distortions` says what each damage is. `mAP_lost` and `top1_lost` are what it costs, recording by recording (paired).
"""

from __future__ import annotations

import numpy as np

from inference.checks.distortions import STANDARD, Distortion
from inference.checks.subject import Rows, Subject, Vectors, figures, top


def tables(subject: Subject, distortions: tuple[Distortion, ...] = STANDARD) -> dict[str, Rows]:
    """A row for the clean recordings and one a distortion."""
    assert subject.embed_distorted is not None
    clean = _columns(subject, subject.vectors)
    rows: Rows = [{"recordings": "as they are"} | figures(clean, subject.species, subject.resamples, subject.seed)]
    for distortion, heard in zip(distortions, subject.embed_distorted(distortions), strict=True):
        hurt = _columns(subject, heard)
        lost = {"mAP_lost": clean["mAP"] - hurt["mAP"], "top1_lost": clean["zero_shot_top1"] - hurt["zero_shot_top1"]}
        found = figures(hurt | lost, subject.species, subject.resamples, subject.seed)
        rows.append({"recordings": distortion.name} | found)
    return {"robustness": rows}


def _columns(subject: Subject, heard: Vectors) -> dict[str, np.ndarray]:
    first = subject.name_rank(heard["student"], subject.name_vectors)
    base = subject.name_rank(heard["base_joint"], subject.base_names)
    return {
        "mAP": subject.retrieval(heard["student"]),
        "zero_shot_top1": top(first, 1),
        "zero_shot_top5": top(first, 5),
        "base_zero_shot_top1": top(base, 1),
    }
