"""iNatSounds 2024, naming at file level: the layout is that of `songsight.datasets.inatsounds`.

A file, of test or of train, is cut into windows, its vector is the mean of theirs. Files are named among all species
that test.json lists, whether or not a file of theirs is there; accuracy and AP are averaged over the classes that the
list marks for `evaluation` (1,212 in the published one), so that common species count no more than rare ones.
"""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from inference.benchmarks import task
from inference.benchmarks.sets import windows
from inference.benchmarks.task import Ask, Labelled
from songsight.datasets import assemble, files, inatsounds
from songsight.errors import UserError


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
    if not pc.any(pc.equal(found["split"], "test")).as_py():
        raise UserError(f"--data {ask.data}: none of the recordings of test.json is there")
    listed = inatsounds.species(folder, "test")
    known = {row["scientific_name"] for row in listed}
    marked = frozenset(row["scientific_name"] for row in listed if row["evaluation"] == 1)
    clips = [clip for row in found.to_pylist() if row["scientific_name"] in known for clip in _clips(row, ask)]
    test_missing = int(pc.sum(pc.equal(missing["split"], "test")).as_py() or 0)
    return [
        Labelled(
            "inatsounds",
            task.clips(clips),
            [row | {"label": row["scientific_name"]} for row in listed],
            several=False,
            averaged=marked or None,
            counts={"missing": test_missing},
            notes=[f"{len(missing)} of its files are missing"] if len(missing) else [],
        )
    ]


def _clips(row: dict[str, Any], ask: Ask) -> list[dict[str, Any]]:
    # Ids are numbered anew in each download's JSON; the file's name is what another run knows it by.
    name = "/".join(row["path"].split("/")[-3:])
    shared = {"path": row["path"], "unit": name, "recording": name, "recordist": row["rights_holder"]}
    shared |= {"labels": [row["scientific_name"]], "split": row["split"]}
    if not row["duration_s"]:
        return [shared | {"start_s": 0.0, "end_s": None}]
    cut = windows.cover(row["duration_s"], ask.window_s, ask.hop_s or ask.window_s)
    return [shared | {"start_s": start_s, "end_s": end_s} for start_s, end_s in cut]
