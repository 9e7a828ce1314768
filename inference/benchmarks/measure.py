"""The measures of a labelled benchmark: one row a method.

Several labels (soundscapes): cmAP, AUROC and F1 at the best threshold, each a mean over classes, and top-1, where any
of a unit's labels counts and units without labels are left out (BirdSet, arXiv 2403.10380, section 5). One label:
top-1 and top-5 averaged over classes, mAP over classes of ranking the units, and plain accuracy.

Intervals are 95 % percentile intervals of the bootstrap: over classes for what is a mean over classes, over units (of
each class's mean) for what is right or wrong for each unit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.metrics import bootstrap, detection, retrieval

RESAMPLES = 1000


def several(
    scores_UC: np.ndarray, present_UC: np.ndarray, absent_counts: bool = False, seed: int = 0
) -> dict[str, Any]:
    """The measures of units with any number of labels.

    Args:
        scores_UC: float [units, classes].
        present_UC: bool [units, classes].
        absent_counts: adds `mAP`, in which a class that is in no unit counts 0.
        seed: of the bootstrap.
    """
    by_class = {
        "cmAP": detection.class_average_precision(scores_UC, present_UC),
        "AUROC": detection.class_auroc(scores_UC, present_UC),
        "F1": detection.class_best_f1(scores_UC, present_UC)[0],
    }
    if absent_counts:
        by_class = {"mAP": np.nan_to_num(by_class["cmAP"])} | by_class
    result: dict[str, Any] = {}
    for name, values_C in by_class.items():
        result |= with_interval(name, values_C, np.arange(len(values_C)), "mean", seed)
    labelled = present_UC.any(axis=1)
    if labelled.any():
        top_U = np.take_along_axis(present_UC, scores_UC.argmax(axis=1)[:, None], axis=1)[labelled, 0]
        result |= with_interval("top1", top_U, np.arange(len(top_U)), "mean", seed)
    return result


def single(scores_UC: np.ndarray, label_U: np.ndarray, averaged_C: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """The measures of units with one label each.

    Args:
        scores_UC: float [units, classes].
        label_U: number of each unit's class, int [units].
        averaged_C: the classes that the means are taken over, bool [classes].
        seed: of the bootstrap.
    """
    own_U1 = np.take_along_axis(scores_UC, label_U[:, None], axis=1)
    # Equal scores count against the own class: who says the same of all earns nothing.
    place_U = (scores_UC >= own_U1).sum(axis=1)
    asked_U = averaged_C[label_U]
    labels = label_U[asked_U]
    result: dict[str, Any] = {}
    for name, top in (("top1", 1), ("top5", 5)):
        result |= with_interval(name, place_U[asked_U] <= top, labels, "macro", seed)
    present_UC = label_U[:, None] == np.arange(scores_UC.shape[1])
    precision_C = detection.class_average_precision(scores_UC[:, averaged_C], present_UC[:, averaged_C])
    result |= with_interval("mAP", precision_C, np.arange(len(precision_C)), "mean", seed)
    return result | with_interval("accuracy", place_U[asked_U] == 1, np.arange(len(labels)), "mean", seed)


def chance(
    present_UC: np.ndarray, is_several: bool, averaged_C: np.ndarray, absent_counts: bool = False
) -> dict[str, Any]:
    """What scores drawn at random come to, exactly, for the measures that have a closed form.

    Args:
        present_UC: bool [units, classes].
        is_several: whether units have several labels.
        averaged_C: see `single`; all for several.
        absent_counts: see `several`.

    Returns:
        by measure; NaN for F1, whose threshold is chosen.
    """
    units, classes = present_UC.shape
    found_C = present_UC[:, averaged_C].sum(axis=0)
    precision_C = retrieval.chance_average_precision(found_C[found_C > 0], units)
    if is_several:
        labelled = present_UC.any(axis=1)
        top1 = float(present_UC[labelled].mean()) if labelled.any() else float("nan")
        found = {"mAP": float(precision_C.sum() / classes)} if absent_counts else {}
        return found | {"cmAP": float(np.mean(precision_C)), "AUROC": 0.5, "F1": float("nan"), "top1": top1}
    return {
        "top1": 1 / classes,
        "top5": min(1.0, 5 / classes),
        "mAP": float(np.mean(precision_C)),
        "accuracy": 1 / classes,
    }


def with_interval(
    name: str, values: np.ndarray, groups: np.ndarray, statistic: bootstrap.Statistic, seed: int
) -> dict[str, float]:
    """A measure and its interval: `name`, `name_low`, `name_high`."""
    values_Q1 = np.asarray(values, np.float64)[:, None]
    if not np.isfinite(values_Q1).any():
        return {name: float("nan"), f"{name}_low": float("nan"), f"{name}_high": float("nan")}
    drawn = bootstrap.Bootstrap(groups, RESAMPLES, seed)
    low, high = bootstrap.interval(drawn.draws(values_Q1, statistic))
    point = drawn.point(values_Q1, statistic)
    return {name: float(point[0]), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}
