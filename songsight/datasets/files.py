"""A data set's folder and the tables in it, as every adapter reads them."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa

from songsight.errors import UserError
from songsight.store import sheets, urls
from songsight.store.walk import PassedOver, walk

# What an exported data frame calls the column that has no name.
_INDEX_COLUMNS = ("", "Unnamed: 0")

# A pandas frame that was saved with its file names as the index has them here.
INDEX = "__index_level_0__"

# "2013-07-05 18:10:00 +0000" has a space and no colon where ISO 8601 has neither space nor, before Python 3.11, that.
_SPACED_OFFSET = re.compile(r"\s+([+-]\d{2}:?\d{2})$")


# What `datasets` writes behind a table's name when it writes it in pieces.
_SHARD = re.compile(r"-\d+-of-\d+$")

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""The names that data sets have for splits, and what they are called here: jobs know train, val and test."""


class Folder:
    """A data set's root: where its relative paths start. Its files are listed once, when first asked for.

    Args:
        root: a folder, or a table in it (then only that table is read), on any filesystem.

    Raises:
        UserError: nothing is there, or the storage refuses.
    """

    def __init__(self, root: str) -> None:
        fs, path = urls.filesystem(root)
        self.fs = fs
        try:
            there, is_file = fs.exists(path), fs.isfile(path)
        except Exception as error:
            # Each scheme has its own errors for wrong credentials, endpoints and names: all of them are the user's.
            raise UserError(f"{root}: {type(error).__name__}: {' '.join(str(error).split())}") from None
        if not there:
            raise UserError(f"no such file or folder: {root}")
        self.root = root
        self.passed_over = PassedOver()  # known when the files are listed
        self.table = posixpath.basename(absolute(root)) if is_file else None
        self.url = urls.parent(absolute(root)) if is_file else absolute(root)

    @cached_property
    def files(self) -> frozenset[str]:
        """The paths of every file below the folder, relative to it; what `walk` passes over is left out."""
        try:
            files = frozenset(name for name, _, _ in walk(self.url, self.passed_over))
        except Exception as error:  # botocore's errors are no OSErrors
            raise UserError(urls.unreachable(self.root, error)) from None
        if not files:
            raise UserError(f"{self.root} holds no files")
        return files

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        by_name = defaultdict(list)
        for file in sorted(self.files):
            by_name[posixpath.basename(file)].append(file)
        return dict(by_name)

    def locate(self, name: str) -> str:
        """The file that a table's `name` means: itself, else the only file whose path ends so, else the only namesake.

        A name that fits none or several is returned as it is, and so ends up among the missing files.
        """
        if name in self.files or name.startswith("/") or "://" in name:
            return name
        namesakes = self._by_name.get(posixpath.basename(name), [])
        fitting = [file for file in namesakes if file.endswith("/" + name)] or namesakes
        return fitting[0] if len(fitting) == 1 else name

    def tables(self, pattern: str) -> list[str]:
        """The paths of the files whose base name fits a regular expression, or the one table that the root names."""
        if self.table is not None:
            return [self.table]
        return sorted(file for file in self.files if re.search(pattern, posixpath.basename(file)))

    def open(self, name: str) -> str:
        """The URL of one of the folder's files."""
        return urls.below(self.url, name)

    def place(self, path: str) -> str:
        """The URL that a row's path means: of the file that a store lists by that very name, else where it leads to."""
        url = absolute(urls.join(self.url, path))
        listed = self.open(name := path.removeprefix(f"{self.url}/"))
        return listed if listed != url and urls.is_remote(self.url) and name in self.files else url


def absolute(url: str) -> str:
    """A URL that means the same from any working folder; local ones become plain paths.

    `.` and `..` are resolved. Empty folders stay, as a key of an object store may have them.
    """
    if urls.is_remote(url):
        scheme, _, path = url.rstrip("/").partition("://")
        kept: list[str] = []
        for part in path.split("/"):
            if part == "..":
                kept[1:] = kept[1:-1]  # the bucket stays
            elif part != ".":
                kept.append(part)
        return f"{scheme}://{'/'.join(kept)}"
    if url.startswith("/"):
        # The one form that needs no file system to understand: a data set has it in every row.
        return posixpath.normpath(url)
    return os.path.abspath(urls.filesystem(url)[1])


def read_rows(url: str, required: Iterable[str] = (), text: Sequence[str] = ()) -> pa.Table:
    """A table of `sheets.read`, without an index column, and without the sound itself that Hugging Face's exports
    carry beside its description.

    Raises:
        UserError: see there.
    """
    table = sheets.read(url, required, text, without=("audio",))
    return table.drop_columns([column for column in table.column_names if column in _INDEX_COLUMNS])


def stack(parts: Sequence[pa.Table], where: str) -> pa.Table:
    """The rows of several tables; a column that one of them lacks is null there.

    Raises:
        UserError: a column that is of different kinds in two of them.
    """
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where}: its tables do not fit together, take one at a time ({reason})") from None


def read_json(url: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(urls.read_bytes(url))
    except ValueError as error:
        raise UserError(f"{url} is not JSON: {error}") from None


def array(column: Sequence[Any]) -> pa.Array:
    """Values of any kind as a column; as JSON where they are of several kinds."""
    try:
        return pa.array(column)
    except pa.ArrowException:
        return pa.array([None if value is None else json.dumps(value) for value in column], pa.string())


def values(table: pa.Table, *names: str) -> list[Any]:
    """The values of the first of these columns that the table has; as many nulls when it has none."""
    for name in names:
        if name in table.column_names:
            return table[name].to_pylist()
    return [None] * len(table)


def short_hash(*parts: object) -> str:
    """16 hexadecimal digits that stand for these values: an id where a data set has none."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def row_ids(keys: Iterable[Sequence[object]]) -> list[str]:
    """An id for each row of a table that has none, by what tells its rows apart. A row that others equal is numbered
    in their order, so that none stands for another: a file may have several rows that differ in their captions alone.
    """
    seen: Counter[Sequence[object]] = Counter()
    ids = []
    for key in keys:
        ids.append(short_hash(*key, *([seen[key]] if seen[key] else [])))
        seen[key] += 1
    return ids


def utc(value: object) -> datetime | None:
    """A moment in UTC, or None where the value is not a time of day with its offset from UTC.

    A bare date or a local time is not guessed at: an hour's error would put a bird into the wrong dawn.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(_SPACED_OFFSET.sub(r"\1", value.strip()))
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    return value.astimezone(UTC)


def split_in_name(name: str) -> str | None:
    """The split that a file's name ends in: `HSN_metadata_test_5s.parquet`, `test_5s-00000-of-00001.parquet` →
    `test_5s`.
    """
    stem = _SHARD.sub("", posixpath.basename(name).split(".")[0].lower())
    found = re.search(rf"(?:^|[_-])({'|'.join(SPLITS)}|test_5s)$", stem)
    return found.group(1) if found else None


def plain_split(split: str | None) -> str | None:
    """A split by the name that it has here: `valid` is `val`. Others stay; blank is none."""
    stripped = (split or "").strip()
    return SPLITS.get(stripped.lower(), stripped) or None


def chosen_parts(have: Iterable[str], parts: Sequence[str], where: str) -> Iterator[str]:
    """Those of a data set's parts that were asked for, all of them when none were.

    Raises:
        UserError: a part that the data set does not have.
    """
    known = list(have)
    for part in parts:
        if part not in known:
            raise UserError(f"{where} has no part {part!r} (it has {', '.join(known)})")
    return (part for part in known if not parts or part in parts)
