"""Any CSV, TSV or Parquet table with a row a recording or image: the user's own.

Columns that are named as in `songsight.store.tables` are taken as they stand, others by
`--columns scientific_name=species`. The rest is kept behind them. Paths are relative to the table's folder, absolute,
or URLs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from songsight.datasets import files
from songsight.errors import UserError
from songsight.store import sheets, tables

_SCHEMAS = {"recordings": tables.RECORDINGS, "images": tables.IMAGES}


def read(folder: files.Folder, table: str = "recordings", columns: Mapping[str, str] | None = None) -> pa.Table:
    """Reads one table.

    Args:
        folder: whose root is the table itself.
        table: `recordings` or `images`.
        columns: songsight's column → the file's.

    Raises:
        UserError: the root is no file, a column that is unknown here or missing there, or no path or scientific name.
    """
    schema = _SCHEMAS[table]
    names = [*schema.names, *(["channel"] if table == "recordings" else [])]  # which a table has where it is needed
    columns = columns or {}
    if folder.table is None:
        raise UserError(f"{folder.root} is a folder: source csv needs the CSV or Parquet file itself")
    for name, own in columns.items():
        if name not in names:
            turned = f"; songsight's column comes first: {own}={name}" if own in names else ""
            have = ", ".join(names)
            raise UserError(f"--columns: the {table} table has no column {name!r} (it has {have}){turned}")
    # A column that `--columns` gives to one name is not taken for its own too: `common_name=species` is no epithet.
    plain = {name: name for name in names if name not in columns.values()}
    taken = plain | dict(columns)
    url = folder.open(folder.table)
    needed = [taken.get(name, name) for name in ("path", "scientific_name")]
    rows = files.read_rows(url, text=list(taken.values()))
    for name, own in columns.items():
        # Both may be names of ours: `species=scientific_name` for a table whose column is `species`.
        if own not in rows.column_names and own in schema.names and name in rows.column_names:
            raise UserError(f"--columns: {url} has no column {own!r}; songsight's column comes first: {own}={name}")
    sheets.require(url, rows.column_names, [*needed, *columns.values()], sheets.seen(rows))

    result: dict[str, Any] = {name: rows[own] for name, own in taken.items() if own in rows.column_names}
    for name in rows.column_names:
        if name not in taken.values():
            # A column that `--columns` put another in place of stays, under a name that says so.
            result[f"original_{name}" if name in result else name] = rows[name]
    for name in ("captions", "frames"):
        if name in result and pa.types.is_string(result[name].type):
            result[name] = pa.array(map(_listed, result[name].to_pylist()), schema.field(name).type)
    if "recorded_at" in result:
        _put_in_utc(result)

    id_name = f"{table[:-1]}_id"
    if id_name not in result:
        telling = ["path", "start_s", "end_s", "scientific_name", *(["channel"] if "channel" in result else [])]
        parts = [files.values(pa.table(result), part) for part in telling]
        result[id_name] = pa.array(files.row_ids(zip(*parts, strict=True)), pa.string())
    return pa.table(result)


def _listed(value: str | None) -> list[Any] | None:
    """A list in a CSV's cell: JSON, or one caption that stands alone."""
    if value is None:
        return None
    try:
        return json.loads(value) if value.startswith("[") else [value]
    except ValueError:
        return [value]


def _put_in_utc(result: dict[str, Any]) -> None:
    """Replaces `recorded_at` by moments in UTC; where the offset is not known, what stood there is kept beside it."""
    raw = result["recorded_at"].to_pylist()
    moments = [files.utc(value) for value in raw]
    result["recorded_at"] = pa.array(moments, pa.timestamp("us", tz="UTC"))
    if any(value is not None and moment is None for value, moment in zip(raw, moments, strict=True)):
        result["recorded_at_as_given"] = pa.array([None if v is None else str(v) for v in raw], pa.string())
