"""The measures of a labelled benchmark: one row a method.

Several labels (soundscapes): cmAP, AUROC and F1 at the best threshold, each a mean over classes, and top-1, where any
of a unit's labels counts and units without labels are left out (BirdSet, arXiv 2403.10380, section 5). One label:
top-1 and top-5 averaged over classes, mAP over classes of ranking the units, and plain accuracy.

Intervals are 95 % percentile intervals of the bootstrap over recordings and over species, see `redraw`. One recording
says nothing of others, nor one species: there they are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import sparse

from inference.benchmarks.redraw import Redrawn
from songsight.metrics import bootstrap, detection, retrieval

_CURVE_OF = {"mAP": "AP", "cmAP": "AP", "AUROC": "AUROC", "F1": "F1"}


@dataclass(frozen=True)
class Truth:
    """What is true of a benchmark's test units.

    Attributes:
        several: whether a unit may have any number of labels, or has exactly one.
        present_UC: bool [units, judged classes]; a unit of one label that is not judged has none.
        classes: how many classes a unit is named among: the judged ones and others.
        absent_counts: whether `mAP` counts 0 for a class that is in no unit.
    """

    several: bool
    present_UC: np.ndarray
    classes: int
    absent_counts: bool = False

    @cached_property
    def asked_U(self) -> np.ndarray:
        """Units that are named right or wrong: those with a judged label. bool [units]."""
        return np.asarray(self.present_UC.any(axis=1))

    @cached_property
    def found_C(self) -> np.ndarray:
        """The judged classes that are in a unit: bool [judged classes]."""
        return np.asarray(self.present_UC.any(axis=0))

    @cached_property
    def share(self) -> sparse.csr_array:
        """How much of each asked unit counts for each class that is in one: float64 [asked, found], rows sum to 1."""
        own = sparse.csr_array(self.present_UC)[self.asked_U][:, self.found_C].astype(np.float64)
        return sparse.csr_array(sparse.diags_array(1 / own.sum(axis=1)) @ own)


class Scored(NamedTuple):
    """What a method says of the units.

    Attributes:
        scores_UC: float32 [units, judged classes].
        place_U: the place of a unit's own class among all classes, 1 for the best; of several, that of the best one
            among those that are not there. Equal scores count against it: who says the same of all earns nothing.
            int64 [units].
    """

    scores_UC: np.ndarray
    place_U: np.ndarray


class Figure(NamedTuple):
    """A measure, and what it comes to in each resample over recordings and over species: float64 [resamples]."""

    value: float
    recordings: np.ndarray
    species: np.ndarray


def places(scores_UC: np.ndarray, present_UC: np.ndarray) -> np.ndarray:
    """See `Scored.place_U`.

    Args:
        scores_UC: float [units, all classes].
        present_UC: bool [units, all classes].

    Returns:
        int64 [units]; one more than there are classes for a unit without labels.
    """
    own_U1 = np.where(present_UC, scores_UC, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores_UC >= own_U1) & ~present_UC).sum(axis=1)


def figures(truth: Truth, scored: Scored, redrawn: Redrawn) -> dict[str, Figure]:
    """Every measure of a method by name.

    Args:
        truth, scored: of the same units.
        redrawn: of the same units.
    """
    return _several(truth, scored, redrawn) if truth.several else _single(truth, scored, redrawn)


def _several(truth: Truth, scored: Scored, redrawn: Redrawn) -> dict[str, Figure]:
    by_class = {
        "cmAP": detection.class_average_precision(scored.scores_UC, truth.present_UC),
        "AUROC": detection.class_auroc(scored.scores_UC, truth.present_UC),
        "F1": detection.class_best_f1(scored.scores_UC, truth.present_UC)[0],
    }
    if truth.absent_counts:
        by_class = {"mAP": np.nan_to_num(by_class["cmAP"])} | by_class
    curves = redrawn.curves(scored.scores_UC, truth.present_UC)
    made = {}
    for name, values_C in by_class.items():
        sum_R, many_R = curves[_CURVE_OF[name]]
        over_recordings = _over(sum_R, np.full(len(many_R), len(values_C)) if name == "mAP" else many_R)
        made[name] = _of_classes(values_C, over_recordings, redrawn)
    if truth.asked_U.any():
        made["top1"] = _of_units(truth, scored.place_U <= 1, redrawn)
    return made


def _single(truth: Truth, scored: Scored, redrawn: Redrawn) -> dict[str, Figure]:
    place, label = scored.place_U[truth.asked_U], truth.present_UC[truth.asked_U].argmax(axis=1)
    asked = Redrawn(redrawn.recording[truth.asked_U], redrawn.resamples, redrawn.seed)
    made = {}
    for name, top in (("top1", 1), ("top5", 5)):
        right = (place <= top).astype(np.float64)
        many_C = np.bincount(label, minlength=truth.present_UC.shape[1])
        share_C = _over(np.bincount(label, right, len(many_C)), many_C)
        made[name] = _of_classes(share_C, asked.macro(right, label), asked)
    precision_C = detection.class_average_precision(scored.scores_UC, truth.present_UC)
    sum_R, many_R = redrawn.curves(scored.scores_UC, truth.present_UC, ("AP",))["AP"]
    made["mAP"] = _of_classes(precision_C, _over(sum_R, many_R), redrawn)
    return made | {"accuracy": _of_units(truth, scored.place_U <= 1, redrawn)}


def _of_classes(values_C: np.ndarray, over_recordings: np.ndarray, redrawn: Redrawn) -> Figure:
    """A mean over the classes that have the measure."""
    real = values_C[np.isfinite(values_C)]
    if not len(real):
        none = np.full(redrawn.resamples, np.nan)
        return Figure(float("nan"), none, none)
    species_R = real @ redrawn.species(len(real)) / len(real)
    return _figure(float(real.mean()), over_recordings, species_R, redrawn.recordings, len(real))


def _of_units(truth: Truth, right_U: np.ndarray, redrawn: Redrawn) -> Figure:
    """The share of the asked units that are right."""
    right = right_U[truth.asked_U].astype(np.float64)
    asked = Redrawn(redrawn.recording[truth.asked_U], redrawn.resamples, redrawn.seed)
    times_CR = redrawn.species(truth.share.shape[1])
    species_R = _over((truth.share.T @ right) @ times_CR, truth.share.sum(axis=0) @ times_CR)
    return _figure(float(right.mean()), asked.mean(right), species_R, asked.recordings, len(times_CR))


def _figure(value: float, recordings_R: np.ndarray, species_R: np.ndarray, recordings: int, species: int) -> Figure:
    none = np.full(len(recordings_R), np.nan)
    return Figure(value, recordings_R if recordings > 1 else none, species_R if species > 1 else none)


def row(made: dict[str, Figure]) -> dict[str, float]:
    """Measures with their intervals: `<name>`, `_low`, `_high` over recordings, `_species_low`, `_species_high`."""
    result = {}
    for name, figure in made.items():
        result[name] = figure.value
        for prefix, draws_R in (("", figure.recordings), ("species_", figure.species)):
            low, high = bootstrap.interval(draws_R[:, None])
            result |= {f"{name}_{prefix}low": float(low[0]), f"{name}_{prefix}high": float(high[0])}
    return result


def chance(truth: Truth) -> dict[str, float]:
    """What scores drawn at random come to, exactly, for the measures that have a closed form.

    Returns:
        by measure; NaN for F1, whose threshold is chosen.
    """
    units, judged = truth.present_UC.shape
    found_C = truth.present_UC.sum(axis=0)
    precision_C = retrieval.chance_average_precision(found_C[found_C > 0], units)
    if truth.several:
        top1 = float(truth.present_UC[truth.asked_U].mean()) if truth.asked_U.any() else float("nan")
        found = {"mAP": float(precision_C.sum() / judged)} if truth.absent_counts else {}
        return found | {"cmAP": float(np.mean(precision_C)), "AUROC": 0.5, "F1": float("nan"), "top1": top1}
    named = 1 / truth.classes
    return {
        "top1": named,
        "top5": min(1.0, 5 * named),
        "mAP": float(np.mean(precision_C)),
        "accuracy": named,
    }


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above = np.asarray(above, np.float64)
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) > 0)
