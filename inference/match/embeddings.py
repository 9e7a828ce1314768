"""The windows' vectors, kept so that an archive can be matched again without decoding it.

`embeddings/` is a table of one row a window that was heard: recording, start_s, end_s, embedding. As `float16` the
embedding is a fixed-size list of unit length; as `binary` it is a fixed-size string of bytes, the sign code of
`codes`, and `code_cosine` stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inference.match import codes
from songsight.store import urls

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
        version: of the file, by its size and etag or time: rows may be taken out of it later.
        round: of the run that wrote the file, see `publish`; 0 where its name tells none.
    """

    url: str
    number: int
    rows: int
    version: str = ""
    round: int = 0


def groups(url: str) -> list[Group]:
    """The row groups of all files below an `embeddings/` folder, in the order of the files' names."""
    fs, root = urls.filesystem(url)
    found = fs.find(root, detail=True) if fs.exists(root) else {}
    files = sorted((name, info) for name, info in found.items() if name.endswith(".parquet"))

    def of(item: tuple[str, dict[str, Any]]) -> list[Group]:
        name, info = item
        file = fs.unstrip_protocol(name) if urls.is_remote(url) else name
        version = f"{info['size']}:{info.get('ETag') or info.get('mtime') or info.get('LastModified')}"
        written = re.search(r"/part-(\d+)-\d+\.parquet$", name)
        with urls.open_read(file) as handle:
            footer = pq.ParquetFile(pa.PythonFile(handle)).metadata
        return [
            Group(file, number, footer.row_group(number).num_rows, version, int(written[1]) if written else 0)
            for number in range(footer.num_row_groups)
        ]

    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return [group for some in pool.map(of, files) for group in some if group.rows]


def read(group: Group, columns: list[str] | None = None) -> pa.Table:
    """One row group; all columns if none are given."""
    with urls.open_read(group.url) as handle:
        return pq.ParquetFile(pa.PythonFile(handle)).read_row_group(group.number, columns)


def recordings(groups: Iterable[Group]) -> pa.Array:
    """The recordings that groups have rows of."""
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        found = pool.map(lambda group: pc.unique(read(group, ["recording"])["recording"]), groups)
        return pc.unique(pa.chunked_array(found, pa.string()))
