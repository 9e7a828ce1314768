"""The tables that songsight reads and writes, as Arrow schemas, and their readers.

Column names are final: they are what a user's notebook joins on.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from songsight.errors import UserError
from songsight.store import sheets, urls

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
"""The seven Linnaean ranks, from the root down. `species` is the epithet, as BioCLIP-2's taxonomic strings have it."""

_UTC = pa.timestamp("us", tz="UTC")
_NAMES = [pa.field("scientific_name", pa.string()), pa.field("common_name", pa.string())]
_RANKS = [pa.field(rank, pa.string()) for rank in RANKS]
_CREDITS = [pa.field(name, pa.string()) for name in ("license", "rights_holder", "source")]

RECORDINGS = pa.schema(
    [
        pa.field("recording_id", pa.string()),
        pa.field("path", pa.string()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),  # null: to the end of the file
        *_NAMES,
        *_RANKS,
        pa.field("captions", pa.list_(pa.string())),
        pa.field("split", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("recorded_at", _UTC),
        *_CREDITS,
        pa.field("frames", pa.list_(pa.struct([("path", pa.string()), ("time_s", pa.float64())]))),
    ]
)

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("path", pa.string()),
        *_NAMES,
        *_RANKS,
        pa.field("split", pa.string()),
        *_CREDITS,
    ]
)

HITS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("recording", pa.string()),
        pa.field("site", pa.string()),
        pa.field("start_utc", _UTC),  # of the window; null where the recorder's clock is unknown
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("rank", pa.int32()),  # 1 is the best species of the window
        *_NAMES,
        pa.field("score", pa.float32()),
        pa.field("probability", pa.float32()),  # null unless calibrated
        pa.field(
            "images",
            pa.list_(pa.struct([("image_id", pa.string()), ("path", pa.string()), ("score", pa.float32())])),
        ),
        pa.field("model", pa.string()),
        pa.field("method", pa.string()),  # distilled, or zero-shot: named by an untouched ClapModel's own texts
        pa.field("padded", pa.bool_()),  # the recording ends inside the window, which was filled up the model's way
    ]
)

DETECTIONS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("recording", pa.string()),
        pa.field("site", pa.string()),
        pa.field("start_utc", _UTC),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        *_NAMES,
        pa.field("windows", pa.int32()),  # with a hit of the species
        pa.field("score_max", pa.float32()),
        pa.field("score_mean", pa.float32()),
        pa.field("probability_max", pa.float32()),
        pa.field("image", pa.struct([("image_id", pa.string()), ("path", pa.string()), ("score", pa.float32())])),
        pa.field("model", pa.string()),
        pa.field("method", pa.string()),
    ]
)
"""Consecutive windows of one species in one recording; the image is the best of the best window."""

QUARANTINE = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("size_bytes", pa.int64()),
    ]
)

RECORDINGS_SEEN = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("etag_or_mtime", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("sample_rate_hz", pa.int32()),
        pa.field("channels", pa.int32()),
        pa.field("recorder", pa.string()),
        pa.field("start_utc", _UTC),
        pa.field("start_local", pa.timestamp("us")),  # the recorder's own clock, which may be all that is known
        pa.field("start_source", pa.string()),  # guano, wamd, comment, filename or none
        pa.field("latitude", pa.float64()),  # degrees north, where the recorder says where it stood
        pa.field("longitude", pa.float64()),
        pa.field("site", pa.string()),
        pa.field("status", pa.string()),  # annotated, partial or quarantined
        pa.field("reason", pa.string()),  # why not all of it was annotated; null where it was
        pa.field("detail", pa.string()),
        pa.field("note", pa.string()),  # what to know of its hits: a low rate, channels that cancel, a doubtful clock
        pa.field("windows", pa.int64()),  # that were decoded
        pa.field("hits", pa.int64()),
    ]
)

