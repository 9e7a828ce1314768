"""What the recordings of an archive are, as far as their headers and names tell.

Nothing is decoded here. Headers are read in parallel, by range reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from inference.archive import recorders
from inference.archive.sites import SiteRule
from songsight import pool
from songsight.audio.reader import AudioError, probe
from songsight.reasons import from_storage
from songsight.store import tables, urls
from songsight.store.retry import patiently

FILES_PER_BLOCK = 64
# Of the inventory, kept while it is made: what a killed run need not read again.
ROWS_PER_PART = 20_000
KEPT_EVERY_S = 30.0
HEADER_THREADS = 8  # a header costs some waiting and little work

SEEN = pa.schema(
    [
        *(field for field in tables.RECORDINGS_SEEN if field.name not in ("status", "windows", "hits")),
        pa.field("cut_short", pa.string()),
        pa.field("sequential", pa.bool_()),
    ]
)
"""The inventory: `tables.RECORDINGS_SEEN` as far as headers tell. `reason` and `detail` are "" where the recording can
be used, `note` what is to be doubted of clock and place, and `cut_short` what a usable one lacks of what its header
promises. `sequential` is whether a span costs all the sound before it."""


def inventory(
    files: pa.Table,
    url: str,
    timezone: str | None,
    sites: SiteRule,
    progress: Callable[[int], None] = lambda done: None,
    keep: Callable[[pa.Table], object] | None = None,
) -> pa.Table:
    """Reads recordings' headers by a Ray job.

    Args:
        files: `listing.SCHEMA`.
        url: of the archive.
        timezone: the clock of names that give no offset, see `recorders.parse_zone`.
        sites: what site a path belongs to.
        progress: called with the files done.
        keep: called now and then with the rows that were read since, for a run that goes on when it is stopped.

    Returns:
        `SEEN`, one row a file, sorted by path.
    """
    root = urls.absolute(url)

    def read(block: _Block) -> pa.Table:
        files = block.files.to_pylist()
        if block.hopeless:
            rows = [_unopened(file, timezone, sites) for file in files]
        else:
            with ThreadPoolExecutor(HEADER_THREADS) as pool:
                rows = list(pool.map(lambda file: _seen(root, file, timezone, sites), files))
        return pa.Table.from_pylist(rows, SEEN)

    blocks = (_Block(files.slice(start, FILES_PER_BLOCK)) for start in range(0, len(files), FILES_PER_BLOCK))
    found: list[pa.Table] = []
    done = parts = fresh = 0
    kept_at = time.monotonic()
    for batch in pool.tasks(read, blocks, _Block.instead):
        found.append(batch)
        done += len(batch)
        fresh += len(batch)
        if keep is not None and (fresh >= ROWS_PER_PART or time.monotonic() - kept_at > KEPT_EVERY_S):
            keep(pa.concat_tables(found[parts:]))
            parts, fresh, kept_at = len(found), 0, time.monotonic()
        progress(done)
    return pa.concat_tables([SEEN.empty_table(), *found]).sort_by("path").combine_chunks()


@dataclass(frozen=True)
class _Block:
    """Files whose headers one task reads; hopeless where it is one file that ended each process which opened it."""

    files: pa.Table
    hopeless: bool = False

    def instead(self) -> list[_Block]:
        """What is left to do where the process that read these ended, time after time."""
        if len(self.files) == 1:
            return [_Block(self.files, hopeless=True)]
        return [_Block(self.files.slice(number, 1)) for number in range(len(self.files))]


def _unopened(file: dict[str, Any], timezone: str | None, sites: SiteRule) -> dict[str, Any]:
    lost = {"reason": "crashed", "detail": "a process that read its header ended each time", "cut_short": ""}
    origin = recorders.origin(file["path"], timezone=timezone)
    return file | {"site": sites.of(file["path"])} | lost | vars(origin)


def _seen(root: str, file: dict[str, Any], timezone: str | None, sites: SiteRule) -> dict[str, Any]:
    url = urls.below(root, file["path"])
    row: dict[str, Any] = file | {"site": sites.of(file["path"]), "reason": "", "detail": "", "cut_short": ""}
    try:
        info = patiently(lambda: probe(url))
        row |= {"duration_s": info.duration_s, "sample_rate_hz": info.sample_rate_hz, "channels": info.channels}
        row["sequential"] = info.sequential
        if info.truncated:
            row["cut_short"] = (
                f"the header promises {info.claimed_duration_s:.2f} s, the file holds {info.duration_s:.2f} s"
            )
    except AudioError as error:
        row |= {"reason": error.reason, "detail": error.detail}
        if error.reason == "vanished" and "\\x" in file["path"]:
            row |= {"reason": "name", "detail": "the name holds bytes that are not UTF-8: rename the file"}
    try:
        # The store was waited for once: the name of a file that it does not give is still to be had.
        origin = _identify(url, timezone) if row["reason"] else patiently(lambda: _identify(url, timezone))
    except AudioError:
        origin = recorders.origin(url, timezone=timezone)
    return row | vars(origin)


def _identify(url: str, timezone: str | None) -> recorders.Origin:
    try:
        return recorders.identify(url, timezone)
    except Exception as error:  # botocore's errors are no OSErrors
        raise from_storage(error) from None
