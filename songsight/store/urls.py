"""Every read and write goes through here: one place for schemes, credentials and endpoints.

A URL is a local path (`data/x.wav`, `file:///data/my%20x.wav`) or anything that fsspec knows (`s3://bucket/key`,
`gs://`, `hf://`, `memory://`). Only in `file://` does `%XX` stand for another sign; `::` is part of a name, and makes
no chain of URLs as it does in fsspec. Credentials and endpoints come from each scheme's own environment variables:
`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and so on for S3.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import posixpath
import re
import shutil
import stat
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import fsspec

from songsight.errors import UserError

# s3fs reads ahead 50 MiB by default: a 10 s window of a recording is 1 MB.
WINDOW_BLOCK_BYTES = 1 << 20
HEADER_BLOCK_BYTES = 1 << 16
_REMOVING_THREADS = 16
PUBLIC_BUCKETS = ("inaturalist-open-data",)
"""Anybody may read these: they are asked without a signature where nothing says who asks."""

_S3 = ("s3://", "s3a://")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FILE = re.compile(r"^file:(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)  # RFC 8089
_COLONS = "\0\0"  # in place of `::`, which fsspec would cut a URL at


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URL, and the URL's path inside it.

    Raises:
        UserError: the scheme is unknown, or its fsspec package is not installed.
    """
    if not is_remote(url):
        path = os.path.join(os.getcwd(), re.sub(r"^(?:\./+)+", "", os.path.expanduser(_plain(url))))
        return fsspec.filesystem("file"), path.rstrip("/") or "/"
    options: dict[str, Any] = {}
    if url.startswith(_S3):
        if url.partition("://")[2].partition("/")[0] in PUBLIC_BUCKETS and not _has_aws_credentials():
            options["anon"] = True
        options["max_concurrency"] = 1  # s3fs does not try again where one of several parts of a file is cut short
    try:
        fs, path = fsspec.core.url_to_fs(url.replace("::", _COLONS), **options)
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: {error}") from None
    return fs, path.replace(_COLONS, "::")


@functools.cache
def _has_aws_credentials() -> bool:
    """Whether the environment, a profile or the machine itself says who asks."""
    import botocore.session

    try:
        return botocore.session.get_session().get_credentials() is not None
    except Exception:  # a profile that is not there, or half written: s3fs says so in its own words
        return True


def _plain(url: str) -> str:
    """A local path as it is, that of a `file://` URL with its `%XX` decoded."""
    scheme = _FILE.match(url)
    return urllib.parse.unquote(url[scheme.end() :], errors="surrogateescape") if scheme else url


def is_remote(url: str) -> bool:
    """Whether a URL names a scheme other than the local file system's."""
    return bool(_SCHEME.match(url)) and not _FILE.match(url)


def join(base: str, *parts: str) -> str:
    """A URL below another: `join("s3://b/out", "hits")` is `s3://b/out/hits`; an absolute part stands alone."""
    url = _plain(base)
    for part in parts:
        url = part if _SCHEME.match(part) or part.startswith("/") else posixpath.join(url, part)
    return url


def below(folder: str, name: str) -> str:
    """The URL of a file that a folder was listed with, whatever its name looks like: `/x.wav` behind `s3://b/2026` is
    `s3://b/2026//x.wav`, the key with an empty folder, and no local path.
    """
    return f"{_plain(folder).rstrip('/')}/{name}"


def absolute(url: str) -> str:
    """A URL that means the same in another process, without a slash at its end: local paths become absolute."""
    return url.rstrip("/") if is_remote(url) else os.path.abspath(filesystem(url)[1])


def parent(url: str) -> str:
    """The folder of a URL: `s3://b/x/m.parquet` → `s3://b/x`, `m.parquet` → `.`. It ends in a slash where a key has an
    empty folder, so that `join` leads back: `s3://b/x//m.parquet` → `s3://b/x//`.
    """
    if not is_remote(url):
        return posixpath.dirname(_plain(url)) or "."
    folder = url.rpartition("/")[0]
    return f"{folder}/" if folder.endswith("/") and "://" in folder[:-1] else folder


def exists(url: str) -> bool:
    """Whether a file or folder is there.

    Raises:
        UserError: the store cannot be asked: no credentials, no such endpoint, no permission.
    """
    fs, path = filesystem(url)
    try:
        return bool(fs.exists(path))
    except Exception as error:  # each store's client has errors of its own, and botocore's are no OSErrors
        raise UserError(unreachable(url, error)) from None


def require_writable(url: str, option: str) -> None:
    """Checks that files can be written below a folder that need not be there yet; leaves nothing behind.

    Raises:
        UserError: they cannot, or something on the way is a file.
    """
    try:
        if is_remote(url):
            probe = join(url, f".{uuid.uuid4().hex}.tmp")
            write_bytes(probe, b"")
            remove_file(probe)
            return
        folder = os.path.abspath(filesystem(url)[1])
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise UserError(f"{option} {url}: {folder} is a file; give a folder")
        tempfile.TemporaryFile(dir=folder).close()
    except UserError:
        raise
    except Exception as error:  # each store's client has errors of its own
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {url}: cannot be written: {' '.join(str(said).split())}") from None


