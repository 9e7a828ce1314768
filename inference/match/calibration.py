"""From scores to probabilities: a logistic curve for each species, pooled where a species has few labelled windows.

Platt scaling (Platt 1999: p = 1 / (1 + exp(−(a + b·score)))) with partial pooling: a species' a and b are those of all
species together plus deviations with a normal prior around 0, so that a species heard twice lies near to the common
curve and one heard often finds its own. How far deviations may go is chosen by cross-validation over recordings:
windows of one recording are too alike to be held out from each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import scipy  # its parts are loaded at their first use: annotators without a calibration need none of them

from songsight.errors import UserError
from songsight.metrics import calibration_error as metrics
from songsight.store import urls

SPREADS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Standard deviations of species' deviations that are tried, in units of logits; 0 is one curve for all."""
FOLDS = 5
BINS = 10
IN_0_1: dict[str, Any] = {}
"""What scores of 0.1 were made with, for keys of `Calibration.made_with` that came since."""
_RIDGE = 1e-3  # keeps the common curve finite where a score parts right from wrong without fault


@dataclass(frozen=True)
class Calibration:
    """A fitted map.

    Attributes:
        made_with: what decides a score, see `record.Record.scored_with`: another run's scores mean another thing.
        pooled: a and b of all species, for those that are not in `species`.
        species: a and b by scientific name.
        top_k: of the run that it was fitted to.
        measured: on held-out recordings.
    """

    made_with: dict[str, Any]
    pooled: tuple[float, float]
    species: dict[str, tuple[float, float]]
    top_k: int = 0
    measured: dict[str, Any] = field(default_factory=dict)

    def lines(self, names: Sequence[str]) -> np.ndarray:
        """a and b of species, float64 [species, 2]."""
        return np.array([self.species.get(name, self.pooled) for name in names], float).reshape(-1, 2)

    def check(self, made_with: dict[str, Any], option: str = "--calibration") -> None:
        """Refuses scores that it was not fitted to.

        Raises:
            UserError: naming what differs.
        """
        fitted, asked = IN_0_1 | self.made_with, IN_0_1 | made_with
        for key in sorted({*fitted, *asked}):
            if (own := fitted.get(key)) != (other := asked.get(key)):
                raise UserError(
                    f"{option}: was fitted to scores of another {key} ({own}, this run's is {other}): "
                    "`songsight calibrate` fits one to this run's"
                )

    def write(self, url: str) -> None:
        """Writes it as JSON."""
        urls.write_bytes(url, json.dumps({"songsight_calibration": 1} | asdict(self), indent=2).encode())


def read(url: str, option: str = "--calibration") -> Calibration:
    """Reads what `songsight calibrate` wrote.

    Raises:
        UserError: no such file, or something else.
    """
    if not urls.exists(url):
        raise UserError(f"{option}: no such file: {url}")
    try:
        raw = json.loads(urls.read_bytes(url))
        if raw.pop("songsight_calibration") != 1:
            raise UserError(f"{option}: {url} was written by another version of songsight: calibrate again")
        return Calibration(**raw)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{option}: {url} is no calibration; `songsight calibrate` makes one") from None


