"""Whether results can be written, found out before hours are spent on making them."""

from __future__ import annotations

import uuid

from distill import storage
from distill.errors import UserError


def check(url: str | None, option: str) -> None:
    """Writes a small file into a folder, which is made if it is missing, and removes it again; None passes.

    Raises:
        UserError: that cannot be done.
    """
    if url is None:
        return
    probe = storage.join(url, f".songsight-{uuid.uuid4().hex}")
    try:
        storage.write_bytes(probe, b"songsight")
        storage.remove_file(probe)
    except Exception as error:  # each store's client has errors of its own, and botocore's are no OSErrors
        raise UserError(f"{option}: cannot write to {storage.unreachable(url, error)}") from None


def check_file(url: str | None, option: str) -> None:
    """The same for a file that is yet to be written.

    Raises:
        UserError: nothing can be written beside it, or it is a folder.
    """
    if url is None:
        return
    fs, path = storage.filesystem(url)
    if fs.isdir(path):
        raise UserError(f"{option}: {url} is a folder: give a file")
    check(storage.parent(url), option)
