"""Which recordings of a training cannot be decoded, and whether they are too many.

Each rank notes those of its own batches. Whether they are too many is asked of all ranks together, which must ask at
the same steps: at checkpoints and ends of epochs, and early on at steps 1, 2, 4, 8 and so on, so that a share that is
not mounted ends a run in its first minute and not behind its first epoch.
"""

from __future__ import annotations

from typing import Any

import torch

from distill.data.order import Order
from distill.data.rows import REASON_OF
from songsight.audio.clips import Clips, undecodable

# A share says little of a few recordings: fewer than this are too many only by what the whole table may have.
ENOUGH_TO_JUDGE = 64


class BadRows:
    """The rows that could not be decoded, by rank.

    Args:
        order: of the run.
        most: share of the recordings that may be bad.
        rank, world: of this worker.
    """

    def __init__(self, order: Order, most: float, rank: int, world: int) -> None:
        self.order = order
        self.most = most
        self.rank = rank
        self.world = world
        self.found: dict[int, str] = {}

    def note(self, failed: torch.Tensor, reason: torch.Tensor) -> None:
        """Takes in a batch's int64 [b] columns; see `TrainingRows.row`."""
        for row, why in zip(failed.tolist(), reason.tolist(), strict=True):
            if row >= 0:
                self.found[row] = REASON_OF[why]

    def reread(self, rows: dict[int, str], clips: Clips) -> None:
        """Reads once more what was bad before the run was stopped: it may have been repaired since."""
        self.found |= undecodable(clips, sorted(rows)[self.rank :: self.world])

    def of_all_ranks(self) -> dict[int, str]:
        """Row and reason of every rank's bad rows, in the rows' order; all ranks must ask."""
        return dict(sorted(gather(self.found, self.world).items()))

    def too_many(self, step: int) -> bool:
        """Whether the run should fail, behind a step: the same answer on every rank, each of which must ask.

        That is where more of the whole table is bad than may be, or most of what was read so far is.
        """
        bad, seen = len(self.of_all_ranks()), self.seen(step)
        hopeless = seen >= ENOUGH_TO_JUDGE and bad > max(self.most, 0.5) * seen
        return hopeless or bad > self.most * self.order.rows

    def seen(self, step: int) -> int:
        """Rows that were read by a step, at most all."""
        return min(step * self.order.batch_size, self.order.rows)

    @staticmethod
    def early(step: int) -> bool:
        """Whether to ask behind a step that is no checkpoint: at powers of two, of which even long runs have few."""
        return step & (step - 1) == 0


def gather(mine: dict[int, str], world: int) -> dict[int, str]:
    """The union of what each rank holds a part of."""
    if world == 1:
        return mine
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, mine)
    return {row: why for share in shares for row, why in share.items()}
