"""The training river: each worker's share of every batch, decoded by Ray Data on any CPU of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distill.data.order import Order
from distill.data.rows import TrainingRows
from distill.data.split import share_size

BLOCKS_PER_EXECUTION = 4000
"""One execution of Ray Data plans all its tasks up front: a long run is cut into executions of this many."""


def training_batches(
    rows: Any, rows_per_block: int, order: Order, rank: int, world: int, first_step: int, device: str
) -> Iterator[dict[str, Any]]:
    """One worker's share of every global batch from `first_step` to the end of the run.

    Args:
        rows: an object-store reference to `TrainingRows`.
        rows_per_block: rows that one task decodes.
        order: of the run.
        rank, world: of this worker.
        first_step: the step to go on from.
        device: where the tensors go.

    Yields:
        torch tensors: `wave` float32 [b, clip_samples], and int64 [b] `text`, `species`, `row`, `failed`, `reason`
        (see `TrainingRows.row`).
    """
    size = share_size(order.batch_size, rank, world)
    steps_per_execution = max(1, BLOCKS_PER_EXECUTION * rows_per_block // size)

    for begin in range(first_step, order.steps, steps_per_execution):
        steps = min(steps_per_execution, order.steps - begin)

        def rows_at(places: np.ndarray, begin: int = begin) -> tuple[np.ndarray, np.ndarray]:
            steps_of = begin + places // size
            numbers = [order.share(int(s), rank, world)[int(p) % size] for s, p in zip(steps_of, places, strict=True)]
            return steps_of // order.steps_per_epoch, np.asarray(numbers)

        yield from _decoded(rows, steps * size, rows_per_block, size, rows_at, device)


def _decoded(
    rows: Any,
    count: int,
    rows_per_block: int,
    batch_size: int,
    rows_at: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    device: str,
) -> Iterator[dict[str, Any]]:
    import ray

    def decode(batch: Any) -> Any:
        source: TrainingRows = ray.get(rows)
        epochs, numbers = rows_at(batch["id"])
        decoded = [source.row(int(number), int(epoch)) for epoch, number in zip(epochs, numbers, strict=True)]
        return {
            name: np.stack([one[name] for one in decoded])
            if name == "wave"
            else np.array([one[name] for one in decoded], np.int64)
            for name in decoded[0]
        }

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    blocks = max(1, -(-count // rows_per_block))
    dataset = ray.data.range(count, override_num_blocks=blocks).map_batches(decode, batch_size=None)
    yield from dataset.iter_torch_batches(batch_size=batch_size, prefetch_batches=2, device=device)
