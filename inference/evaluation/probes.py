"""The audio embedding before and after distillation: what it names from text, and what neighbours and a probe name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from inference.evaluation import table
from songsight.metrics import accuracy, probes
from songsight.metrics.bootstrap import Bootstrap, Over
from songsight.metrics.calibration_error import brier_score, calibration_gaps, error_interval

SHOWN = {
    "encoder": "audio embedding",
    "texts": "asked with",
    "zero_shot_top1": "zero-shot top-1",
    "zero_shot_top5": "top-5",
    "knn": "kNN",
    "knn_other_recordists": "kNN, other recordists",
    "linear_probe": "linear probe",
    "calibration_error": "ECE",
    "brier": "Brier",
}
_MEASURES = tuple(SHOWN)[2:]
_QUERIES_PER_BLOCK = 4096


@dataclass(frozen=True)
class Encoder:
    """One encoder's vectors.

    Attributes:
        train_NP, query_QP: pooled audio embeddings of the training recordings and the queries.
        audio_QD: the queries in the encoder's audio–text space.
        names_SD: its texts of the species there.
        log_scale: its log inverse temperature.
        texts: what `names_SD` are embeddings of, in words.
    """

    train_NP: np.ndarray
    query_QP: np.ndarray
    audio_QD: np.ndarray
    names_SD: np.ndarray
    log_scale: float
    texts: str = ""


@dataclass(frozen=True)
class Labels:
    """Who sings, and who recorded it.

    Attributes:
        train, queries: species of the training recordings and the queries, [n] and [queries].
        names: species of the texts, [species].
        train_recordists, query_recordists: None where not known.
    """

    train: np.ndarray
    queries: np.ndarray
    names: np.ndarray
    train_recordists: np.ndarray
    query_recordists: np.ndarray


@dataclass(frozen=True)
class QueryResults:
    """What each query came to with one encoder.

    Attributes:
        texts: of the `Encoder`.
        columns: by measure, float64 [queries]: 0 or 1 for what is right or wrong; measures that cannot be taken are
            left out.
        gaps_QB: `calibration_gaps` of the most probable species, float64 [queries, bins].
    """

    texts: str
    columns: dict[str, np.ndarray]
    gaps_QB: np.ndarray


def query_results(encoder: Encoder, labels: Labels, k: int) -> QueryResults:
    """Asks each query of one encoder.

    `zero_shot_top1` and `_top5` over the texts of all species; `knn` and `linear_probe` on the pooled embedding, fitted
    on the training recordings; `knn_other_recordists` without neighbours by a query's own recordist, where more than
    one is known; `brier` and the gaps of the calibration error of the probabilities that the texts get at the encoder's
    own temperature. Formulas and sources are those of `songsight.metrics`.
    """
    first_Q = accuracy.name_rank(encoder.audio_QD, encoder.names_SD, labels.queries, labels.names)
    columns: dict[str, np.ndarray] = {"zero_shot_top1": first_Q <= 1, "zero_shot_top5": first_Q <= 5}
    if len(encoder.train_NP):
        vectors = (encoder.train_NP, encoder.query_QP, labels.train, labels.queries)
        columns["knn"] = probes.knn_right(*vectors, k)
        if len({name for name in labels.train_recordists if name}) > 1:
            recordists = (labels.train_recordists, labels.query_recordists)
            columns["knn_other_recordists"] = probes.knn_right(*vectors, k, *recordists)
        named = probes.linear_probe(encoder.train_NP, encoder.query_QP, labels.train)
        columns["linear_probe"] = named.astype(str) == labels.queries.astype(str)
    number = {name: i for i, name in enumerate(labels.names)}
    own_Q = np.array([number.get(name, -1) for name in labels.queries])
    brier, confidence, right = [], [], []
    for start in range(0, len(own_Q), _QUERIES_PER_BLOCK):
        part = slice(start, start + _QUERIES_PER_BLOCK)
        share_QS = accuracy.probabilities(encoder.audio_QD[part], encoder.names_SD, encoder.log_scale)
        brier.append(brier_score(share_QS, own_Q[part]))
        confidence.append(share_QS.max(axis=1))
        right.append(share_QS.argmax(axis=1) == own_Q[part])
    columns["brier"] = np.concatenate(brier)
    gaps_QB = calibration_gaps(np.concatenate(confidence), np.concatenate(right))
    return QueryResults(encoder.texts, {name: np.asarray(some, np.float64) for name, some in columns.items()}, gaps_QB)


def rows(encoders: Mapping[str, QueryResults], boot: Bootstrap) -> list[table.Row]:
    """A row an encoder: the means of its queries' results and the calibration error (15 bins), with intervals.

    Returns:
        `encoder`, `texts` and the measures as in `table.rows`; what cannot be measured is None.
    """
    made = []
    for name, one in encoders.items():
        real = {measure: some for measure, some in one.columns.items() if np.isfinite(some).any()}
        row: table.Row = {"encoder": name, "texts": one.texts} | dict.fromkeys(_MEASURES)
        made.append(row | table.figures(real, boot) | _error(one.gaps_QB, boot))
    return made


def _error(gaps_QB: np.ndarray, boot: Bootstrap) -> dict[str, float]:
    """`calibration_error` with its intervals."""
    point_B = boot.point(gaps_QB)
    found = {"calibration_error": float(np.abs(point_B).sum())}
    ways: dict[str, Over] = {"": "recordings", "species_": "species"}
    for prefix, over in ways.items():
        units = float(boot.units(gaps_QB[:, :1], over=over)[0])
        low, high = error_interval(point_B, boot.draws(gaps_QB, over=over), units)
        found |= {f"calibration_error_{prefix}low": low, f"calibration_error_{prefix}high": high}
    return found
