"""How recordings are cut: windows for the encoder, spans of windows to read in one go, units of spans for one actor.

A span is a minute or so of one recording, and depends on its length and the window options alone; a unit is a few dozen
spans, an hour or so of sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SPAN_S = 60.0
LARGEST_UNIT_S = 3600.0
SMALLEST_UNIT_S = 60.0
UNITS_OF_A_SMALL_ARCHIVE = 16


@dataclass(frozen=True)
class Windows:
    """How recordings are cut.

    Attributes:
        window_s: length of a window; at most the encoder's clip.
        hop_s: from one window's start to the next one's.
    """

    window_s: float
    hop_s: float

    def count(self, duration_s: float) -> int:
        """Windows of a recording: as many as cover it to its end, and at least one.

        The last one may be shorter than `window_s`. A hop longer than the window samples the recording.
        """
        return int(self.counts(np.array([duration_s]))[0])

    def counts(self, durations_s: np.ndarray) -> np.ndarray:
        """`count` of many recordings: float [n] → int64 [n]."""
        covering = np.ceil((durations_s - self.window_s) / self.hop_s - 1e-6) + 1
        starting = np.ceil(durations_s / self.hop_s - 1e-6)
        return np.maximum(1, np.minimum(covering, starting)).astype(np.int64)

    def heard_s(self, durations_s: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Seconds of recordings that lie in their first windows, each second once.

        Args:
            durations_s: of the recordings, float [n].
            counts: windows of each, int [n].

        Returns:
            float64 [n].
        """
        before = np.maximum(counts - 1, 0)
        last_s = np.clip(durations_s - before * self.hop_s, 0, self.window_s)
        return np.where(counts > 0, before * min(self.hop_s, self.window_s) + last_s, 0.0)


@dataclass(frozen=True)
class Span:
    """Consecutive windows of one recording.

    Attributes:
        path: the recording, relative to the archive.
        first, count: its windows are numbers first … first + count - 1 of the recording.
    """

    path: str
    first: int
    count: int


@dataclass(frozen=True)
class Unit:
    """Spans that are annotated together and written as one file.

    Attributes:
        name: a hash of what is in it.
        spans: recording by recording, in order.
    """

    name: str
    spans: tuple[Span, ...]


def span_windows(windows: Windows) -> int:
    """Windows of a full span."""
    return max(1, int(SPAN_S // windows.hop_s))


def spans_of(path: str, duration_s: float, windows: Windows) -> Iterator[Span]:
    """The spans of one recording."""
    total = windows.count(duration_s)
    size = span_windows(windows)
    for first in range(0, total, size):
        yield Span(path, first, min(size, total - first))


def cuts(span: Span, windows: Windows, rate_hz: int) -> list[tuple[int, int]]:
    """From which to, not including, which sample each window of a span goes.

    Samples are counted from the start of the recording, so that windows lie where they would were it cut in one go.
    """
    length = round(windows.window_s * rate_hz)
    starts = [round(number * windows.hop_s * rate_hz) for number in range(span.first, span.first + span.count)]
    return [(start, start + length) for start in starts]
