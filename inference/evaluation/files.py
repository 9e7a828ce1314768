"""What `songsight evaluate --out` leaves, and its readers.

table.json, .md, .csv        a row a method
directions.json, .md, .csv   a row a direction and rank
probes.json, .md, .csv      a row an audio embedding
naming.json, .md, .csv       a row an audio embedding and type of text
queries.parquet              each query's own result by each method: what intervals and comparisons are made of
by_recording.parquet         the same of the other tables: a row a recording, a column a measure and row
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

from inference.evaluation import directions, measured, naming, page, probes, table
from inference.evaluation.measured import Evaluation
from inference.match.gallery import Gallery
from songsight.errors import UserError
from songsight.metrics.retrieval import Ranked
from songsight.store import tables, urls

QUERIES = pa.schema(
    [
        pa.field("recording_id", pa.string()),
        pa.field("scientific_name", pa.string()),
        pa.field("method", pa.string()),
        pa.field("average_precision", pa.float64()),
        pa.field("first_rank", pa.float64()),
    ]
)
TABLES = ("table", "directions", "encoder", "naming")
Section = tuple[str, list[table.Row], Mapping[str, str]]
Pictures = Mapping[str, tuple[str, bytes]]
_SCORES_PER_BLOCK = 16 << 20


@dataclass(frozen=True)
class Outcome:
    """What an evaluation came to, and how.

    Attributes:
        found: what was measured.
        figures: its figures, for `evaluation.json`.
        record: how it was made: `options`, `fingerprints`, `versions`, `git_commit`, `run_id`.
        recording_ids: of the queries.
        pictures: PNG by file name, each with what it shows.
    """

    found: Evaluation
    figures: dict[str, Any]
    record: Mapping[str, Any]
    recording_ids: list[str]
    pictures: Pictures


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


def photographs_fingerprint(photographs: Gallery) -> str:
    """A hash of which photographs are asked for: evaluations are compared on the same ones alone."""
    return tables.fingerprint(photographs.images.select(["image_id", "scientific_name"]))


def everything(outcome: Outcome) -> dict[str, bytes]:
    """All files of an evaluation but the scores, by name."""
    texts: dict[str, str] = {}
    for name, (caption, rows, shown) in _sections(outcome).items():
        texts |= tables_as_text(name, rows, shown, caption)
    found, ids = outcome.found, outcome.recording_ids
    names = {"recording_id": ids, "scientific_name": [str(name) for name in found.species]}
    return (
        {name: text.encode() for name, text in texts.items()}
        | {"queries.parquet": tables.parquet_bytes(queries_table(found.ranked, ids, found.species))}
        | {"by_recording.parquet": tables.parquet_bytes(pa.table(names | found.by_recording))}
        | {f"pictures/{name}": data for name, (_, data) in outcome.pictures.items()}
        | summary(outcome)
    )


def summary(outcome: Outcome, checks: Mapping[str, Section] | None = None) -> dict[str, bytes]:
    """`evaluation.json` and `evaluation.html`, which have all that was found in one place.

    Args:
        outcome: of the evaluation.
        checks: their tables by name, each with what it tells and the columns to show.
    """
    checks, found = checks or {}, outcome.found
    plain = {key: value for key, value in outcome.figures.items() if key not in TABLES}
    plain |= {key: [_plain(row) for row in outcome.figures[key]] for key in TABLES}
    if checks:
        plain["checks"] = {name: [_plain(row) for row in rows] for name, (_, rows, _) in checks.items()}
    unanswered = int((~found.answered).sum())
    facts = [
        f"{len(found.species)} recordings of {len(set(found.species))} species against "
        f"{len(found.photographs.species)} photographs of {len(set(found.photographs.species))}; "
        f"a random ranking comes to {found.chance:.3f} mAP",
        *([f"{unanswered} of the recordings are of species that no photograph shows"] if unanswered else []),
        f"model {outcome.record['options']['model']}",
    ]
    sections = [*_sections(outcome).values(), *checks.values()]
    text = page.page("How well sound finds pictures", facts, sections, outcome.pictures, outcome.record)
    return {
        "evaluation.json": json.dumps({**outcome.record, **plain}, indent=2).encode(),
        "evaluation.html": text.encode(),
    }


def _sections(outcome: Outcome) -> dict[str, Section]:
    found, heading = outcome.found, headings(outcome.found)
    return {
        "table": (heading["table"], found.table, measured.SHOWN),
        "directions": (heading["directions"], found.directions, directions.SHOWN),
        "encoder": (heading["encoder"], found.encoder, probes.SHOWN),
        "naming": (heading["naming"], found.naming, naming.SHOWN),
    }


def headings(found: Evaluation) -> dict[str, str]:
    """What each table tells."""
    return {
        "table": (
            f"Sound finds pictures: {int(found.answered.sum())} recordings, {len(found.photographs.species)} "
            f"photographs, chance {found.chance:.3f} mAP [95 % over recordings] [over species], "
            f"{found.settings.resamples} resamples"
        ),
        "directions": "Sound, picture and text in all directions, answers of the same species, genus or family",
        "encoder": "The audio embedding before and after distillation",
        "naming": "Sounds named by each type of text, before and after distillation",
    }


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
        by_recording: `by_recording.parquet`; None where an earlier songsight kept none.
    """

    url: str
    record: dict[str, Any]
    queries: pa.Table
    by_recording: pa.Table | None = None


def read(url: str, option: str = "--compare") -> Kept:
    """Reads what `songsight evaluate --out` wrote.

    Raises:
        UserError: there is none at the URL, or a file of it is broken.
    """
    record = urls.join(url, "evaluation.json")
    if not urls.exists(record):
        raise UserError(
            f"{option} {url}: no evaluation is there (no evaluation.json); `songsight evaluate --out` keeps one"
        )
    try:
        kept = json.loads(urls.read_bytes(record))
    except (ValueError, OSError) as error:
        raise UserError(f"{option}: {record} is not JSON: {' '.join(str(error).split())}") from None
    for part, key in (("fingerprints", "photographs"), ("options", "model")):
        inner = kept.get(part) if isinstance(kept, dict) else None
        if not isinstance(inner, dict) or key not in inner:
            raise UserError(
                f"{option}: {record} has no {part}.{key}: it should be what `songsight evaluate --out` wrote"
            )
    queries = tables.read_table(urls.join(url, "queries.parquet"), option, QUERIES.names, QUERIES)
    more = urls.join(url, "by_recording.parquet")
    columns = QUERIES.names[:2]
    return Kept(url, kept, queries, tables.read_table(more, option, columns) if urls.exists(more) else None)


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
        urls.put_file(path, url)
