"""Where a thread's random numbers come from, for threads that draw side by side."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_of_thread = threading.local()


def generator() -> torch.Generator | None:
    """This thread's own, inside `seeded`; else None, PyTorch's own, which all threads share."""
    return getattr(_of_thread, "generator", None)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Gives this thread a generator on the CPU."""
    before = generator()
    _of_thread.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _of_thread.generator = before