LABELS = pa.schema([pa.field("label", pa.string()), pa.field("scientific_name", pa.string())])
SYNONYMS = pa.schema([pa.field("scientific_name", pa.string()), pa.field("synonym", pa.string())])


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the schema's columns first, cast, missing ones null; other columns are kept behind them.

    Raises:
        UserError: a column's values cannot be cast to the schema's type.
    """
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for field in schema:
        if field.name not in table.column_names:
            columns[field.name] = pa.nulls(len(table), field.type)
            continue
        try:
            column = table[field.name]
            if pa.types.is_timestamp(field.type) and _is_number(column.type) and column.null_count < len(column):
                raise UserError(f"column {field.name!r} should be a time such as 2024-05-14T08:30:00Z: it has numbers")
            columns[field.name] = (numbers(column) if field.type == pa.float64() else column).cast(field.type)
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"column {field.name!r} should be {field.type}: {reason}") from None
    extra = [name for name in table.column_names if name not in columns]
    return pa.table(columns | {name: table[name] for name in extra})


def _is_number(kind: pa.DataType) -> bool:
    """Whether values are numbers, which would be taken for microseconds since 1970."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as float64; text may have a decimal comma, where none of the column has a point.

    Raises:
        pa.ArrowException: something is no number.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        if not pc.any(pc.match_substring(column, ".")).as_py():
            column = pc.replace_substring_regex(column, r"^([+-]?\d*),(\d+)$", r"\1.\2")
    return column.cast(pa.float64())


def read_table(
    url: str, what: str, required: Iterable[str], schema: pa.Schema | None = None, columns: list[str] | None = None
) -> pa.Table:
    """Reads a table that a person gave (see `songsight.store.sheets`) and checks that it has the columns asked for.

    Args:
        url: the file.
        what: the option or table that the file was given as, for the error line.
        required: columns that must be present.
        schema: when given, the result is `conform`ed to it, and a recording_id or image_id is there once.
        columns: of a Parquet file, those to read where it has them; all if not given.

    Raises:
        UserError: no such file, not a table, no rows, a required column missing, a column there twice or of the wrong
            type, or an id there twice.
    """
    if not urls.exists(url):
        raise UserError(f"{what}: no such file: {url}")
    text = [field.name for field in schema or () if pa.types.is_string(field.type)]
    try:
        table = sheets.read(url, required, text, columns)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    if schema is None:
        return table
    how = sheets.seen(table)
    try:
        table = conform(table, schema)
        if schema in (RECORDINGS, IMAGES):
            check_ids(table, schema.names[0], required=False)
    except UserError as error:
        raise UserError(f"{what}: {url}: {error}" + (f" ({how})" if how else "")) from None
    return table


def check_ids(table: pa.Table, column: str, required: bool = True) -> None:
    """Checks that no id is there twice, or null where ids are required.

    Raises:
        UserError: naming some of those that are.
    """
    counts = {row["values"]: row["counts"] for row in pc.value_counts(table[column]).to_pylist()}
    empty = counts.pop(None, 0)
    if empty and required:
        raise UserError(f"{column} is empty in {empty:,} rows")
    twice = [f"{name} ({count} rows)" for name, count in counts.items() if count > 1]
    if twice:
        more = f" and {len(twice) - 3:,} more" if len(twice) > 3 else ""
        raise UserError(f"{column} should be there once each: {', '.join(twice[:3])}{more}")


def fingerprint(table: pa.Table) -> str:
    """A hash of a table's rows and columns, however its file is laid out: SHA-256 in hex digits."""
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        digest.update(f"{name}:".encode())  # values alone: Parquet names a list's items otherwise than memory does
        # Rebuilt through Python values a batch at a time: buffers of equal columns may differ in padding and offsets.
        for start in range(0, len(table), 65536):
            digest.update(repr(table[name].slice(start, 65536).to_pylist()).encode())
    return digest.hexdigest()


def parquet_bytes(table: pa.Table, row_group_size: int | None = None) -> bytes:
    """A table as one Parquet file in memory, zstd-compressed, with column statistics."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
    return sink.getvalue()


def write_table(url: str, table: pa.Table, row_group_size: int | None = None) -> None:
    """Writes a table as one Parquet file, whole or not at all; in row groups of a size where one is given."""
    urls.write_bytes(url, parquet_bytes(table, row_group_size))


def resolve_path(path: str, table_url: str) -> str:
    """Where a table's `path` column points: absolute paths and URLs as they are, others beside the table."""
    return urls.join(urls.parent(table_url), path)
