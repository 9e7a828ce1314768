"""Whether a command has anything to do at all, told by names, sizes and times, before anything heavy is imported."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate import record
from inference.annotate.ledger import read_parquet
from inference.annotate.record import Record
from inference.archive import listing
from songsight.errors import UserError
from songsight.reasons import RETRIED
from songsight.store import registry, urls
from songsight.store.retry import persistently

_INPUTS = ("model", "gallery", "calibration", "range", "species_list")


def stamp(options: dict[str, Any], archive: str) -> str:
    """A hash of a command and of what it names; "" where something has no mark that is cheap to tell.

    Two equal stamps are the same work; the same work may have different stamps, which costs a closer look.

    Args:
        options: of the job; files and folders stand for what is there.
        archive: a hash of the recordings, or of the run that `--from-embeddings` names.
    """
    marks: list[Any] = [archive]
    for name, value in sorted(options.items()):
        if name in ("archive", "from_embeddings", "out", "dry_run"):
            continue
        marks.append((name, value))
        if name in _INPUTS and value is not None:
            found = _model(value) if name == "model" else _files(value)
            if not found:
                return ""
            marks.append(found)
    return hashlib.sha256(repr(marks).encode()).hexdigest()[:16]


def is_done(out: str, mark: str, archive: str | None = None) -> Record | None:
    """The `run.json` in `out` if it has this stamp, and what could not be reached then cannot be reached now either.

    Args:
        out: URL of the results.
        mark: see `stamp`.
        archive: URL of the recordings, where some may have to be tried again.
    """
    found = record.read(out)
    if not mark or found is None or found.stamp != mark:
        return None
    if persistently(lambda: urls.exists(urls.join(out, ".state"))):
        return None  # killed at its very end
    if archive is not None and found.to_retry:
        url = urls.join(out, "recordings", f"{found.run_id}.parquet")
        seen = persistently(lambda: read_parquet(url, ["path", "reason"]))
        paths = seen["path"].filter(pc.is_in(seen["reason"], pa.array(RETRIED)))
        if any(listing.readable(archive, paths.to_pylist())):
            return None
    return found


def _model(name: str) -> Any:
    if name.startswith(registry.SCHEME):
        found = registry.location(name, "--model")  # imports MLflow, which takes some seconds, but not torch
        return found if found.startswith(registry.SCHEME) else _files(found)
    return _files(name) or _snapshot(name)


def _snapshot(name: str) -> str:
    """The commit of a hub's model that lies in this machine's cache; "" where none does."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return os.path.basename(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return ""


def _files(url: str) -> list[tuple[str, int, str]]:
    """Names, sizes and times of a file or of all in a folder; none where nothing is there."""
    try:
        if not persistently(lambda: urls.exists(url)):
            return []
    except UserError:
        return []  # the closer look says what is wrong with it
    fs, root = urls.filesystem(url)
    found = persistently(lambda: fs.find(root, detail=True))
    return [
        (path, int(info["size"] or 0), str(info.get("ETag") or info.get("mtime") or info.get("LastModified")))
        for path, info in sorted(found.items())
    ]
