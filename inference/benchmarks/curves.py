"""Precision and recall of a labelled benchmark's methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from inference.evaluation import figures
from songsight.metrics.retrieval import RECALL_LEVELS, Ranked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PAIRS = 100_000_000


def interpolated(scores_N: np.ndarray, present_N: np.ndarray) -> np.ndarray:
    """The best precision at each of `RECALL_LEVELS` or a higher recall, equal scores sharing the worse place.

    Manning, Raghavan, Schütze: Introduction to Information Retrieval, section 8.4.

    Args:
        scores_N, present_N: float and bool [n], of which at least one is present.

    Returns:
        float64 [levels].
    """
    falling = np.sort(-scores_N)
    steps_K, here_K = np.unique(-scores_N[present_N], return_counts=True)
    true_K = here_K.cumsum()
    precision_K = true_K / np.searchsorted(falling, steps_K, "right")
    best_K = np.maximum.accumulate(precision_K[::-1])[::-1]
    wanted = np.maximum(1, np.ceil(np.round(RECALL_LEVELS * true_K[-1], 9)))
    return best_K[np.searchsorted(true_K, wanted)]


def macro(scores_UC: np.ndarray, present_UC: np.ndarray) -> np.ndarray:
    """The mean over the classes that are in a unit: float64 [levels]; NaN where none is."""
    found = np.flatnonzero(present_UC.any(axis=0))
    if not len(found):
        return np.full(len(RECALL_LEVELS), np.nan)
    return np.mean([interpolated(scores_UC[:, c], present_UC[:, c]) for c in found], axis=0)


def micro(scores_UC: np.ndarray, present_UC: np.ndarray) -> np.ndarray | None:
    """All units and classes as one list: float64 [levels]; None where there are too many to sort, or no label."""
    if scores_UC.size > _MOST_PAIRS or not present_UC.any():
        return None
    return interpolated(scores_UC.ravel(), present_UC.ravel())


def drawn(curve_of: Mapping[str, np.ndarray]) -> Figure:
    """A line a method.

    Args:
        curve_of: by method, float64 [levels].
    """
    none, nearest = np.zeros(0), np.zeros((0, 0), np.int64)
    return figures.precision_recall({name: Ranked(none, none, curve, nearest) for name, curve in curve_of.items()})
