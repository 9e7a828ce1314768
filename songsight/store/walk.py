"""What files lie below a URL, one by one, and what is passed over there: the same for every job that looks.

Passed over, and counted, are hidden files and folders, what systems put beside people's files (`.Trashes`,
`$RECYCLE.BIN`, the `._x.wav` of macOS), and what is no regular file: a pipe would block whoever opens it, a device may
never end.
"""

from __future__ import annotations

import os
import re
import stat
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from songsight.store import urls
from songsight.store.retry import persistently

# A dot before a name, though not the names `.` and `..`, which a key of an object store may have; folders of Windows,
# macOS' zip files, Synology (@eaDir, #recycle, #snapshot), QNAP (@Recycle, @Recently-Snapshot) and NetApp (~snapshot).
_HIDDEN = re.compile(
    r"(?:^|/)(?:\.(?!\.?(?:/|$))|(?:\$recycle\.bin|recycler|system volume information|__macosx|"
    r"@eadir|[@#]recycle|[#~]snapshot|@recently-snapshot)/)",
    re.IGNORECASE,
)
# Whose keys are names and nothing else; to others `..` is the folder above.
_OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://", "memory://")


@dataclass
class PassedOver:
    """What a walk leaves out.

    Attributes:
        files: how many hidden ones there are, and such as are no regular files.
        closed: folders that this user may not look into.
    """

    files: int = 0
    closed: list[str] = field(default_factory=list)


def walk(url: str, passed_over: PassedOver) -> Iterator[tuple[str, int, str]]:
    """Name below the URL, bytes and etag or modification time of every file, folder by folder or page by page.

    A name is what the store gave, to be opened by `urls.below`; bytes of a local name that are no UTF-8 are shown as
    `\\xff`. A dangling link has no bytes and no time.

    Args:
        url: a folder.
        passed_over: is added to.
    """
    fs, root = urls.filesystem(url)
    if not urls.is_remote(url):
        yield from _local(root, passed_over)
        return
    prefix = root.rstrip("/") + "/"
    for path, size, stamp in _s3(fs, root) if url.startswith(("s3://", "s3a://")) else _others(fs, root):
        name = path.removeprefix(prefix)
        up = not url.startswith(_OBJECT_STORES) and ".." in urllib.parse.unquote(name).split("/")
        if up or not path.startswith(prefix) or size is None or _HIDDEN.search(name):
            passed_over.files += 1
        else:
            yield name, size, stamp


def _local(root: str, passed_over: PassedOver) -> Iterator[tuple[str, int, str]]:
    prefix = root.rstrip("/") + "/"
    # A folder, whether it is hidden, and where the folders really are that the links on the way to it lie in.
    waiting: list[tuple[str, bool, tuple[str, ...]]] = [(root, False, ())]
    while waiting:
        folder, hidden, above = waiting.pop()
        try:
            inside = list(os.scandir(folder))
        except PermissionError:
            if folder == root:
                raise
            if hidden:
                passed_over.files += 1
            else:
                passed_over.closed.append(folder)  # lost+found and the like
            continue
        for entry in inside:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, hidden or bool(_HIDDEN.match(f"{entry.name}/")), above))
                    continue
                if entry.is_symlink() and os.path.isdir(entry.path):
                    links = (*above, os.path.realpath(folder))
                    if not hidden and not _HIDDEN.match(f"{entry.name}/") and not _encloses(entry.path, links):
                        waiting.append((entry.path, hidden, links))
                    continue
                state = entry.stat()
                size, stamp, regular = state.st_size, str(state.st_mtime), stat.S_ISREG(state.st_mode)
            except OSError:
                size, stamp, regular = 0, "", True  # a dangling link: its fate is told when it is opened
            if hidden or not regular or _HIDDEN.match(entry.name):
                passed_over.files += 1
            else:
                name = entry.path.removeprefix(prefix)
                yield name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), size, stamp


def _encloses(link: str, folders: tuple[str, ...]) -> bool:
    """Whether a link leads to one of some folders or above it, and so round and round."""
    target = os.path.realpath(link).rstrip("/") + "/"
    return any(f"{folder}/".startswith(target) for folder in folders)


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


def _others(fs: Any, root: str) -> Iterator[tuple[str, int | None, str]]:
    """As fsspec finds them; no bytes where something is no file. Its `walk` would lose names with empty folders."""
    for path, info in fs.find(root, detail=True).items():
        stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
        yield path, None if info.get("type") == "other" else int(info.get("size") or 0), str(stamp)
