"""What `songsight evaluate --out` leaves, and its readers.

table.json, .md, .csv        a row a method
directions.json, .md, .csv   a row a direction and rank
encoder.json, .md, .csv      a row an audio embedding
queries.parquet              each query's own result by each method: what intervals and comparisons are made of
evaluation.json              what was measured: options, fingerprints, versions, MLflow run, the tables' figures
evaluation.html, pictures/   to look at
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from distill import storage, tables
from distill.errors import UserError
from distill.metrics.retrieval import Ranked
from inference.evaluation import directions, encoder, measured, page, table
from inference.evaluation.measured import Evaluation

QUERIES = pa.schema(
    [
        pa.field("recording_id", pa.string()),
        pa.field("scientific_name", pa.string()),
        pa.field("method", pa.string()),
        pa.field("average_precision", pa.float64()),
        pa.field("first_rank", pa.float64()),
    ]
)
_SCORES_PER_BLOCK = 16 << 20


def tables_as_text(name: str, rows: list[table.Row], shown: Mapping[str, str], heading: str) -> dict[str, str]:
    """A table as the files `<name>.json`, `.md` and `.csv`.

    Args:
        name: of the table.
        rows: of the table; the CSV has every figure of each.
        shown: columns of the Markdown and their headings.
        heading: text above the Markdown table.
    """
    sink = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(sink, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {
        f"{name}.json": json.dumps([_plain(row) for row in rows], indent=2),
        f"{name}.md": f"{heading}\n\n{table.markdown(rows, shown, species=True)}\n",
        f"{name}.csv": sink.getvalue(),
    }


def _plain(row: table.Row) -> table.Row:
    """JSON has no NaN: null."""
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()}


def everything(
    found: Evaluation, result: Mapping[str, Any], record: Mapping[str, Any], recording_ids: list[str], montage: bytes
) -> dict[str, bytes]:
    """All files of an evaluation but the scores, by name.

    Args:
        found: the evaluation.
        result: its figures, for `evaluation.json`.
        record: what it was made of: `options`, `fingerprints`, `versions`, `git_commit`, `run_id`.
        recording_ids: of the queries.
        montage: a PNG of queries and what they find.
    """
    pictures = found.pictures() | {
        "queries.png": ("Queries: recordings as the encoder hears them and their five nearest photographs", montage)
    }
    heading = headings(found, int(record["options"]["resamples"]))
    sections = {
        "table": (heading["table"], found.table, measured.SHOWN),
        "directions": (heading["directions"], found.directions, directions.SHOWN),
        "encoder": (heading["encoder"], found.encoder, encoder.SHOWN),
    }
    texts = {"evaluation.json": json.dumps({**record, **_plain_all(result)}, indent=2)}
    for name, (told, rows, shown) in sections.items():
        texts |= tables_as_text(name, rows, shown, told)
    facts = [
        f"{len(found.species)} recordings of {len(set(found.species))} species against "
        f"{len(found.photographs.species)} photographs of {len(set(found.photographs.species))}; "
        f"a random ranking comes to {found.chance:.3f} mAP",
        f"model {record['options']['model']}",
    ]
    texts["evaluation.html"] = page.page(
        "How well sound finds pictures", facts, list(sections.values()), pictures, record
    )
    return (
        {name: text.encode() for name, text in texts.items()}
        | {"queries.parquet": tables.parquet_bytes(queries_table(found.ranked, recording_ids, found.species))}
        | {f"pictures/{name}": data for name, (_, data) in pictures.items()}
    )


def headings(found: Evaluation, resamples: int) -> dict[str, str]:
    """What each table tells."""
    return {
        "table": (
            f"Sound finds pictures: {len(found.species)} recordings, {len(found.photographs.species)} photographs, "
            f"chance {found.chance:.3f} mAP [95 % over recordings] [over species], {resamples} resamples"
        ),
        "directions": "Sound, picture and text in all directions, answers of the same species, genus or family",
        "encoder": "The audio embedding before and after distillation",
    }


def _plain_all(result: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in result.items() if key not in ("table", "directions", "encoder")}
    return plain | {key: [_plain(row) for row in result[key]] for key in ("table", "directions", "encoder")}


def queries_table(ranked: Mapping[str, Ranked], recording_ids: list[str], species: np.ndarray) -> pa.Table:
    """Each query's own result by each method, a `QUERIES` table."""
    parts = [
        pa.table(
            {
                "recording_id": recording_ids,
                "scientific_name": [str(name) for name in species],
                "method": [method] * len(recording_ids),
                "average_precision": one.average_precision,
                "first_rank": one.first_rank,
            },
            schema=QUERIES,
        )
        for method, one in ranked.items()
    ]
    return pa.concat_tables(parts)


@dataclass(frozen=True)
class Kept:
    """An evaluation as `--out` kept it.

    Attributes:
        url: of the folder.
        record: `evaluation.json`.
        queries: a `QUERIES` table.
    """

    url: str
    record: dict[str, Any]
    queries: pa.Table


def read(url: str, option: str = "--compare") -> Kept:
    """Reads what `songsight evaluate --out` wrote.

    Raises:
        UserError: there is none at the URL.
    """
    record = storage.join(url, "evaluation.json")
    if not storage.exists(record):
        raise UserError(
            f"{option} {url}: no evaluation is there (no evaluation.json); `songsight evaluate --out` keeps one"
        )
    queries = tables.read_table(storage.join(url, "queries.parquet"), option, QUERIES.names, QUERIES)
    return Kept(url, json.loads(storage.read_bytes(record)), queries)


def save_scores(
    url: str,
    queries_QD: np.ndarray,
    images_ND: np.ndarray,
    names: Mapping[str, list[str]],
) -> None:
    """Writes the matrix of scores as a NumPy archive, block by block: it may be larger than the memory.

    Args:
        url: of the `.npz` file; read it with `numpy.load(file)`, no pickle inside.
        queries_QD, images_ND: unit vectors; `scores` is their product, float32 [queries, images].
        names: further arrays of strings, by name.
    """
    rows = max(1, _SCORES_PER_BLOCK // max(1, len(images_ND)))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "scores.npz")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with archive.open("scores.npy", "w", force_zip64=True) as handle:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(queries_QD), len(images_ND))}
                np.lib.format.write_array_header_2_0(handle, header)
                for start in range(0, len(queries_QD), rows):
                    scores = queries_QD[start : start + rows].astype(np.float32) @ images_ND.astype(np.float32).T
                    handle.write(np.ascontiguousarray(scores, "<f4").tobytes())
            for name, values in names.items():
                with archive.open(f"{name}.npy", "w") as handle:
                    np.lib.format.write_array(handle, np.array(values, dtype=np.str_), allow_pickle=False)
        storage.put_file(path, url)
