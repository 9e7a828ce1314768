"""BirdSet's soundscapes (arXiv 2403.10380): 5 s segments with the codes of all that sing in them.

The layout is that of `distill.sources.birdset`: `…_metadata_test_5s` names the segments, `…_metadata_train` the focal
recordings that the probes are fitted on. A part is one of BirdSet's data sets, the first word of its files' names: HSN,
POW, NES, …; each is measured by itself.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict

import pyarrow as pa

from distill.errors import UserError
from distill.sources import assemble, birdset, files
from distill.sources.taxonomy import Taxonomy
from inference.benchmarks import task
from inference.benchmarks.task import Ask, Labelled

_METADATA = r"(?:^|_)(train|test_5s)\.(parquet|csv)$"


def read(ask: Ask) -> list[Labelled]:
    """One task a data set.

    Raises:
        UserError: no `…test_5s` is there, no such part, or `--taxonomy` has no codes.
    """
    taxonomy = birdset.with_codes(ask.taxonomy)
    folder = files.Folder(ask.data)
    by_part: dict[str, list[str]] = defaultdict(list)
    for name in folder.tables(_METADATA):
        by_part[re.split(r"[_.]", posixpath.basename(name))[0]].append(name)
    tested = {
        part: names for part, names in by_part.items() if any(files.split_in_name(name) == "test_5s" for name in names)
    }
    if not tested:
        raise UserError(f"--data {ask.data}: has no …test_5s .parquet or .csv, as BirdSet has")
    chosen = files.chosen_parts(tested, ask.parts, f"--parts: {ask.data}")
    return [_task(folder, part, tested[part], taxonomy) for part in chosen]


def _task(folder: files.Folder, part: str, names: list[str], taxonomy: Taxonomy) -> Labelled:
    read_parts = [birdset.read_table(folder, name, files.split_in_name(name) or "", taxonomy) for name in names]
    found, missing = assemble.present(pa.concat_tables(read_parts, promote_options="permissive"), folder)
    rows = found.to_pylist()
    # Codes are the labels: what a taxonomy does not know can still be probed for.
    labels = [row["ebird_code_multilabel"] or _single(row) for row in rows]
    codes = sorted({code for row, own in zip(rows, labels, strict=True) if row["split"] == "test_5s" for code in own})
    clips = [
        {
            "path": row["path"],
            "start_s": _number(row.get("start_s")) if row["split"] == "test_5s" else 0.0,
            "end_s": _number(row.get("end_s")) if row["split"] == "test_5s" else None,
            "unit": unit,
            "labels": own,
            "split": "test" if row["split"] == "test_5s" else "train",
        }
        for unit, (row, own) in enumerate(zip(rows, labels, strict=True))
    ]
    if not codes:
        raise UserError(f"--data {folder.root}: nothing calls in the segments of {part} whose sound is there")
    classes = [task.class_row(code, taxonomy) for code in codes]
    unknown = [row["label"] for row in classes if row["scientific_name"] is None]
    notes = [f"not in the taxonomy, and so not asked for by text: {', '.join(unknown)}"] if unknown else []
    notes += [f"{len(missing)} rows are of files that are missing"] if len(missing) else []
    return Labelled(f"birdset_{part}", task.clips(clips), classes, several=True, notes=notes)


def _single(row: dict) -> list[str]:
    return [row["ebird_code"]] if row.get("ebird_code") else []


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
