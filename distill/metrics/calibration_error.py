"""Whether a probability is one: of what is said with 0.8, eight in ten should be so."""

from __future__ import annotations

import numpy as np


def calibration_gaps(confidence_Q: np.ndarray, right_Q: np.ndarray, bins: int = 15) -> np.ndarray:
    """Each query's part in `expected_calibration_error`: right − confidence, in the column of its bin.

    Args:
        confidence_Q: what the answer was said with, float [queries] in 0 to 1.
        right_Q: whether it was right, bool [queries].
        bins: of the confidence; bin b holds ((b−1)/bins, b/bins], 0 goes into the first.

    Returns:
        float64 [queries, bins].

    Raises:
        ValueError: a confidence outside 0 to 1.
    """
    confidence_Q = np.asarray(confidence_Q, np.float64)
    if not ((confidence_Q >= 0) & (confidence_Q <= 1)).all():
        raise ValueError("confidences should lie in 0 to 1")
    bin_Q = np.clip(np.ceil(confidence_Q * bins).astype(int) - 1, 0, bins - 1)
    gaps_QB = np.zeros((len(confidence_Q), bins))
    gaps_QB[np.arange(len(confidence_Q)), bin_Q] = np.asarray(right_Q, np.float64) - confidence_Q
    return gaps_QB


def expected_calibration_error(confidence_Q: np.ndarray, right_Q: np.ndarray, bins: int = 15) -> float:
    """ECE = Σ_b |B_b|/n · |acc(B_b) − conf(B_b)| over bins of equal width (arXiv 1706.04599, equation 3).

    Arguments and errors are those of `calibration_gaps`; NaN without queries.
    """
    if not len(confidence_Q):
        return float("nan")
    return float(np.abs(calibration_gaps(confidence_Q, right_Q, bins).mean(axis=0)).sum())


def brier_score(probability_QS: np.ndarray, species_Q: np.ndarray) -> np.ndarray:
    """Brier score of each query: Σ_s (p_s − [s is the species])², 0 to 2 (Brier 1950, Monthly Weather Review 78:1–3).

    Args:
        probability_QS: float [queries, species].
        species_Q: number of the right species, int [queries]; −1 where it is none of them.

    Returns:
        float64 [queries].
    """
    probability_QS = np.asarray(probability_QS, np.float64)
    squares_Q = (probability_QS**2).sum(axis=1)
    own_Q = np.take_along_axis(probability_QS, np.maximum(species_Q, 0)[:, None], axis=1)[:, 0]
    return np.where(np.asarray(species_Q) < 0, squares_Q, squares_Q - 2 * own_Q + 1)
