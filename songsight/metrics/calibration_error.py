"""Whether a probability is one: of what is said with 0.8, eight in ten should be so."""

from __future__ import annotations

import numpy as np

from songsight.metrics.bootstrap import tails


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
    bin_Q = bin_of(confidence_Q, bins)
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


def error_interval(point_B: np.ndarray, draws_RB: np.ndarray, units: float, level: float = 0.95) -> tuple[float, float]:
    """An interval for `expected_calibration_error`, of at least the level.

    A percentile interval will not do: noise in a bin's gap only ever adds to the sum of their sizes, so that draws lie
    above the point as the point lies above the truth, and the basic interval (2·point − percentiles) still misses a
    calibrated model more often than not. With g the bins' gaps as found and μ the true ones, the triangle inequality
    gives |Σ_b |g_b| − Σ_b |μ_b|| ≤ Σ_b |g_b − μ_b|, and the draws g* say how large that sum becomes: their gaps lie
    around g as g does around μ (the basic bootstrap: Davison & Hinkley 1997, Bootstrap Methods and their Application,
    section 5.2). With q the level's quantile of Σ_b |g*_b − g_b| the interval is point ± q, cut at 0 and 1: it always
    holds the point, it holds 0 for a calibrated model as often as it says, and it is wider than it need be for others.

    Args:
        point_B: mean of each column of `calibration_gaps`, float [bins].
        draws_RB: the same of each resample, float [resamples, bins].
        units: of `Bootstrap.units`, by which q is expanded as the intervals there are.
        level: of the interval.

    Returns:
        (low, high); NaN of fewer units than `bootstrap.FEWEST`.
    """
    tail = tails(np.array([units]), level)[0]
    if not np.isfinite(tail) or not np.isfinite(point_B).all():
        return float("nan"), float("nan")
    apart_R = np.abs(draws_RB - point_B).sum(axis=1)
    error, far = float(np.abs(point_B).sum()), float(np.nanquantile(apart_R, 1 - 2 * tail))
    return max(0.0, error - far), min(1.0, error + far)


def bin_of(confidence_Q: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each confidence, int64 [queries]: bin b, from 0, holds (b/bins, (b+1)/bins], 0 goes into the first."""
    return np.clip(np.ceil(np.asarray(confidence_Q, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


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
