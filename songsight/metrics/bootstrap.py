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
import scipy

Statistic = Literal["mean", "macro", "median"]
Over = Literal["recordings", "species"]

FEWEST = 6
"""Things that have to be drawn from for an interval or a p: where five all differ in the same direction, a sign test
still gives 2/2⁵ > 0.05."""
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
                mean of the two middle ones where there are two.
            over: what is drawn with replacement.

        Returns:
            float64 [resamples, figures]; NaN where a resample holds no value.
        """
        parts = [self._figures(q, s, values_QM, statistic) for q, s in self._counts(over)]
        return np.concatenate(parts)

    def units(self, values_QM: np.ndarray, statistic: Statistic = "mean", over: Over = "recordings") -> np.ndarray:
        """How many things of equal weight a figure rests on: n = (Σ w)² / Σ w² over what is drawn.

        A recording weighs 1 in a mean and 1 / (recordings of its species) in a macro mean; a species weighs its
        recordings in a mean and 1 in a macro mean. Nine species with a recording each beside one with 500 are not ten:
        Kish 1965, Survey Sampling; for clusters Carter, Schnepel & Steigerwald 2017, Review of Economics
        and Statistics 99:698–709, where it gives the degrees of freedom.

        Args:
            values_QM, statistic, over: see `draws`.

        Returns:
            float64 [figures]; 0 for one without values.
        """
        real_QM = np.isfinite(np.asarray(values_QM, np.float64)[self._order])
        if not len(real_QM):
            return np.zeros(real_QM.shape[1])
        many_SM = np.add.reduceat(real_QM.astype(np.float64), self._starts, axis=0)
        if statistic == "macro":
            there_SM = many_SM > 0
            inverse_SM = np.divide(1, many_SM, out=np.zeros_like(many_SM), where=there_SM)
            squares_M = (there_SM if over == "species" else inverse_SM).sum(axis=0)
            return _ratio_or_0(there_SM.sum(axis=0) ** 2, squares_M)
        squares_M = (many_SM**2 if over == "species" else many_SM).sum(axis=0)
        return _ratio_or_0(many_SM.sum(axis=0) ** 2, squares_M)

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


def interval(
    draws_RM: np.ndarray, units_M: np.ndarray | None = None, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of each figure: (low [figures], high [figures]).

    Args:
        draws_RM: of `Bootstrap.draws`.
        units_M: of `Bootstrap.units`, by which it is expanded; not at all if None.
        level: of the interval.

    Returns:
        NaN for a figure without draws, or of fewer than `FEWEST` units.
    """
    low_M, high_M = np.full((2, draws_RM.shape[1]), np.nan)
    for m, tail in enumerate(tails(np.full(draws_RM.shape[1], np.inf) if units_M is None else units_M, level)):
        own_R = draws_RM[np.isfinite(draws_RM[:, m]), m]
        if len(own_R) and np.isfinite(tail):
            low_M[m], high_M[m] = np.percentile(own_R, [100 * tail, 100 * (1 - tail)])
    return low_M, high_M


def tails(units_M: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The share of the draws that lies beyond each end of an expanded percentile interval: float64 [figures].

    Φ(−√(n/(n−1))·t) with t = F⁻¹((1 + level)/2) of Student's t with n − 1 degrees of freedom, see the module's top;
    NaN of fewer than `FEWEST` units.
    """
    units_M = np.asarray(units_M, np.float64)
    enough_M = units_M >= FEWEST
    some_M = np.where(enough_M, units_M, FEWEST)
    wide_M = _spread(some_M) * scipy.stats.t.ppf((1 + level) / 2, some_M - 1)
    return np.where(enough_M, scipy.stats.norm.cdf(-wide_M), np.nan)


def p_value(differences_RM: np.ndarray, units_M: np.ndarray | None = None) -> np.ndarray:
    """Two-sided p of "no difference" from the draws of differences: [figures].

    The level at which `interval` just reaches 0: with q = (min(#{d ≤ 0}, #{d ≥ 0}) + 1) / (draws + 1), at most one half
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, section 5.7; the + 1: no number of resamples shows
    a p of 0), p = 2·F(Φ⁻¹(q) / √(n/(n−1))), F of Student's t with n − 1 degrees of freedom.

    Args:
        differences_RM: draws of a difference; NaNs among them are left out.
        units_M: as in `interval`; p = 2·q if None.

    Returns:
        NaN for a figure without draws, or of fewer than `FEWEST` units.
    """
    many_M = np.isfinite(differences_RM).sum(axis=0)
    below_M, above_M = (differences_RM <= 0).sum(axis=0), (differences_RM >= 0).sum(axis=0)
    share_M = np.minimum(0.5, (np.minimum(below_M, above_M) + 1) / (many_M + 1))
    units_M = np.full(len(many_M), np.inf) if units_M is None else np.asarray(units_M, np.float64)
    enough_M = units_M >= FEWEST
    some_M = np.where(enough_M, units_M, FEWEST)
    p_M = 2 * scipy.stats.t.cdf(scipy.stats.norm.ppf(share_M) / _spread(some_M), some_M - 1)
    return np.where(enough_M & (many_M > 0), p_M, np.nan)


def _spread(units_M: np.ndarray) -> np.ndarray:
    """√(n/(n−1)): by how much the draws of n things scatter less than new samples of them would."""
    return np.sqrt(1 / (1 - 1 / units_M))


def _drawn(rng: np.random.Generator, resamples: int, things: int) -> np.ndarray:
    """How often each of n things is among n drawn with replacement: float64 [resamples, things]."""
    places = rng.integers(0, things, (resamples, things)) + things * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * things).reshape(resamples, things).astype(np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _ratio_or_0(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.nan_to_num(_ratio(above.astype(np.float64), below.astype(np.float64)))


def _median(counts_RQ: np.ndarray, values_Q: np.ndarray) -> np.ndarray:
    """The weighted median of each resample, as NumPy's of the values drawn so often: float64 [resamples]."""
    real = np.flatnonzero(np.isfinite(values_Q))
    if not len(real):
        return np.full(len(counts_RQ), np.nan)
    rising = real[np.argsort(values_Q[real], kind="stable")]
    upto_RQ = np.cumsum(counts_RQ[:, rising], axis=1)
    half_R1 = upto_RQ[:, -1:] / 2
    lower_R, upper_R = (upto_RQ >= half_R1).argmax(axis=1), (upto_RQ > half_R1).argmax(axis=1)
    middle_R = (values_Q[rising[lower_R]] + values_Q[rising[upper_R]]) / 2
    return np.where(half_R1[:, 0] > 0, middle_R, np.nan)