def probability(lines_N2: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
    """Probabilities, float64 [n], of scores [n] on curves [n, 2]."""
    return scipy.special.expit(lines_N2[..., 0] + lines_N2[..., 1] * scores_N)


def fit(
    scores_N: np.ndarray, right_N: np.ndarray, species_N: np.ndarray, count: int, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fits all curves at once: the maximum a posteriori, which is unique.

    Args:
        scores_N: float [hits].
        right_N: bool [hits].
        species_N: number of each hit's species, int [hits].
        count: species.
        spread: standard deviation of species' deviations, in units of logits and of the scores' own spread.

    Returns:
        (the common a and b, float64 [2]; the species', float64 [species, 2]: the common ones where it has no hit).
    """
    mean, scale = float(scores_N.mean()), float(scores_N.std()) or 1.0
    z_N = (scores_N - mean) / scale
    y_N = right_N.astype(float)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        common, own = flat[:2], flat[2:].reshape(-1, 2)
        moved = own[species_N] if spread else 0.0
        line_N2 = common + moved
        logit_N = line_N2[..., 0] + line_N2[..., 1] * z_N
        error_N = scipy.special.expit(logit_N) - y_N
        value = np.logaddexp(0, logit_N).sum() - (y_N * logit_N).sum() + 0.5 * _RIDGE * (common @ common)
        slope_N = error_N * z_N
        gradient = [np.array([error_N.sum(), slope_N.sum()]) + _RIDGE * common]
        if spread:
            value += 0.5 * (own**2).sum() / spread**2
            sums = [np.bincount(species_N, part, minlength=count) for part in (error_N, slope_N)]
            gradient.append((np.stack(sums, axis=1) + own / spread**2).ravel())
        return float(value), np.concatenate(gradient)

    start = np.zeros(2 + (2 * count if spread else 0))
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    lines = np.tile(found[:2], (count, 1)) + (found[2:].reshape(-1, 2) if spread else 0)

    def back(line: np.ndarray) -> np.ndarray:
        slope = line[..., 1] / scale
        return np.stack([line[..., 0] - slope * mean, slope], axis=-1)

    return back(found[:2]), back(lines)


def choose_spread(
    scores_N: np.ndarray, right_N: np.ndarray, species_N: np.ndarray, groups_N: np.ndarray, count: int
) -> float:
    """The spread whose curves tell held-out recordings best, by log-likelihood.

    Args:
        scores_N, right_N, species_N, count: see `fit`.
        groups_N: number of each hit's recording, int [hits].
    """
    losses = []
    for spread in SPREADS:
        p_N = held_out(scores_N, right_N, species_N, groups_N, count, spread)
        p_N = np.clip(p_N, 1e-9, 1 - 1e-9)
        losses.append(-np.mean(np.where(right_N, np.log(p_N), np.log(1 - p_N))))
    return SPREADS[int(np.argmin(losses))]


def held_out(
    scores_N: np.ndarray,
    right_N: np.ndarray,
    species_N: np.ndarray,
    groups_N: np.ndarray,
    count: int,
    spread: float | None = None,
) -> np.ndarray:
    """Each hit's probability by curves fitted without its recording's fold, float64 [hits].

    Args:
        scores_N, right_N, species_N, groups_N, count: see `choose_spread`.
        spread: see `fit`; chosen anew within each fold's fit if None, so that nothing of the fold decides it.
    """
    recordings = np.unique(groups_N)
    dealt = np.random.default_rng(0).permutation(len(recordings)) % min(FOLDS, len(recordings))
    fold_N = dealt[np.searchsorted(recordings, groups_N)]
    out = np.zeros(len(scores_N))
    for fold in np.unique(fold_N):
        rest, held = fold_N != fold, fold_N == fold
        some = (scores_N[rest], right_N[rest], species_N[rest])
        own = spread
        if own is None:
            many = len(np.unique(groups_N[rest])) > 1
            own = choose_spread(*some, groups_N[rest], count) if many else 1.0
        _, lines = fit(*some, count, own)
        out[held] = probability(lines[species_N[held]], scores_N[held])
    return out


def brier(p_N: np.ndarray, right_N: np.ndarray) -> float:
    """Brier score of being right: Σ_i (p_i − [right])² / N, 0 to 1 (Brier 1950, Monthly Weather Review 78:1–3).

    Half of `metrics.calibration_error.brier_score` of the two classes right and wrong.
    """
    return float(np.mean((p_N - right_N) ** 2))


def reliability(p_N: np.ndarray, right_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By ten bins of equal width: mean probability, share that is right (NaN in empty bins), and hits."""
    bin_N = metrics.bin_of(p_N, BINS)
    hits_B = np.bincount(bin_N, minlength=BINS)
    sums = [np.bincount(bin_N, values, minlength=BINS) for values in (p_N, right_N.astype(float))]
    with np.errstate(invalid="ignore"):
        return sums[0] / hits_B, sums[1] / hits_B, hits_B


def calibration_error(p_N: np.ndarray, right_N: np.ndarray) -> float:
    """`metrics.calibration_error.expected_calibration_error` by the bins of `reliability`."""
    return metrics.expected_calibration_error(p_N, right_N, BINS)
