"""iNatSounds 2024, naming at file level: the layout is that of `distill.sources.inatsounds`.

A file is cut into windows, its score for a species is the mean over them. Files are named among all species of the
test list; accuracy and AP are averaged over the classes that the list marks for `evaluation` (1,212 in the published
one), so that common species count no more than rare ones.
"""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from distill import tables
from distill.errors import UserError
from distill.sources import assemble, files, inatsounds
from inference.benchmarks import task, windows
from inference.benchmarks.task import Ask, Labelled


def read(ask: Ask) -> list[Labelled]:
    """The test files, and the train ones for the probes.

    Raises:
        UserError: the folder is not laid out as iNatSounds is, or has no test files.
    """
    folder = files.Folder(ask.data)
    if "test.json" not in folder.files:
        raise UserError(f"--data {ask.data}: has no test.json, as iNatSounds 2024 has")
    parts = [part for part in ("train", "test") if f"{part}.json" in folder.files]
    found, missing = assemble.present(inatsounds.read(folder, parts), folder)
    is_test = pc.equal(found["split"], "test")
    if not pc.any(is_test).as_py():
        raise UserError(f"--data {ask.data}: none of the recordings of test.json is there")
    rows = found.to_pylist()
    classes: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["scientific_name"]:
            names = {name: row[name] for name in ("scientific_name", "common_name", *tables.RANKS)}
            classes.setdefault(row["scientific_name"], names | {"label": row["scientific_name"]})
    marked = frozenset(row["scientific_name"] for row in rows if row["evaluation"] == 1)
    clips = [clip for unit, row in enumerate(rows) if row["scientific_name"] for clip in _clips(row, unit, ask)]
    notes = [f"{len(missing)} of its files are missing"] if len(missing) else []
    return [
        Labelled(
            "inatsounds", task.clips(clips), list(classes.values()), several=False, averaged=marked or None, notes=notes
        )
    ]


def _clips(row: dict[str, Any], unit: int, ask: Ask) -> list[dict[str, Any]]:
    shared = {"path": row["path"], "unit": unit, "labels": [row["scientific_name"]], "split": row["split"]}
    if row["split"] == "train" or not row["duration_s"]:
        return [shared | {"start_s": 0.0, "end_s": None}]
    begins = windows.starts(row["duration_s"], ask.window_s, ask.hop_s or ask.window_s)
    return [shared | {"start_s": float(start), "end_s": float(start) + ask.window_s} for start in begins]
