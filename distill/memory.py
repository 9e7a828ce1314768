"""Makes processes that do the same work batch after batch keep one batch's memory for the next one.

By default glibc gives large blocks back to the system, which clears each page again at its next use: a quarter of a
training step's time on a CPU, a twentieth of annotating. Told not to, and to have one arena for all threads, a process
holds what it needed at most. glibc reads this when a process starts (https://man7.org/linux/man-pages/man3/mallopt.3.html)
and other C libraries not at all.
"""

from __future__ import annotations

import os
from typing import Any

ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}


def keep_freed_in_children() -> None:
    """Sets it for all processes that this one starts from now on; what a user has set himself stays."""
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)


def runtime_env() -> dict[str, Any] | None:
    """Ray's runtime environment for workers that keep what they free; None where they inherit the settings anyway."""
    missing = {name: value for name, value in ALLOCATOR.items() if name not in os.environ}
    return {"env_vars": missing} if missing else None
