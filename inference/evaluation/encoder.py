"""The audio embedding before and after distillation: what it names from text, and what neighbours and a probe name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.metrics import naming, probes
from distill.metrics.bootstrap import Bootstrap, interval
from distill.metrics.calibration_error import brier_score, calibration_gaps
from inference.evaluation import table

SHOWN = {
    "encoder": "audio embedding",
    "zero_shot_top1": "zero-shot top-1",
    "zero_shot_top5": "top-5",
    "knn": "kNN",
    "knn_other_recordists": "kNN, other recordists",
    "linear_probe": "linear probe",
    "calibration_error": "ECE",
    "brier": "Brier",
}
_QUERIES_PER_BLOCK = 4096


@dataclass(frozen=True)
class Encoder:
    """One encoder's vectors.

    Attributes:
        train_NP, asked_QP: pooled audio embeddings of the training recordings and the queries.
        heard_QD: the queries in the encoder's audio–text space.
        names_SD: its texts of the species there.
        log_scale: its log inverse temperature.
    """

    train_NP: np.ndarray
    asked_QP: np.ndarray
    heard_QD: np.ndarray
    names_SD: np.ndarray
    log_scale: float


@dataclass(frozen=True)
class Labels:
    """Who sings, and who recorded it.

    Attributes:
        train, asked: species of the training recordings and the queries, [n] and [queries].
        names: species of the texts, [species].
        train_recordists, asked_recordists: None where not known.
    """

    train: np.ndarray
    asked: np.ndarray
    names: np.ndarray
    train_recordists: np.ndarray
    asked_recordists: np.ndarray


def rows(encoders: dict[str, Encoder], labels: Labels, boot: Bootstrap, k: int) -> list[table.Row]:
    """A row an encoder, with intervals as in `table.rows`.

    `zero_shot_top1` and `_top5` over the texts of all the gallery's species; `knn` and `linear_probe` on the pooled
    embedding, fitted on the training recordings; `knn_other_recordists` without neighbours by a query's own recordist,
    where more than one is known; `calibration_error` (15 bins) and `brier` of the probabilities that the texts get at
    the encoder's own temperature. What cannot be measured is None.
    """
    made = []
    for name, encoder in encoders.items():
        columns, gaps_QB = _columns(encoder, labels, k)
        values_QM = np.stack(list(columns.values()), axis=1)
        row: table.Row = {"encoder": name}
        found = dict(zip(columns, boot.point(values_QM), strict=True))
        error = float(np.abs(boot.point(gaps_QB)).sum())
        drawn = {
            "": (boot.draws(values_QM), boot.draws(gaps_QB)),
            "species_": (boot.draws(values_QM, over="species"), boot.draws(gaps_QB, over="species")),
        }
        for measure in SHOWN:
            if measure == "encoder":
                continue
            if measure != "calibration_error" and not np.isfinite(found.get(measure, np.nan)):
                row[measure] = None
                continue
            row[measure] = error if measure == "calibration_error" else float(found[measure])
            for prefix, (draws_RM, gaps_RB) in drawn.items():
                if measure == "calibration_error":
                    draws_R = np.abs(gaps_RB).sum(axis=1)
                else:
                    draws_R = draws_RM[:, list(columns).index(measure)]
                low, high = interval(draws_R[:, None])
                row[f"{measure}_{prefix}low"], row[f"{measure}_{prefix}high"] = float(low[0]), float(high[0])
        made.append(row)
    return made


def _columns(encoder: Encoder, labels: Labels, k: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(what each query came to, float64 [queries] by measure; by bin of confidence, right − confidence)."""
    first_Q = naming.name_rank(encoder.heard_QD, encoder.names_SD, labels.asked, labels.names)
    columns: dict[str, np.ndarray] = {"zero_shot_top1": first_Q <= 1, "zero_shot_top5": first_Q <= 5}
    if len(encoder.train_NP):
        vectors = (encoder.train_NP, encoder.asked_QP, labels.train, labels.asked)
        columns["knn"] = probes.knn_right(*vectors, k)
        if len({name for name in labels.train_recordists if name}) > 1:
            recordists = (labels.train_recordists, labels.asked_recordists)
            columns["knn_other_recordists"] = probes.knn_right(*vectors, k, *recordists)
        named = probes.linear_probe(encoder.train_NP, encoder.asked_QP, labels.train)
        columns["linear_probe"] = named.astype(str) == labels.asked.astype(str)
    number = {name: i for i, name in enumerate(labels.names)}
    own_Q = np.array([number.get(name, -1) for name in labels.asked])
    brier, confidence, right = [], [], []
    for start in range(0, len(own_Q), _QUERIES_PER_BLOCK):
        part = slice(start, start + _QUERIES_PER_BLOCK)
        share_QS = naming.probabilities(encoder.heard_QD[part], encoder.names_SD, encoder.log_scale)
        brier.append(brier_score(share_QS, own_Q[part]))
        confidence.append(share_QS.max(axis=1))
        right.append(share_QS.argmax(axis=1) == own_Q[part])
    columns["brier"] = np.concatenate(brier)
    gaps_QB = calibration_gaps(np.concatenate(confidence), np.concatenate(right))
    return {name: np.asarray(values, np.float64) for name, values in columns.items()}, gaps_QB
