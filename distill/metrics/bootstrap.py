"""How certain a figure is: the bootstrap, over recordings and over species.

Over recordings answers "had other recordings of these species been drawn"; over species (a cluster bootstrap: a drawn
species brings all its recordings) answers "had it been other species", and is mostly the wider of the two. Percentile
intervals (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3); the draws of one `Bootstrap` are
the same for all figures, so that the difference of two is paired by taking the difference of their draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

Statistic = Literal["mean", "macro", "median"]
Over = Literal["recordings", "species"]

_CHUNK = 4_000_000  # counts held at a time


@dataclass(frozen=True)
class Bootstrap:
    """A set of queries and how they are drawn anew.

    Attributes:
        species: of each query, [queries].
        resamples: how often.
        seed: of the draws.
    """

    species: np.ndarray
    resamples: int = 1000
    seed: int = 0

    @cached_property
    def _labels(self) -> np.ndarray:
        return np.unique(np.asarray(self.species).astype(str), return_inverse=True)[1]

    @cached_property
    def _order(self) -> np.ndarray:
        """Queries of a species side by side, so that its sums are sums of slices."""
        return np.argsort(self._labels, kind="stable")

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.flatnonzero(np.diff(self._labels[self._order], prepend=-1))

    def point(self, values_QM: np.ndarray, statistic: Statistic = "mean") -> np.ndarray:
        """The figure itself, see `draws`: float64 [figures]."""
        return self._figures(np.ones((1, len(self._order))), np.ones((1, len(self._starts))), values_QM, statistic)[0]

    def draws(self, values_QM: np.ndarray, statistic: Statistic = "mean", over: Over = "recordings") -> np.ndarray:
        """The figures in each resample.

        Args:
            values_QM: what each query came to, float [queries, figures]; a NaN is left out.
            statistic: `mean` over the queries; `macro`, the mean over species of the mean of each; `median`, the
                lower of two middle ones.
            over: what is drawn with replacement.

        Returns:
            float64 [resamples, figures]; NaN where a resample holds no value.
        """
        parts = [self._figures(q, s, values_QM, statistic) for q, s in self._counts(over)]
        return np.concatenate(parts)

    def _counts(self, over: Over) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """How often each query (in `_order`) and each species is drawn: [some resamples, queries], [.., species]."""
        rng = np.random.default_rng([self.seed, over == "species"])
        queries, species = len(self._order), len(self._starts)
        sizes = np.diff(self._starts, append=queries)
        step = max(1, _CHUNK // max(1, queries))
        for start in range(0, self.resamples, step):
            many = min(step, self.resamples - start)
            if over == "species":
                drawn_RS = _drawn(rng, many, species)
                yield np.repeat(drawn_RS, sizes, axis=1), drawn_RS
            else:
                yield _drawn(rng, many, queries), np.ones((many, species))

    def _figures(
        self, counts_RQ: np.ndarray, weights_RS: np.ndarray, values_QM: np.ndarray, statistic: Statistic
    ) -> np.ndarray:
        values_QM = np.asarray(values_QM, np.float64)[self._order]
        real_QM = np.isfinite(values_QM)
        filled_QM = np.where(real_QM, values_QM, 0)
        if statistic == "mean":
            return _ratio(counts_RQ @ filled_QM, counts_RQ @ real_QM)
        columns = range(values_QM.shape[1])
        if statistic == "median":
            return np.stack([_median(counts_RQ, values_QM[:, m]) for m in columns], axis=1)
        found = []
        for m in columns:
            sums_RS = np.add.reduceat(counts_RQ * filled_QM[:, m], self._starts, axis=1)
            many_RS = np.add.reduceat(counts_RQ * real_QM[:, m], self._starts, axis=1)
            present_RS = weights_RS * (many_RS > 0)
            mean_RS = np.divide(sums_RS, many_RS, out=np.zeros_like(sums_RS), where=many_RS > 0)
            found.append(_ratio((present_RS * mean_RS).sum(axis=1), present_RS.sum(axis=1)))
        return np.stack(found, axis=1)


def interval(draws_RM: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of each figure: (low [figures], high [figures])."""
    tail = 50 * (1 - level)
    some_M = np.isfinite(draws_RM).any(axis=0)
    low_M, high_M = np.full((2, draws_RM.shape[1]), np.nan)
    if some_M.any():
        low_M[some_M], high_M[some_M] = np.nanpercentile(draws_RM[:, some_M], [tail, 100 - tail], axis=0)
    return low_M, high_M


def p_value(differences_RM: np.ndarray) -> np.ndarray:
    """Two-sided p of "no difference" from the draws of differences: [figures].

    p = 2·min(#{d ≤ 0} + 1, #{d ≥ 0} + 1) / (resamples + 1), at most 1: the level at which the percentile interval
    just reaches 0 (Davison & Hinkley 1997, Bootstrap Methods and their Application, section 5.7, with the usual + 1:
    no number of resamples shows a p of 0).
    """
    below_M, above_M = (differences_RM <= 0).sum(axis=0), (differences_RM >= 0).sum(axis=0)
    return np.minimum(1, 2 * (np.minimum(below_M, above_M) + 1) / (len(differences_RM) + 1))


def _drawn(rng: np.random.Generator, resamples: int, things: int) -> np.ndarray:
    """How often each of n things is among n drawn with replacement: float64 [resamples, things]."""
    places = rng.integers(0, things, (resamples, things)) + things * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * things).reshape(resamples, things).astype(np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _median(counts_RQ: np.ndarray, values_Q: np.ndarray) -> np.ndarray:
    """The weighted lower median of each resample: float64 [resamples]."""
    real = np.flatnonzero(np.isfinite(values_Q))
    if not len(real):
        return np.full(len(counts_RQ), np.nan)
    rising = real[np.argsort(values_Q[real], kind="stable")]
    upto_RQ = np.cumsum(counts_RQ[:, rising], axis=1)
    total_R = upto_RQ[:, -1]
    place_R = (upto_RQ >= total_R[:, None] / 2).argmax(axis=1)
    return np.where(total_R > 0, values_Q[rising[place_R]], np.nan)
