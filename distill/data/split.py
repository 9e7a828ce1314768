"""How a global batch is divided among ranks; without torch, for the tasks that decode need none."""

from __future__ import annotations


def share(batch_size: int, rank: int, world: int) -> slice:
    """The rows of a global batch that one rank takes: any number of ranks share it, to within one row evenly."""
    return slice(batch_size * rank // world, batch_size * (rank + 1) // world)


def share_size(batch_size: int, rank: int, world: int) -> int:
    """How many rows that is."""
    rows = share(batch_size, rank, world)
    return rows.stop - rows.start
