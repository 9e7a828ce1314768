"""Both stand-ins at once: a process each, of one thread, which on two cores beats one after the other on both."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess


def train(
    world_dir: str,
    teacher_out: str,
    base_out: str,
    seed: int = 0,
    teacher_steps: int | None = None,
    base_steps: int | None = None,
    with_teacher: Callable[[], None] = lambda: None,
) -> None:
    """Trains the teacher and the base side by side and prints a line about each every few seconds.

    Args:
        world_dir: what `demoworld.world.build` wrote.
        teacher_out: the teacher's folder, for open_clip's `local-dir:`.
        base_out: the base's folder, for `ClapModel.from_pretrained`.
        seed: the same seed gives the same weights on the same machine.
        teacher_steps, base_steps: None: as many as each needs to be worth distilling.
        with_teacher: what to do once the teacher is saved, while the base, which takes longer, still learns.

    Raises:
        RuntimeError: one of them failed; its own traceback is on stderr.
    """
    context = get_context("spawn")
    teacher, base = processes = [
        context.Process(target=_train_one, args=("teacher", world_dir, teacher_out, seed, teacher_steps)),
        context.Process(target=_train_one, args=("base", world_dir, base_out, seed, base_steps)),
    ]
    for process in processes:
        process.start()
    try:
        while teacher.exitcode is None:
            wait([process.sentinel for process in processes if process.exitcode is None])
            _require_success(processes)
        with_teacher()
        base.join()
        _require_success(processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _require_success(processes: list[SpawnProcess]) -> None:
    if any(process.exitcode for process in processes):  # None while it runs
        raise RuntimeError("a stand-in model could not be trained")


def _train_one(which: str, world_dir: str, out: str, seed: int, steps: int | None) -> None:
    """Runs in a process of its own; imports wait for the environment, which torch reads once."""
    os.environ.update(
        OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_WAIT_POLICY="passive", TOKENIZERS_PARALLELISM="false"
    )
    import torch

    torch.set_num_threads(1)
    if which == "teacher":
        from demoworld import teacher

        teacher.train_teacher(world_dir, out, seed, steps or teacher.STEPS)
    else:
        from demoworld import base

        base.train_base(world_dir, out, seed, steps or base.STEPS)
