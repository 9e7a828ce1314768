"""From what an adapter read to the table that is written: files that exist, paths that resolve, splits, unique ids."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from songsight.audio import clips
from songsight.datasets import files
from songsight.errors import UserError
from songsight.store import urls

_WEB = ("http://", "https://")


def present(table: pa.Table, folder: files.Folder) -> tuple[pa.Table, pa.Table]:
    """Parts the rows whose file exists from those whose does not, or that name none. `path` comes back absolute, or as
    a URL; the missing rows have a column `row`, their number in the data set, from 1.

    One listing of the data set's folder answers for every file in it; folders elsewhere are listed one by one. Web
    addresses cannot be listed, and pass (`unchecked` counts them).
    """
    full = [folder.place(path) if path else None for path in table["path"].to_pylist()]
    inside = folder.url.rstrip("/") + "/"
    elsewhere: dict[str, frozenset[str]] = {}

    def exists(url: str | None) -> bool:
        if url is None:
            return False
        if url.startswith(_WEB):
            return True
        if url.startswith(inside):
            return url.removeprefix(inside) in folder.files
        parent = urls.parent(url)
        if urls.is_remote(url) and parent.endswith("/"):
            return urls.exists(url)  # fsspec lists no folder without a name
        if parent not in elsewhere:
            elsewhere[parent] = _names_in(parent)
        return posixpath.basename(url) in elsewhere[parent]

    here = [exists(url) for url in full]
    keep, absent = pa.array(here, pa.bool_()), pa.array([not each for each in here], pa.bool_())
    table = table.set_column(table.column_names.index("path"), "path", pa.array(full, pa.string()))
    if "frames" in table.column_names:
        frames = [_with_frames(folder, row) for row in table["frames"].to_pylist()]
        table = table.set_column(
            table.column_names.index("frames"), "frames", pa.array(frames, table.schema.field("frames").type)
        )
    numbers = pa.array([number for number, each in enumerate(here, 1) if not each], pa.int64())
    missing = table.filter(absent)
    missing = missing.drop_columns([name for name in missing.column_names if name == "row"])
    return table.filter(keep), missing.append_column("row", numbers)


def unchecked(table: pa.Table) -> int:
    """How many of the rows that `present` found are web addresses, which it took on trust."""
    return sum(path.startswith(_WEB) for path in table["path"].to_pylist())


def relative(table: pa.Table, out: str) -> pa.Table:
    """Writes the paths below the table's own folder relative to it, so that both can be moved together."""
    beside = urls.parent(files.absolute(out))

    def from_there(path: str) -> str:
        name = path.removeprefix(beside.rstrip("/") + "/")
        return name if urls.join(beside, name) == path else path  # `/x.wav` behind an empty folder would lead elsewhere

    paths = pa.array([from_there(path) for path in table["path"].to_pylist()], pa.string())
    table = table.set_column(table.column_names.index("path"), "path", paths)
    if "frames" in table.column_names:
        frames = [
            row and [frame | {"path": from_there(frame["path"])} for frame in row]
            for row in table["frames"].to_pylist()
        ]
        table = table.set_column(
            table.column_names.index("frames"), "frames", pa.array(frames, table.schema.field("frames").type)
        )
    return table


def with_channel(table: pa.Table, channel: str | None, what: str) -> pa.Table:
    """Gives a channel to the rows that have none. A table in which no row has one has no such column.

    Args:
        table: of recordings.
        channel: mean, left, right, loudest, or a number from 1; None for none.
        what: the data set's name, for the error line.

    Raises:
        UserError: a row has a channel that there cannot be.
    """
    found = clips.channels_of(table, what)
    others = table.drop_columns([name for name in table.column_names if name == "channel"])
    if found is None and channel is None:
        return others
    values = pa.nulls(len(table), pa.string()) if found is None else found.cast(pa.string())
    return others.append_column("channel", values if channel is None else values.fill_null(channel))


def plain_splits(table: pa.Table) -> pa.Table:
    """Calls splits train, val and test, whichever of their usual names a data set has for them; blank ones are null."""
    if "split" not in table.column_names:
        return table
    plain = pa.array([files.plain_split(each) for each in table["split"].to_pylist()], pa.string())
    return table.set_column(table.column_names.index("split"), "split", plain)


def with_split(table: pa.Table, shares: Mapping[str, float], folder: files.Folder) -> pa.Table:
    """Gives a split to the rows that have none.

    A hash of the file's place in the data set draws it: all rows of a file fall into one split, and the same one again
    when the data set has grown.

    Args:
        table: with absolute paths.
        shares: split → its share, of a sum that need not be 1.
        folder: the data set's.
    """
    total = sum(shares.values())
    splits = files.values(table, "split")
    for index, path in enumerate(table["path"].to_pylist()):
        if splits[index] is not None:
            continue
        point = int(files.short_hash(path.removeprefix(folder.url)), 16) / 16**16 * total
        for name, share in shares.items():
            splits[index] = name
            point -= share
            if point < 0:
                break
    array = pa.array(splits, pa.string())
    if "split" in table.column_names:
        return table.set_column(table.column_names.index("split"), "split", array)
    return table.append_column("split", array)


def _names_in(folder: str) -> frozenset[str]:
    fs, path = urls.filesystem(folder)
    try:
        listed = fs.ls(path, detail=True)
        return frozenset(posixpath.basename(each["name"]) for each in listed if each["type"] != "directory")
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except Exception as error:  # each store's client has errors of its own
        raise UserError(urls.unreachable(folder, error)) from None


def _with_frames(folder: files.Folder, frames: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    return frames and [frame | {"path": folder.place(frame["path"])} for frame in frames]
