"""Recordings and species drawn anew: what the intervals of a labelled benchmark are made of.

A recording is drawn with all its units: windows of one recording hear one bird, one microphone and one wind, and are no
independent observations. Over species, a drawn species brings all its units; where a unit has several species it counts
as often as they are drawn in the mean (a cluster bootstrap: Davison & Hinkley 1997, Bootstrap Methods and their
Application, section 3.8). The draws depend on the seed and the number of recordings or species alone, so that two
methods, or two models, on the same units are compared on the same draws.

What is a mean over units is a ratio of sums. Average precision, AUROC and F1 of a class are measured anew in each
resample, each unit weighing as often as its recording is drawn, as scikit-learn's `sample_weight` would have it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

CURVES = ("AP", "AUROC", "F1")
_THREADS = 8
_NUMBERS = 4_000_000  # held by a thread at a time


@dataclass(frozen=True)
class Redrawn:
    """Resamples of a set of units.

    Attributes:
        recording: the recording that each unit is of, [units].
        resamples, seed: how often, and of the draws.
    """

    recording: np.ndarray
    resamples: int = 1000
    seed: int = 0

    @cached_property
    def group(self) -> np.ndarray:
        """The number of each unit's recording, int64 [units]."""
        return np.unique(np.asarray(self.recording).astype(str), return_inverse=True)[1]

    @property
    def recordings(self) -> int:
        """How many recordings there are."""
        return int(self.group.max()) + 1 if len(self.group) else 0

    @cached_property
    def times_GR(self) -> np.ndarray:
        """How often each recording is drawn: float32 [recordings, resamples]."""
        return _drawn(self.recordings, self.resamples, [self.seed, 0])

    def species(self, count: int) -> np.ndarray:
        """How often each of as many species is drawn: float32 [species, resamples]."""
        return _drawn(count, self.resamples, [self.seed, 1])

    def mean(self, values_U: np.ndarray) -> np.ndarray:
        """The mean over units in each resample of recordings: float64 [resamples]."""
        sums_G = np.bincount(self.group, values_U, self.recordings)
        many_G = np.bincount(self.group, minlength=self.recordings)
        return _ratio(sums_G @ self.times_GR, many_G @ self.times_GR)

    def macro(self, values_U: np.ndarray, label_U: np.ndarray) -> np.ndarray:
        """The mean over classes of the mean over each one's units, likewise; a class that is not drawn is left out."""
        labels, number_U = np.unique(label_U, return_inverse=True)
        sums_CR, many_CR = (
            sparse.csr_array((values, (number_U, self.group)), shape=(len(labels), self.recordings)) @ self.times_GR
            for values in (np.asarray(values_U, np.float32), np.ones(len(label_U), np.float32))
        )
        return np.nanmean(_ratio(sums_CR, many_CR), axis=0)

    def curves(
        self, scores_UC: np.ndarray, present_UC: np.ndarray, which: tuple[str, ...] = CURVES
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Measures of each class in each resample of recordings, summed over classes.

        Args:
            scores_UC: float [units, classes].
            present_UC: bool [units, classes].
            which: of `CURVES`.

        Returns:
            by measure: (the sum over the classes that have it in a resample, how many do), float64 [resamples] both.
        """
        sums = {name: np.zeros(self.resamples) for name in which}
        many = {name: np.zeros(self.resamples) for name in which}
        found = np.flatnonzero(present_UC.any(axis=0))
        _ = self.times_GR  # drawn once, before the threads ask for it
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for one in pool.map(lambda c: self._class(scores_UC[:, c], present_UC[:, c], which), found):
                for name, values_R in one.items():
                    real_R = np.isfinite(values_R)
                    sums[name] += np.where(real_R, values_R, 0)
                    many[name] += real_R
        return {name: (sums[name], many[name]) for name in which}

    def _class(self, scores_U: np.ndarray, present_U: np.ndarray, which: tuple[str, ...]) -> dict[str, np.ndarray]:
        """One class in each resample: float64 [resamples] by measure; NaN where a resample cannot judge it.

        Its measures change at the scores of the units that have it, and there alone: the others are counted by how
        many of those scores they lie above, recording by recording.
        """
        steps_K = np.unique(scores_U[present_U])[::-1]
        rows = len(steps_K)
        above_U = np.searchsorted(-steps_K, -scores_U, "left")  # the first of these scores that the unit reaches
        reached_U = above_U < rows

        def counted(units: np.ndarray) -> sparse.csr_array:
            ones, place = np.ones(int(units.sum()), np.float32), (above_U[units], self.group[units])
            return sparse.csr_array((ones, place), shape=(rows, self.recordings))

        hits, reached = counted(present_U), counted(reached_U)
        equal = counted(reached_U & (scores_U == steps_K[np.minimum(above_U, rows - 1)]) & ~present_U)
        units_G = np.bincount(self.group, minlength=self.recordings)
        size = max(1, _NUMBERS // rows)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in which}
        for start in range(0, self.resamples, size):
            times_GR = self.times_GR[:, start : start + size]
            here_KR = (hits @ times_GR).astype(np.float64)
            true_KR = np.cumsum(here_KR, axis=0)
            called_KR = np.cumsum((reached @ times_GR).astype(np.float64), axis=0)
            all_R = true_KR[-1]
            if "AP" in which:
                precision_KR = np.divide(true_KR, called_KR, out=np.zeros_like(true_KR), where=called_KR > 0)
                parts["AP"].append(_ratio((here_KR * precision_KR).sum(axis=0), all_R))
            if "F1" in which:
                best_R = _ratio(2 * true_KR, called_KR + all_R).max(axis=0)
                parts["F1"].append(np.where(all_R > 0, best_R, np.nan))
            if "AUROC" in which:
                without_R = units_G @ times_GR - all_R
                below_KR = without_R - (called_KR - true_KR) + (equal @ times_GR) / 2
                parts["AUROC"].append(_ratio((here_KR * below_KR).sum(axis=0), all_R * without_R))
        return {name: np.concatenate(some) for name, some in parts.items()}


def _drawn(things: int, resamples: int, seed: list[int]) -> np.ndarray:
    """How often each of n things is among n drawn with replacement: float32 [things, resamples]."""
    rng = np.random.default_rng(seed)
    times = np.empty((things, resamples), np.float32)
    for r in range(resamples):
        times[:, r] = np.bincount(rng.integers(0, max(1, things), things), minlength=things)
    return times


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above = np.asarray(above, np.float64)
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) > 0)
