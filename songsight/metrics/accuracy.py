"""Zero-shot naming: which species' text a vector lies nearest to."""

from __future__ import annotations

import numpy as np

from songsight.metrics.retrieval import retrieve


def name_rank(
    queries_QD: np.ndarray, names_SD: np.ndarray, query_species: np.ndarray, name_species: np.ndarray
) -> np.ndarray:
    """The place of a query's own species' text among all texts, 1 for the nearest.

    Returns:
        float64 [queries]; NaN for a query whose species has no text.
    """
    return retrieve(queries_QD, names_SD, query_species, name_species).first_rank


def naming_right(
    queries_QD: np.ndarray, names_SD: np.ndarray, query_species: np.ndarray, name_species: np.ndarray, top: int = 1
) -> np.ndarray:
    """Whether a query's own species' text is among its k nearest texts (top-k accuracy before it is averaged).

    arXiv 2103.00020 (CLIP), section 3.1. Of texts that are equally near the own one is counted last.

    Args:
        queries_QD, names_SD: unit vectors, float [queries, width] and [species, width].
        query_species, name_species: labels, [queries] and [species].
        top: k.

    Returns:
        bool [queries]; False for a query whose species has no text.
    """
    return name_rank(queries_QD, names_SD, query_species, name_species) <= top


def naming_accuracy(
    queries_QD: np.ndarray, names_SD: np.ndarray, query_species: np.ndarray, name_species: np.ndarray, top: int = 1
) -> float:
    """Zero-shot top-k accuracy, #{q: rank of its own species' text ≤ k} / Q: the mean of `naming_right`."""
    return float(naming_right(queries_QD, names_SD, query_species, name_species, top).mean())


def probabilities(queries_QD: np.ndarray, names_SD: np.ndarray, log_scale: float) -> np.ndarray:
    """softmax(exp(log_scale)·cosine) over the species' texts: float64 [queries, species], rows sum to 1.

    arXiv 2103.00020, section 3.1.2: the model's own temperature, as its loss learned it.
    """
    logits_QS = np.exp(log_scale) * (queries_QD @ names_SD.T).astype(np.float64)
    logits_QS -= logits_QS.max(axis=1, keepdims=True)
    weights_QS = np.exp(logits_QS)
    return weights_QS / weights_QS.sum(axis=1, keepdims=True)
