"""Whether a command has anything to do at all, told by names, sizes and times, before anything heavy is imported."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from distill import storage
from inference.listing import Listing
from inference.patience import persistently

_NO_INPUT = ("archive", "out", "dry_run")


def stamp(options: dict[str, Any], files: Listing) -> str:
    """A hash of a command and of the files that it names; "" where an input is no file, such as a registered model.

    Two equal stamps are the same work; the same work may have different stamps, which costs a closer look.

    Args:
        options: of the job; each text that is the path of something stands for what is there.
        files: of the archive.
    """
    inputs: list[Any] = [files.fingerprint()]
    for name, value in sorted(options.items()):
        inputs.append((name, value))
        if not isinstance(value, str) or name in _NO_INPUT:
            continue
        if persistently(lambda value=value: storage.exists(value)):  # type: ignore[misc]
            inputs += _files(value)
        elif name in ("model", "gallery"):
            return ""
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


def is_done(out: str, mark: str) -> str | None:
    """The id of the run in `out` if it has this stamp and nothing to try again."""
    url = storage.join(out, "run.json")
    if not mark or not persistently(lambda: storage.exists(url)):
        return None
    record = json.loads(persistently(lambda: storage.read_bytes(url)))
    return record["run_id"] if record.get("stamp") == mark and not record.get("to_retry") else None


def _files(url: str) -> list[tuple[str, int, str]]:
    fs, root = storage.filesystem(url)
    found = persistently(lambda: fs.find(root, detail=True))
    return [
        (path, int(info["size"] or 0), str(info.get("ETag") or info.get("mtime") or info.get("LastModified")))
        for path, info in sorted(found.items())
    ]
