"""What files lie in an archive: paths, sizes, and etags or times, as one Arrow table.

A million files are a few hundred MB as Python objects and a tenth of that as columns: they come one by one, and only
columns are kept. Nothing heavy is imported, so that a run that has nothing to do can say so at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from songsight.audio.names import is_audio_path
from songsight.errors import UserError
from songsight.store import urls
from songsight.store.retry import persistently
from songsight.store.walk import PassedOver, walk

SCHEMA = pa.schema([("path", pa.string()), ("size_bytes", pa.int64()), ("etag_or_mtime", pa.string())])

_CHUNK_FILES = 20_000
_READING_THREADS = 16


@dataclass(frozen=True)
class Listing:
    """The files of an archive.

    Attributes:
        url: of the archive.
        table: `SCHEMA`, one row a recording, sorted by path. The path is below the archive.
        skipped: files that are no recordings by their names, are hidden, or no regular files.
        closed: folders that this user may not look into.
    """

    url: str
    table: pa.Table
    skipped: int
    closed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def fingerprint(self) -> str:
        """A hash of what is there, by names, sizes and etags or times: 16 hex digits of SHA-256."""
        digest = hashlib.sha256()
        for batch in self.table.to_batches(max_chunksize=_CHUNK_FILES):
            for column in batch.columns:
                digest.update(repr(column.to_pylist()).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Change:
    """How an archive differs from what an earlier run of the same command saw.

    Attributes:
        todo: `SCHEMA`, the recordings to annotate, sorted by path: added, changed and to be tried again.
        added, changed, retried: how many of them are new, have another size or etag, or could not be read then.
        unreached: how many could not be read then and cannot be now; they are not in `todo`.
        changed_paths: those of `todo` that the earlier run has rows of.
        removed: paths that the earlier run saw and that are no longer there.
    """

    todo: pa.Table
    added: int
    changed: int
    retried: int
    unreached: int
    changed_paths: pa.Array
    removed: pa.Array


def listing(url: str, option: str = "--archive", progress: Callable[[int], None] = lambda found: None) -> Listing:
    """Lists an archive through and through.

    Args:
        url: a folder.
        option: that it was given as, for error lines.
        progress: called now and then with the number of files found.

    Raises:
        UserError: nothing is at the URL, it is a file, or holds no recording.
    """
    fs, root = urls.filesystem(url)
    try:
        if not persistently(lambda: fs.exists(root)):
            raise UserError(f"{option}: no such folder: {url}")
        if persistently(lambda: fs.isfile(root)):
            raise UserError(f"{option}: {url} is a file; give the folder that the recordings are in")
        passed_over = PassedOver()
        chunks, skipped = collect(walk(url, passed_over), progress)
        skipped += passed_over.files
    except UserError:
        raise
    except Exception as error:  # botocore's errors are no OSErrors
        raise UserError(f"{option}: {urls.unreachable(url, error)}") from None
    table = pa.Table.from_batches(chunks, SCHEMA)
    if not len(table):
        raise UserError(f"{option}: {url} holds no recording ({skipped} other files)")
    return Listing(url, table.sort_by("path").combine_chunks(), skipped, tuple(passed_over.closed))


def compare(
    now: pa.Table,
    before: pa.Table,
    again: tuple[str, ...],
    reach: Callable[[list[str]], list[bool]] = lambda paths: [True] * len(paths),
) -> Change:
    """What there is to do in an archive of which an earlier run annotated a part.

    Args:
        now: `SCHEMA`, sorted by path.
        before: path, size_bytes, etag_or_mtime and reason of the recordings that are annotated or quarantined.
        again: reasons that may have passed since.
        reach: which of some paths that failed for such a reason are worth another try.
    """
    at = pc.index_in(now["path"], before["path"])
    known = pc.is_valid(at)
    same = pc.fill_null(
        pc.and_(
            pc.equal(before["size_bytes"].take(at), now["size_bytes"]),
            pc.equal(before["etag_or_mtime"].take(at), now["etag_or_mtime"]),
        ),
        False,
    )
    failed = pc.fill_null(pc.is_in(before["reason"].take(at), pa.array(again, pa.string())), False)
    changed = pc.and_(known, pc.invert(same))
    failed = pc.and_(same, failed)
    tried = now["path"].filter(failed).to_pylist()
    reached = [path for path, there in zip(tried, reach(tried), strict=True) if there]
    retried = pc.and_(failed, pc.is_in(now["path"], pa.array(reached, pa.string())))
    mask = pc.or_(pc.invert(known), pc.or_(changed, retried))
    return Change(
        todo=now.filter(mask).combine_chunks(),
        added=len(now) - (pc.sum(known).as_py() or 0),
        changed=pc.sum(changed).as_py() or 0,
        retried=len(reached),
        unreached=len(tried) - len(reached),
        changed_paths=_array(now["path"].filter(pc.or_(changed, retried))),
        removed=_array(before["path"].filter(pc.invert(pc.is_in(before["path"], _array(now["path"]))))),
    )


def readable(archive: str, paths: list[str]) -> list[bool]:
    """Whether recordings can be opened and begun to be read just now.

    Args:
        archive: URL that the paths are below.
        paths: of the recordings.
    """

    def begins(path: str) -> bool:
        try:
            with urls.open_read(urls.below(archive, path)) as handle:
                handle.read(1)
        except Exception:  # botocore's errors are no OSErrors
            return False
        return True

    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return list(pool.map(begins, paths))


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def collect(
    entries: Iterator[tuple[str, int, str]], progress: Callable[[int], None]
) -> tuple[list[pa.RecordBatch], int]:
    """Columns of the recordings among the entries, and how many others there are."""
    chunks: list[pa.RecordBatch] = []
    paths: list[str] = []
    sizes: list[int] = []
    changed: list[str] = []
    found = skipped = 0

    def keep() -> None:
        chunks.append(pa.record_batch([paths, sizes, changed], schema=SCHEMA))
        for column in (paths, sizes, changed):
            column.clear()

    for path, size, stamp in entries:
        if is_audio_path(path):
            paths.append(path)
            sizes.append(size)
            changed.append(stamp)
        else:
            skipped += 1
        found += 1
        if len(paths) == _CHUNK_FILES:
            keep()
        if found % 1000 == 0:
            progress(found)
    if paths:
        keep()
    progress(found)
    return chunks, skipped
