"""Cuts recordings into windows, and says what sounds in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference.archive.spans import Windows

LEAST_SHARED = 0.2


def cut(duration_s: float, window_s: float, hop_s: float) -> list[tuple[float, float]]:
    """From where to where each window of a recording goes, in seconds: those that `songsight annotate` would look at.

    They cover the recording to its end; the last one may be shorter (the encoder fills it up).
    """
    starts_s = [number * hop_s for number in range(Windows(window_s, hop_s).count(duration_s))]
    return [(start_s, min(start_s + window_s, max(duration_s, start_s))) for start_s in starts_s]


def cover(duration_s: float, window_s: float, hop_s: float) -> list[tuple[float, float]]:
    """Like `cut`, but the last window is moved back to end with the recording: for a mean over whole windows.

    What fills up a short one would weigh as much as sound.
    """
    places = cut(duration_s, window_s, hop_s)
    last_s = max(0.0, duration_s - window_s)
    return [(min(start_s, last_s), min(start_s, last_s) + min(window_s, duration_s)) for start_s, _ in places]


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
