"""Keeps what works beside a training step on a CPU from interrupting it.

A thread that takes a core from one thread of a step holds up the others too: they wait for that one at the end of the
operation. While they wait, a core is free, many times a step. What Linux's SCHED_IDLE policy (sched(7)) is given to
runs then, and hardly otherwise. SCHED_BATCH is for what must not come to a standstill on a machine that others use too:
it takes its fair share but does not interrupt.

Ray has much of it: each of its workers and actors wakes a hundred times a second to look for signals.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

IDLE_ACTORS = (
    "TrainController",
    "SynchronizationActor",
    "PlacementGroupCleaner",
    "DatasetManager",
    "_StatsActor",
    "_AutoscalingCoordinatorActor",
)
"""Those of Ray Train and Ray Data that do nothing a step waits for."""
NICENESS = 15
"""Of Ray's other workers and actors, as Ray itself has it for all of them."""
_TRAINS = "RayTrainWorker"
_GLOO = "gloo_tcp_loop"  # polls, with one worker too


def step_aside(proc: Path = Path("/proc")) -> dict[str, list[str]]:
    """Called by a worker of a Ray that is its driver's own, on this machine alone: tells the rest of it to step aside.

    `IDLE_ACTORS` get SCHED_IDLE. SCHED_BATCH is for Ray's other processes, for those that decode, and for the threads
    of this process that listen for messages. Ray's other workers and actors get `NICENESS` too. What cannot be changed
    is left as it is: on other systems than Linux that is everything.

    Args:
        proc: the file system of processes.

    Returns:
        Names of the processes, under `idle` and `batch`.
    """
    import ray

    package = str(Path(ray.__file__).parent) + os.sep
    found: dict[str, list[str]] = {"idle": [], "batch": []}
    if not hasattr(os, "SCHED_IDLE"):
        return found
    with contextlib.suppress(OSError):
        for thread in (proc / str(os.getpid()) / "task").iterdir():
            listens = int(thread.name) == os.getpid() or (thread / "comm").read_text().strip() == _GLOO
            if listens and int(thread.name) != threading.get_native_id():
                _set(thread, os.SCHED_BATCH)
    processes = {int(folder.name): (parent, words) for folder, parent, words in _processes(proc)}
    raylet = os.getppid()
    driver = processes[raylet][0] if raylet in processes else None
    for number, (parent, words) in processes.items():
        name = words[0].removeprefix("ray::").split(".")[0].strip()
        of_ray = parent == raylet and words[0].startswith("ray::") and name != _TRAINS
        system = (number == raylet or parent in (raylet, driver)) and any(word.startswith(package) for word in words)
        if of_ray or system:
            idle = of_ray and name in IDLE_ACTORS
            with contextlib.suppress(OSError):  # such as of one that ended meanwhile
                for thread in (proc / str(number) / "task").iterdir():
                    _set(thread, os.SCHED_IDLE if idle else os.SCHED_BATCH)
                    if of_ray and os.getpriority(os.PRIO_PROCESS, int(thread.name)) < NICENESS:
                        os.setpriority(os.PRIO_PROCESS, int(thread.name), NICENESS)
                found["idle" if idle else "batch"].append(name)
    return found


def run_when_idle() -> None:
    """Gives this thread, and those that it starts from now on, the policy SCHED_IDLE where there is one."""
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def run_as_usual() -> None:
    """Takes back SCHED_BATCH, which a worker has from its parent where `step_aside` was called before it began."""
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_BATCH:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def use_threads(number: int) -> None:
    """So many for the operators of PyTorch that this thread, one that was started for it, calls from now on.

    Before its first operator a thread takes the number that any thread was told last: here that comes first.
    """
    torch.get_num_threads()
    torch.set_num_threads(number)


def _set(thread: Path, policy: int) -> None:
    os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))


def _processes(proc: Path) -> Iterator[tuple[Path, int, list[str]]]:
    """Each process's folder, its parent, and the words of its command."""
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # such as of one that ended meanwhile
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            yield folder, int((folder / "stat").read_text().rpartition(")")[2].split()[1]), words