def require_writable_file(url: str, option: str) -> None:
    """The same for one file, which may be there already.

    Raises:
        UserError: it is a folder, or nothing can be written beside it.
    """
    fs, path = filesystem(url)
    if not is_remote(url) and fs.isdir(path):
        raise UserError(f"{option} {url}: is a folder; give a file")
    require_writable(parent(url), option)


def unreachable(url: str, error: Exception) -> str:
    """One line on a store that did not answer, and what decides who asks and where."""
    said = " ".join(str(error).split()) or type(error).__name__
    way_out = "; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL say who asks, and where"
    return f"{url}: {said}{way_out if url.startswith(_S3) else ''}"


def open_read(url: str, block_bytes: int = WINDOW_BLOCK_BYTES) -> IO[bytes]:
    """A seekable binary handle that fetches only the byte ranges that are read, from S3 so many bytes at a time.

    Raises:
        OSError: a local file is no regular one, see `require_regular`, or cannot be read.
    """
    fs, path = filesystem(url)
    if not is_remote(url):
        require_regular(url)
        return open(path, "rb")
    # For this handle alone: what Ray writes through the same filesystem goes up in parts, of 5 MiB at least.
    options = {"block_size": block_bytes} if url.startswith(_S3) else {}
    return fs.open(path, "rb", **options)


def require_regular(url: str) -> None:
    """Checks that opening a local file can neither block nor lead to something without an end; others pass.

    Raises:
        OSError: with ESPIPE where it is a pipe, a socket or a device; as the system says where it is not there.
    """
    if not is_remote(url) and not stat.S_ISREG(os.stat(path := filesystem(url)[1]).st_mode):
        raise OSError(errno.ESPIPE, "not a regular file", path)


def write_bytes(url: str, data: bytes) -> None:
    """Writes a whole file so that no reader ever sees half of it.

    Object stores publish an object only when its upload is complete; on a local disk the bytes go to a
    neighbouring name first and are then renamed, which POSIX makes atomic.
    """
    fs, path = filesystem(url)
    if is_remote(url):
        fs.pipe_file(path, data)
        return
    with _whole(path) as temporary, open(temporary, "wb") as handle:
        handle.write(data)


def put_file(path: str, url: str) -> None:
    """Copies a local file to a URL without holding it in memory; no reader ever sees half of it."""
    fs, target = filesystem(url)
    if is_remote(url):
        fs.put_file(path, target)
        return
    with _whole(target) as temporary:
        shutil.copyfile(path, temporary)


@contextlib.contextmanager
def _whole(path: str) -> Iterator[str]:
    """A neighbouring name to write to, which takes a local file's place at the end, or is removed after an error."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def read_bytes(url: str) -> bytes:
    """The whole content of a small file."""
    fs, path = filesystem(url)
    return fs.cat_file(path)


def fetch_folder(url: str, into: str) -> str:
    """Copies a remote folder to a local one and returns the local path; a local folder is returned as it is.

    Raises:
        UserError: there is nothing at the URL, or a name there leads out of the local folder.
    """
    if not is_remote(url):
        return filesystem(url)[1]
    fs, path = filesystem(url)
    files = fs.find(path)
    if not files:
        raise UserError(f"{url}: nothing is there")
    for remote in files:
        local = os.path.abspath(f"{into}/{remote.removeprefix(path)}")
        if not local.startswith(os.path.abspath(into) + os.sep):
            raise UserError(f"{url}: {remote} leads out of the folder: rename it")
        os.makedirs(os.path.dirname(local), exist_ok=True)
        fs.get_file(remote, local)
    return into


def store_folder(folder: str, url: str) -> None:
    """Copies the files of a local folder below a URL, each whole or not at all; files of the same name are replaced."""
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            local = os.path.join(root, name)
            with open(local, "rb") as handle:
                write_bytes(join(url, os.path.relpath(local, folder)), handle.read())


def remove(url: str) -> None:
    """Deletes a folder and all below it; nothing there is no error."""
    fs, path = filesystem(url)
    if url.startswith(_S3):
        # s3fs would delete many by one request, without the Content-MD5 that stores other than Amazon's ask for there.
        with ThreadPoolExecutor(_REMOVING_THREADS) as pool:
            list(pool.map(fs.rm_file, fs.find(path)))
    elif fs.exists(path):
        fs.rm(path, recursive=True)


def remove_file(url: str) -> None:
    """Deletes one file; none there is no error."""
    fs, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def arrow_filesystem(url: str) -> tuple[Any, str]:
    """The same filesystem for pyarrow and Ray, and the URL's path inside it.

    Going through fsspec keeps one place for credentials and endpoints: pyarrow's own S3 ignores `AWS_ENDPOINT_URL`.
    Local files are pyarrow's own: its threads read them without asking for the interpreter's lock, on which a query of
    DuckDB's over a data set was once seen to wait for ever.
    """
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    fs, path = filesystem(url)
    return (PyFileSystem(FSSpecHandler(fs)) if is_remote(url) else LocalFileSystem()), path
