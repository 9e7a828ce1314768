"""How fast a run went: when the first window was done, and the rate while all actors were at work."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any


class Pace:
    """An actor's stopwatch. Times are seconds since 1970, so that those of several processes can be compared."""

    def __init__(self) -> None:
        self.actor = f"{os.uname().nodename}-{os.getpid()}"
        self.first = 0.0
        self.start()

    def start(self) -> None:
        """A unit begins."""
        self.begin = time.time()
        self.windows = 0

    def saw(self, encoder: Any, given: Any, vectors: Any) -> None:
        """A batch of windows is embedded; fits `torch.nn.Module.register_forward_hook`."""
        self.first = self.first or time.time()
        self.windows += len(vectors)

    def stop(self) -> str:
        """A unit is done: one JSON text."""
        return json.dumps(
            {
                "actor": self.actor,
                "first": self.first,
                "begin": self.begin,
                "end": time.time(),
                "windows": self.windows,
            }
        )


def summary(texts: Iterable[str], since: float) -> dict[str, Any]:
    """What a run records of its pace.

    Args:
        texts: what `Pace.stop` returned, of each unit.
        since: when the command was given, seconds since 1970.

    Returns:
        `first_window_s`: from the command to the first batch of windows embedded; `steady_windows_per_s`: the rate from
        the moment when the last actor has embedded a batch to the moment when the first one has no work left, which
        are `steady_between`. None where nothing was embedded, or actors did not work side by side.
    """
    units = [json.loads(text) for text in texts]
    firsts: dict[str, float] = {}
    ends: dict[str, float] = {}
    for unit in units:
        if unit["first"]:
            firsts[unit["actor"]] = unit["first"]
        ends[unit["actor"]] = max(unit["end"], ends.get(unit["actor"], 0.0))
    if not firsts:
        return {"first_window_s": None, "steady_windows_per_s": None, "steady_between": None}
    start, stop = max(firsts.values()), min(ends.values())
    windows = 0.0
    for unit in units:
        within = min(stop, unit["end"]) - max(start, unit["begin"])
        windows += unit["windows"] * max(0.0, within) / max(unit["end"] - unit["begin"], 1e-9)
    return {
        "first_window_s": min(firsts.values()) - since,
        "steady_windows_per_s": windows / (stop - start) if stop > start else None,
        "steady_between": (start, stop) if stop > start else None,
    }
