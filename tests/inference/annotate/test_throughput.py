from __future__ import annotations

import json
import time

import pytest
import torch

from inference.annotate.throughput import Pace, summary


def unit(actor: str, first: float, begin: float, end: float, windows: int) -> str:
    return json.dumps({"actor": actor, "first": first, "begin": begin, "end": end, "windows": windows})


def test_the_steady_rate_is_of_the_time_when_all_work() -> None:
    units = [
        unit("a", 105.0, 100.0, 110.0, 10),  # the first one a second
        unit("a", 105.0, 110.0, 120.0, 20),
        unit("b", 110.0, 108.0, 120.0, 24),
        unit("b", 110.0, 120.0, 400.0, 1),  # alone: not counted
    ]
    found = summary(units, since=90.0)
    assert found["first_window_s"] == 15.0
    assert found["steady_between"] == (110.0, 120.0)
    assert found["steady_windows_per_s"] == pytest.approx((20 + 20) / 10)


def test_without_a_window_there_is_no_pace() -> None:
    nothing = {"first_window_s": None, "steady_windows_per_s": None, "steady_between": None}
    assert summary([], 0.0) == nothing
    assert summary([unit("a", 0.0, 1.0, 2.0, 0)], 0.0) == nothing


def test_actors_one_behind_the_other_have_no_steady_rate() -> None:
    found = summary([unit("a", 2.0, 1.0, 3.0, 5), unit("b", 6.0, 5.0, 7.0, 5)], 0.0)
    assert found == {"first_window_s": 2.0, "steady_windows_per_s": None, "steady_between": None}


def test_a_stopwatch_counts_what_an_encoder_embeds() -> None:
    pace, encoder = Pace(), torch.nn.Linear(2, 2)
    encoder.register_forward_hook(pace.saw)
    before = time.time()
    pace.start()
    encoder(torch.zeros(3, 2))
    encoder(torch.zeros(1, 2))
    told = json.loads(pace.stop())
    assert told["windows"] == 4
    assert before <= told["begin"] <= told["first"] <= told["end"]
    pace.start()
    assert json.loads(pace.stop())["windows"] == 0
