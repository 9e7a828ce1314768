"""Keeps the actors that Ray Train and Ray Data work with from interrupting a training step on a CPU.

A process of Ray's wakes a hundred times a second to look for signals. Each time it takes a core from a thread of the
step, and the other threads wait for that one at the end of the operation. Under Linux's SCHED_IDLE policy (sched(7)) it
runs where a core has nothing else to do, which is often enough: the threads of a step wait for each other many times.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NAMES = (
    "TrainController",
    "SynchronizationActor",
    "PlacementGroupCleaner",
    "DatasetManager",
    "_StatsActor",
    "_AutoscalingCoordinatorActor",
)
"""Of the actors: none of them does anything that a step waits for. Not those that decode."""


def step_aside(proc: Path = Path("/proc")) -> list[str]:
    """Gives this machine's helpers, which were started by the process that started this one, the policy SCHED_IDLE.

    What cannot be changed is left as it is: on other systems than Linux that is everything.

    Args:
        proc: the file system of processes.

    Returns:
        Names of those that have it now.
    """
    found: list[str] = []
    if not hasattr(os, "SCHED_IDLE"):
        return found
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # such as of one that ended meanwhile
            title = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            name = title.removeprefix("ray::").split(".")[0].strip()
            if not title.startswith("ray::") or name not in NAMES or _parent(folder) != os.getppid():
                continue
            for thread in (folder / "task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
            found.append(name)
    return found


def _parent(folder: Path) -> int:
    return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
