"""The strength of a linear probe, chosen on a validation set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from songsight.metrics.probes import Probe, fit

STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def chosen(
    train_ND: np.ndarray,
    labels_N: np.ndarray,
    classes: int,
    val_VD: np.ndarray,
    how_good: Callable[[np.ndarray], float],
) -> Probe:
    """The probe whose penalty among `STRENGTHS` does best on a validation set; that of 1 where there is none.

    Args:
        train_ND, labels_N, classes: see `probes.fit`.
        val_VD: the validation set, float [n, width].
        how_good: of its logits, higher is better. Of equally good ones the strongest penalty is taken.
    """
    if not len(val_VD):
        return fit(train_ND, labels_N, classes)
    probes = [fit(train_ND, labels_N, classes, strength) for strength in STRENGTHS]
    good = [how_good(one(val_VD)) for one in probes]
    return probes[int(np.nanargmax(good)) if np.isfinite(good).any() else STRENGTHS.index(1.0)]
