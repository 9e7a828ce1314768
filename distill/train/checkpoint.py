"""Checkpoints: what of a training goes on after a lost worker, a lost node or a killed driver."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch

from distill.train.log import TrainingLog
from distill.train.step import Learner
from songsight.models import student

PREEMPTION_EVERY = 4
"""Steps between questions whether a node is about to be taken away, for which all workers meet."""
STATE_FILE = "state.pt"


def latest(device: torch.device) -> dict[str, Any] | None:
    """What `report` kept of this run last: `model`, `optimizer`, `step`, `failed` and `unsent`; None at its start."""
    from ray import train

    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(os.path.join(folder, STATE_FILE), map_location=device, weights_only=True)


def report(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    step: int,
    failed: dict[int, str],
    log: TrainingLog,
    values: dict[str, float],
) -> None:
    """Keeps a checkpoint, written by rank 0; every rank must call it at the same step.

    Args:
        learner, optimizer: as they are.
        step: steps taken.
        failed: undecodable rows of all ranks, with the word of `REASONS` that says why.
        log: whose unsent figures are kept too.
        values: to report to Ray beside the latest held-out measures.
    """
    from ray import train

    reported = {"step": step} | values | log.latest
    if log.rank:
        train.report(reported)
        return
    with tempfile.TemporaryDirectory() as folder:
        state = {
            "model": learner.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "failed": failed,
            "unsent": log.pending,
        }
        torch.save(state, os.path.join(folder, STATE_FILE))
        student.save(learner.student, os.path.join(folder, "model"), card="")
        train.report(reported, checkpoint=train.Checkpoint.from_directory(folder))


class Preemptions:
    """The nodes that were announced to go, as spot instances are some seconds before they are taken away."""

    def __init__(self) -> None:
        self.nodes: set[str] = set()

    def just_announced(self, step: int) -> bool:
        """Whether another one was announced: the same answer on every rank, each of which must ask at every step."""
        from ray import train

        if step % PREEMPTION_EVERY:
            return False
        info = train.get_preemption_info()
        before = len(self.nodes)
        self.nodes |= set(info.preempted_node_ids if info else ())
        return len(self.nodes) > before
