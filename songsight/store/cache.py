"""What this machine made once and keeps: copies of models from elsewhere, converted models, banks of texts.

They lie in `songsight` below `XDG_CACHE_HOME` (default `~/.cache`), one folder each, and together take at most
`SONGSIGHT_CACHE_GB` (default 20): what was not used for longest makes room. All of it can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator

import filelock

from songsight.errors import UserError

SIZE = "SONGSIGHT_CACHE_GB"
DEFAULT_GB = 20.0
RECENT_S = 3600.0
"""What was asked for so lately may not be open yet: it stays even where all together is too large."""


def folder() -> str:
    """The cache's folder, made where it is missing.

    Where that cannot be written, as a service's home often cannot, it is `songsight-<uid>` in the temporary folder.

    Raises:
        UserError: that is there already and is another user's.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    wanted = os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "songsight")
    if os.path.isabs(wanted) and _can_write(wanted):
        return wanted
    instead = os.path.join(tempfile.gettempdir(), f"songsight-{os.getuid()}")
    if not _can_write(instead) or os.path.islink(instead) or os.stat(instead).st_uid != os.getuid():
        raise UserError(f"XDG_CACHE_HOME: neither {wanted} nor {instead} is a folder of yours that can be written")
    return instead


def entry(kind: str, key: str, make: Callable[[str], object]) -> str:
    """A folder of the cache, filled where it is missing and else only marked as used.

    Of several processes that ask at once, one fills it and the others wait. No process ever sees a part of it.

    Args:
        kind: which of the cache's folders it lies in, such as `models`.
        key: its name there, which says all that its content depends on.
        make: fills the empty folder whose path it is given.

    Returns:
        the path. The cache does not delete it within the hour; files that are open or mapped stay readable anyway.

    Raises:
        UserError: `SONGSIGHT_CACHE_GB` is no number.
        whatever `make` raises; nothing is kept then.
    """
    root, limit = folder(), _limit_bytes()
    kept = os.path.join(root, kind, key)
    if _use(kept):
        return kept
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    with filelock.FileLock(f"{kept}.lock"):
        if _use(kept):
            return kept
        with tempfile.TemporaryDirectory(dir=os.path.dirname(kept)) as making:
            fresh = os.path.join(making, key)
            os.mkdir(fresh)
            make(fresh)
            os.utime(fresh)
            try:
                os.rename(fresh, kept)
            except OSError:  # where locks do not hold another process may have been faster: its copy is as good
                if not _use(kept):
                    raise
    _trim(root, kept, limit)
    return kept


def _can_write(path: str) -> bool:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)


def _limit_bytes() -> float:
    said = os.environ.get(SIZE, "")
    try:
        size = float(said or DEFAULT_GB)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise UserError(f"{SIZE} {said}: should be a number of gigabytes, such as {DEFAULT_GB:g}")
    return size * 1e9


def _use(path: str) -> bool:
    """Whether an entry is there; it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's, in a cache that several share
        return os.path.isdir(path)
    return True


def _trim(root: str, asked: str, limit_bytes: float) -> None:
    """Deletes what was not used for longest until the rest is within the limit, but for what was used lately."""
    found = sorted((*_used_and_size(path), path) for path in _entries(root))
    total = sum(size for _, size, _ in found)
    for used, size, path in found:
        if total <= limit_bytes or used > time.time() - RECENT_S:
            break
        if path == asked:
            continue
        try:
            # Out of the way at once: nobody may be given a folder that is half gone.
            with tempfile.TemporaryDirectory(dir=os.path.dirname(path), ignore_cleanup_errors=True) as gone:
                os.rename(path, os.path.join(gone, "gone"))
        except OSError:  # another process deleted it
            continue
        total -= size


def _entries(root: str) -> Iterator[str]:
    """What lies in the folders of the kinds: entries, and what a killed process left of one."""
    for kind in os.scandir(root):
        with contextlib.suppress(OSError):  # a file, or a folder of another user's
            yield from (each.path for each in os.scandir(kind.path))


def _used_and_size(path: str) -> tuple[float, int]:
    """When an entry was used or written to last, in seconds since 1970, and the bytes of its files."""
    used, size = 0.0, 0
    for name in (path, *(os.path.join(top, name) for top, _, names in os.walk(path) for name in names)):
        try:
            found = os.lstat(name)
        except OSError:  # deleted meanwhile
            continue
        used = max(used, found.st_mtime)
        size += 0 if os.path.isdir(name) else found.st_size
    return used, size
