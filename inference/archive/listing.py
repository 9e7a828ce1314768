"""What files lie in an archive: paths, sizes, and etags or times, as one Arrow table.

A million files are a few hundred MB as Python objects and a tenth of that as columns: folders are walked, and pages of
an object store asked for, one by one, and only columns are kept. Nothing heavy is imported, so that a run that has
nothing to do can say so at once.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from songsight.audio.names import is_audio_path
from songsight.errors import UserError
from songsight.store import urls
from songsight.store.retry import persistently

SCHEMA = pa.schema([("path", pa.string()), ("size_bytes", pa.int64()), ("etag_or_mtime", pa.string())])

_CHUNK_FILES = 20_000
_READING_THREADS = 16


@dataclass(frozen=True)
class Listing:
    """The files of an archive.

    Attributes:
        url: of the archive.
        table: `SCHEMA`, one row a recording, sorted by path. The path is below the archive.
        skipped: files that are no recordings by their names.
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
        closed: list[str] = []
        chunks, skipped = collect(_entries(url, fs, root, closed), root, progress)
    except UserError:
        raise
    except Exception as error:  # botocore's errors are no OSErrors
        raise UserError(f"{option}: {urls.unreachable(url, error)}") from None
    table = pa.Table.from_batches(chunks, SCHEMA)
    if not len(table):
        raise UserError(f"{option}: {url} holds no recording ({skipped} other files)")
    return Listing(url, table.sort_by("path").combine_chunks(), skipped, tuple(closed))


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
            with urls.open_read(urls.join(archive, path)) as handle:
                handle.read(1)
        except Exception:  # botocore's errors are no OSErrors
            return False
        return True

    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return list(pool.map(begins, paths))


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def collect(
    entries: Iterator[tuple[str, int, str]], root: str, progress: Callable[[int], None]
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

    prefix = root.rstrip("/") + "/"
    for path, size, stamp in entries:
        if is_audio_path(path):
            # A name that is not UTF-8 cannot stand in a table: it is shown with its odd bytes as \xff, and not found.
            paths.append(
                path.removeprefix(prefix).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            )
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


def _entries(url: str, fs: Any, root: str, closed: list[str]) -> Iterator[tuple[str, int, str]]:
    """Path, bytes and etag or modification time of every file, folder by folder or page by page."""
    if not urls.is_remote(url):
        yield from _local(root, closed)
    elif url.startswith(("s3://", "s3a://")):
        yield from _s3(fs, root)
    else:
        for folder, _, files in fs.walk(root, detail=True):
            for name, info in files.items():
                yield posixpath.join(folder, name), *_size_and_stamp(info)


def _local(root: str, closed: list[str]) -> Iterator[tuple[str, int, str]]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            inside = list(os.scandir(folder))
        except PermissionError:
            if folder == root:
                raise
            closed.append(folder)  # lost+found and the like
            continue
        for entry in inside:
            try:
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                    if not _encloses(entry, folder):
                        waiting.append(entry.path)
                    continue
                state = entry.stat()
                yield entry.path, state.st_size, str(state.st_mtime)
            except OSError:
                yield entry.path, 0, ""  # a dangling link: its fate is told when it is opened


def _encloses(entry: os.DirEntry[str], folder: str) -> bool:
    """Whether a link leads to a folder that it lies in, and so round and round."""
    return entry.is_symlink() and (os.path.realpath(folder) + "/").startswith(os.path.realpath(entry.path) + "/")


def _s3(fs: Any, root: str) -> Iterator[tuple[str, int, str]]:
    """A thousand objects a request. s3fs's own listing keeps a dictionary of every object in memory."""
    bucket, _, prefix = root.partition("/")
    ask: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix.rstrip("/") + "/" if prefix else ""}
    while True:
        page = persistently(lambda: fs.call_s3("list_objects_v2", **ask))
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):
                yield f"{bucket}/{item['Key']}", int(item["Size"]), str(item.get("ETag") or item.get("LastModified"))
        if not page.get("IsTruncated"):
            return
        ask["ContinuationToken"] = page["NextContinuationToken"]


def _size_and_stamp(info: dict[str, Any]) -> tuple[int, str]:
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
    return int(info["size"]), str(stamp)
