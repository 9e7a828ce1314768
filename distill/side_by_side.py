"""A module's forward and backward on a CPU by two threads, each with half of the batch.

A thread that takes an operation's second half waits at its end for the one that has the first, some thousand times in a
step of an audio tower; and whenever another process takes one of their cores, both stand still. Threads that have half
of the clips each meet twice in a step.

Two of them, for their gradients are then summed in one order: a + b is b + a, and no third is added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from distill import draws, helpers

LANES = 2


class SideBySide:
    """Called like the module, whose parameters get their gradients in the backward pass.

    Dropout draws for each half from a generator of its own, seeded by what is drawn from PyTorch's.

    Args:
        module: takes one float tensor [batch, …] that asks for no gradient, and returns tensors [batch, …]; what it
            draws in training, it draws from `draws.generator()`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.pool: ThreadPoolExecutor | None = None

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As the module alone, where halves are not equal, or are one thread's, or elsewhere than on a CPU."""
        if x.device.type != "cpu" or len(x) % LANES or torch.get_num_threads() % LANES:
            return self.module(x)
        if self.pool is None:
            self.pool = ThreadPoolExecutor(LANES, "lane", helpers.use_threads, (torch.get_num_threads() // LANES,))
        asks = torch.empty(0, requires_grad=torch.is_grad_enabled())
        return _Joined.apply(asks, x, self._forward, self._backward)

    def _forward(self, x: torch.Tensor, with_graph: bool) -> list[tuple[torch.Tensor, ...]]:
        seeds = torch.randint(2**62, (LANES,)).tolist()
        bf16, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def lane(half: torch.Tensor, seed: int) -> tuple[torch.Tensor, ...]:
            with torch.set_grad_enabled(with_graph), torch.autocast("cpu", dtype, bf16), draws.seeded(seed):
                return self.module(half)

        return self._map(lane, x.chunk(LANES), seeds)

    def _backward(
        self, halves: list[tuple[torch.Tensor, ...]], gradients: list[tuple[torch.Tensor | None, ...]]
    ) -> None:
        def lane(half: tuple[torch.Tensor, ...], gradient: tuple[torch.Tensor | None, ...]) -> None:
            asked = [(y, dy) for y, dy in zip(half, gradient, strict=True) if dy is not None and y.requires_grad]
            torch.autograd.backward([y for y, _ in asked], [dy for _, dy in asked])

        self._map(lane, halves, gradients)

    def _map(self, work: Callable[..., Any], *each: Iterable[Any]) -> list[Any]:
        assert self.pool is not None
        return list(self.pool.map(work, *each))


class _Joined(torch.autograd.Function):
    """What the lanes make, in one graph; that of each lane is gone through by its own thread."""

    @staticmethod
    def forward(ctx: Any, asks: torch.Tensor, x: torch.Tensor, forward: Any, backward: Any) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.halves, ctx.backward_of = forward(x, asks.requires_grad), backward
        return tuple(torch.cat(kind) for kind in zip(*ctx.halves, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[None, ...]:
        halves, ctx.halves = ctx.halves, None  # their graphs go with them
        cut = [(None,) * LANES if dy is None else dy.chunk(LANES) for dy in gradients]
        ctx.backward_of(halves, list(zip(*cut, strict=True)))
        return None, None, None, None
