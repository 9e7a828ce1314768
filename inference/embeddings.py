"""The windows' vectors, kept so that an archive can be matched again without decoding it.

`embeddings/` is a table of one row a window that was heard: recording, start_s, end_s, embedding. As `float16` the
embedding is a fixed-size list of unit length; as `binary` it is a fixed-size string of bytes, the sign code of
`codes`, and `code_cosine` stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill import storage
from inference import codes

Kind = Literal["none", "float16", "binary"]

ROWS_PER_GROUP = 4096  # what a matching actor holds at once: 6 MB of float16 at width 768
_READING_THREADS = 16


def schema(kind: Kind, width: int) -> pa.Schema:
    """The table's columns.

    Args:
        kind: float16 or binary.
        width: of the vectors.
    """
    places = [pa.field("recording", pa.string()), pa.field("start_s", pa.float64()), pa.field("end_s", pa.float64())]
    if kind == "float16":
        return pa.schema([*places, pa.field("embedding", pa.list_(pa.float16(), width))])
    code = pa.field("embedding", pa.binary(-(-width // 8)))
    return pa.schema([*places, code, pa.field("code_cosine", pa.float32())])


def table(
    kind: Kind, recordings: Sequence[str], starts_s: Sequence[float], ends_s: Sequence[float], vectors_BD: np.ndarray
) -> pa.Table:
    """Windows and their vectors as a table, sorted by recording and start.

    Args:
        kind: float16 or binary.
        recordings, starts_s, ends_s: of each window.
        vectors_BD: unit vectors, float32 [windows, width].
    """
    width = vectors_BD.shape[1]
    columns: list[pa.Array] = [pa.array(recordings, pa.string()), pa.array(starts_s), pa.array(ends_s)]
    if kind == "float16":
        flat = pa.array(vectors_BD.astype(np.float16).ravel())
        columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
    else:
        code_BC, cosine_B = codes.encode(vectors_BD)
        buffer = pa.py_buffer(np.ascontiguousarray(code_BC).tobytes())
        columns += [
            pa.Array.from_buffers(pa.binary(code_BC.shape[1]), len(code_BC), [None, buffer]),
            pa.array(cosine_B),
        ]
    made = pa.table(columns, schema(kind, width))
    return made.sort_by([("recording", "ascending"), ("start_s", "ascending")])


def vectors(rows: pa.Table, width: int) -> np.ndarray:
    """The vectors of an embeddings table, float32 [windows, width]: of unit length, or estimates from codes."""
    column = rows["embedding"].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), width).astype(np.float32)
    wide = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * wide : (column.offset + len(column)) * wide]
    return codes.decode(data.reshape(len(column), wide), rows["code_cosine"].to_numpy(), width)


@dataclass(frozen=True)
class Group:
    """Rows to be matched in one go.

    Attributes:
        url: of a Parquet file.
        number: of the row group in it.
        rows: in it.
    """

    url: str
    number: int
    rows: int


def groups(url: str) -> list[Group]:
    """The row groups of all files below an `embeddings/` folder, in the order of the files' names."""
    fs, root = storage.filesystem(url)
    names = sorted(name for name in (fs.find(root) if fs.exists(root) else []) if name.endswith(".parquet"))
    urls = [fs.unstrip_protocol(name) if storage.is_remote(url) else name for name in names]

    def of(file: str) -> list[Group]:
        with storage.open_read(file) as handle:
            footer = pq.ParquetFile(pa.PythonFile(handle)).metadata
        return [Group(file, number, footer.row_group(number).num_rows) for number in range(footer.num_row_groups)]

    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return [group for some in pool.map(of, urls) for group in some if group.rows]


def read(group: Group) -> pa.Table:
    """One row group."""
    with storage.open_read(group.url) as handle:
        return pq.ParquetFile(pa.PythonFile(handle)).read_row_group(group.number)
