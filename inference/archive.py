"""What the recordings of an archive are, as far as their headers and names tell.

Nothing is decoded here. Headers are read in parallel, by range reads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from distill import storage, tables
from distill.audio import AudioError, probe
from distill.audio_errors import from_storage
from inference import recorders
from inference.patience import patiently
from inference.sites import SiteRule

FILES_PER_BLOCK = 64
HEADER_THREADS = 8  # a header costs some waiting and little work

SEEN = pa.schema(
    [
        *(field for field in tables.RECORDINGS_SEEN if field.name not in ("status", "note", "windows", "hits")),
        pa.field("cut_short", pa.string()),
        pa.field("sequential", pa.bool_()),
    ]
)
"""The inventory: `tables.RECORDINGS_SEEN` as far as headers tell. `reason` and `detail` are "" where the recording can
be used, and `cut_short` says what a usable one lacks of what its header promises. `sequential` is whether a span costs
all the sound before it."""


def inventory(
    files: pa.Table,
    url: str,
    timezone: str | None,
    sites: SiteRule,
    progress: Callable[[int], None] = lambda done: None,
) -> pa.Table:
    """Reads recordings' headers by a Ray job.

    Args:
        files: `listing.SCHEMA`.
        url: of the archive.
        timezone: the clock of names that give no offset, see `recorders.parse_zone`.
        sites: what site a path belongs to.
        progress: called with the files done.

    Returns:
        `SEEN`, one row a file, sorted by path.
    """
    import ray

    root = storage.absolute(url)

    def read(batch: pa.Table) -> pa.Table:
        with ThreadPoolExecutor(HEADER_THREADS) as pool:
            return pa.Table.from_pylist(
                list(pool.map(lambda row: _seen(root, row, timezone, sites), batch.to_pylist())), SEEN
            )

    blocks: list[Any] = [
        ray.put(files.slice(start, FILES_PER_BLOCK)) for start in range(0, len(files), FILES_PER_BLOCK)
    ]
    found: list[pa.Table] = []
    done = 0
    if blocks:
        dataset = ray.data.from_arrow_refs(blocks).map_batches(read, batch_size=None, batch_format="pyarrow")
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            found.append(batch.cast(SEEN))  # type: ignore[union-attr,operator]
            done += len(batch)
            progress(done)
    return pa.concat_tables([SEEN.empty_table(), *found]).sort_by("path").combine_chunks()


def _seen(root: str, file: dict[str, Any], timezone: str | None, sites: SiteRule) -> dict[str, Any]:
    url = storage.join(root, file["path"])
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
    return row | {
        "recorder": origin.recorder,
        "start_utc": origin.start_utc,
        "start_local": origin.start_local,
        "start_source": origin.start_source,
        "latitude": origin.latitude,
        "longitude": origin.longitude,
    }


def _identify(url: str, timezone: str | None) -> recorders.Origin:
    try:
        return recorders.identify(url, timezone)
    except Exception as error:  # botocore's errors are no OSErrors
        raise from_storage(error) from None
