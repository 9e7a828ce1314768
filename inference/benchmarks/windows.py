"""Cuts recordings into windows, and says what sounds in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_SHARED = 0.2


def starts(duration_s: float, window_s: float, hop_s: float) -> np.ndarray:
    """Where windows begin: every hop, as long as half a window is left; at least one. float64 [windows], seconds."""
    places = np.arange(0, max(duration_s, 1e-9), hop_s)
    return places[(duration_s - places >= window_s / 2) | (places == 0)]


def present(
    window_start_s: float, window_end_s: float, call_start_s: Sequence[float], call_end_s: Sequence[float]
) -> np.ndarray:
    """Whether each call counts as being in a window: bool [calls].

    It does where what the two share is more than a fifth of the shorter one (the rule of BEANS, arXiv 2210.12300, as
    its code has it): a call cut by the window's edge counts in both windows unless one has a mere bit of it.
    """
    begin, end = np.asarray(call_start_s, np.float64), np.asarray(call_end_s, np.float64)
    shared = np.minimum(end, window_end_s) - np.maximum(begin, window_start_s)
    shorter = np.minimum(end - begin, window_end_s - window_start_s)
    return shared > np.where(shorter > 0, LEAST_SHARED * shorter, np.inf)
