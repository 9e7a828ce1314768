from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.archive.spans import SPAN_S, Windows, cuts, spans_of


def starts(duration_s: float, windows: Windows) -> list[float]:
    return [number * windows.hop_s for number in range(windows.count(duration_s))]


@pytest.mark.parametrize(
    ("duration_s", "window_s", "hop_s", "expected"),
    [
        (30, 10, 10, [0, 10, 20]),
        (30.01, 10, 10, [0, 10, 20, 30]),
        (3, 10, 10, [0]),
        (10, 10, 5, [0]),
        (12, 10, 5, [0, 5]),
        (65, 10, 30, [0, 30, 60]),
        (60, 10, 30, [0, 30]),
        (0.1 * 3, 0.1, 0.1, [0, 0.1, 0.2]),
    ],
)
def test_windows_cover_a_recording_to_its_end(
    duration_s: float, window_s: float, hop_s: float, expected: list[float]
) -> None:
    assert starts(duration_s, Windows(window_s, hop_s)) == pytest.approx(expected)


durations = st.floats(1e-3, 30 * 3600.0)
lengths = st.floats(0.05, 60.0)


@given(
    frames=st.integers(1, 48_000 * 86_400),
    window_s=lengths,
    hop_s=st.floats(0.1, 200.0),
    rate_hz=st.integers(8000, 48_000),
)
def test_spans_tile_any_recording(frames: int, window_s: float, hop_s: float, rate_hz: int) -> None:
    """Every window is in one span, where it would be were the recording cut in one go, and no sample is left out."""
    windows = Windows(window_s, hop_s)
    duration_s = frames / rate_hz
    total = windows.count(duration_s)
    if total > 50_000:
        return
    spans = list(spans_of("a.wav", duration_s, windows))
    numbers = np.concatenate([np.arange(span.first, span.first + span.count) for span in spans])
    assert (numbers == np.arange(total)).all()
    assert all(span.count * hop_s <= max(SPAN_S, hop_s) for span in spans)

    places = np.array([place for span in spans for place in cuts(span, windows, rate_hz)])
    begin_W, end_W = places.T
    assert begin_W[0] == 0
    assert (np.abs(begin_W / rate_hz - numbers * hop_s) <= 0.5 / rate_hz + 1e-9).all()
    assert (end_W - begin_W == round(window_s * rate_hz)).all()
    tolerance = 2 + 2e-6 * hop_s * rate_hz  # samples: rounding of window and hop, and of a length to its last digits
    assert begin_W[-1] < frames + tolerance
    if hop_s <= window_s:
        assert (begin_W[1:] <= end_W[:-1] + 1).all()
        assert end_W[-1] >= frames - tolerance
        if total > 1:
            assert end_W[-2] < frames + tolerance  # no window behind the one that reaches the end
    else:
        assert begin_W[-1] + round(hop_s * rate_hz) >= frames - tolerance


@given(durations_s=st.lists(durations, min_size=1, max_size=20), window_s=lengths, hop_s=lengths)
def test_counts_of_many_are_the_counts_of_each(durations_s: list[float], window_s: float, hop_s: float) -> None:
    windows = Windows(window_s, hop_s)
    assert windows.counts(np.array(durations_s)).tolist() == [windows.count(duration) for duration in durations_s]


@pytest.mark.parametrize(
    ("duration_s", "hop_s", "count", "expected"),
    [
        (20, 6, 4, 3 + 3 + 3 + 2),
        (16, 6, 3, 9),  # none begins in the last second
        (2, 6, 1, 2),
        (20, 3, 7, 20),
        (20, 1.5, 13, 20),
        (20, 6, 2, 6),  # the rest was not decoded
        (20, 1.5, 3, 6),
        (20, 6, 0, 0),
    ],
)
def test_what_is_heard_of_a_recording_in_windows_of_three_seconds(
    duration_s: float, hop_s: float, count: int, expected: float
) -> None:
    assert Windows(3, hop_s).heard_s(np.array([duration_s]), np.array([count])) == pytest.approx(expected)


@given(duration_s=durations, window_s=lengths, hop_s=lengths)
def test_what_is_heard_is_what_lies_in_a_window(duration_s: float, window_s: float, hop_s: float) -> None:
    windows = Windows(window_s, hop_s)
    begin_W = np.arange(windows.count(duration_s)) * hop_s
    end_W = np.minimum(begin_W + window_s, duration_s)
    once = np.minimum(end_W[:-1], begin_W[1:]) - begin_W[:-1]
    expected = once.sum() + max(0.0, end_W[-1] - begin_W[-1])
    assert windows.heard_s(np.array([duration_s]), np.array([len(begin_W)])) == pytest.approx(expected, abs=1e-3)
