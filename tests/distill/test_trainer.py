from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from distill import trainer


def batches(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"number": number}


def test_features_are_made_ahead_in_order() -> None:
    made = trainer._ahead(lambda batch, step: batch | {"step": step}, batches(20), 5)
    assert list(made) == [{"number": number, "step": number + 5} for number in range(20)]


def test_what_fails_ahead_fails_at_its_step() -> None:
    def make(batch: dict[str, Any], step: int) -> dict[str, Any]:
        if step == 2:
            raise ValueError("no features")
        return batch

    made = trainer._ahead(make, batches(5), 0)
    assert [next(made)["number"] for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="no features"):
        next(made)


def test_what_the_data_fails_with_comes_through() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"number": 0}
        raise OSError("no storage")

    made = trainer._ahead(lambda batch, step: batch, broken(), 0)
    assert next(made) == {"number": 0}
    with pytest.raises(OSError, match="no storage"):
        next(made)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no SCHED_IDLE")
@pytest.mark.parametrize("takes_s", [0.0, 0.1])
def test_features_come_out_of_free_cores_unless_steps_wait_for_them(takes_s: float) -> None:
    def make(batch: dict[str, Any], step: int) -> dict[str, Any]:
        time.sleep(takes_s)
        return {"way": (os.sched_getscheduler(0), torch.get_num_threads())}

    ways = []
    for made in trainer._ahead(make, batches(20), 0):
        ways.append(made["way"])
        if not takes_s:
            time.sleep(0.05)  # a step in which the next features are made easily
    assert ways[: trainer.LATE] == [(os.SCHED_IDLE, 1)] * trainer.LATE
    if takes_s:
        assert ways[trainer.LATE + 1 : 2 * trainer.LATE] == [(os.SCHED_OTHER, 1)] * (trainer.LATE - 1)
        assert ways[-1] == (os.SCHED_OTHER, torch.get_num_threads())
    else:
        assert set(ways) == {(os.SCHED_IDLE, 1)}
