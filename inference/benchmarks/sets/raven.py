"""Soundscapes that people annotated: a folder of recordings, and Raven tables or the like of what sounds in them.

`--data` is the folder of recordings, `--annotations` the tables (see `inference.truth.annotations`). Every recording
that has a table is cut into windows; one without a table was not listened to, and is left out. Windows in which
something was heard but not named are left out too: nobody knows what is there.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from inference.archive import listing
from inference.benchmarks import task
from inference.benchmarks.sets import windows
from inference.benchmarks.task import Ask, Labelled
from inference.truth import annotations as tables_of_calls
from songsight.audio.reader import AudioError, probe
from songsight.errors import UserError
from songsight.store import urls

_THREADS = 8


def read(ask: Ask) -> list[Labelled]:
    """The windows of the annotated recordings, as one task.

    `counts` has `unnamed`, windows in which something was heard but not named, and `unreadable`, annotated recordings
    that cannot be opened.

    Raises:
        UserError: no annotations, none that is of a recording of `data`, or none of those can be read.
    """
    if ask.annotations is None:
        raise UserError("--benchmark raven needs --annotations: selection tables, Audacity labels or a table of them")
    listed, unused = tables_of_calls.read(ask.annotations, ask.species_column, ask.taxonomy, with_empty=True)
    root = urls.absolute(ask.data)
    found = listing.listing(root, "--data")
    table, strangers = tables_of_calls.matched(listed, found.table["path"].to_pylist())
    notes = [f"not used: {reason}" for reason in unused]
    notes += [f"annotated, but not below {ask.data}: {', '.join(strangers)}"] if strangers else []
    if not len(table):
        raise UserError(f"--annotations {ask.annotations}: none is of a recording of --data {ask.data}: {strangers[0]}")
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        calls[row["recording"]] += [row] if row["start_s"] is not None else []
    durations_s, bad = _durations(root, list(calls))
    notes += [f"{path} cannot be read: {why}" for path, why in bad.items()]
    if not durations_s:
        raise UserError(f"--data {ask.data}: none of the annotated recordings can be read; {notes[-1]}")

    clips: list[dict[str, Any]] = []
    unnamed = 0
    for path, duration_s in durations_s.items():
        for start_s, end_s in windows.cut(duration_s, ask.window_s, ask.hop_s or ask.window_s):
            here = _in_window(calls[path], start_s, end_s)
            if here is None:
                unnamed += 1
                continue
            place = {"path": urls.below(root, path), "start_s": start_s, "end_s": end_s}
            about = {"unit": f"{path}@{start_s:g}", "recording": path, "labels": sorted(here), "split": "test"}
            clips.append(place | about)
    labels = sorted({label for clip in clips for label in clip["labels"]})
    if not labels:
        raise UserError(f"--annotations {ask.annotations}: name nothing in the windows of --data {ask.data}")
    notes += [f"{unnamed} windows left out, in which something was heard but not named"] if unnamed else []
    classes = [task.class_row(label, ask.taxonomy) for label in labels]
    for row in classes:
        # A label that is a scientific name needs no taxonomy.
        row["scientific_name"] = row["scientific_name"] or (row["label"] if " " in row["label"] else None)
    counts = {"unnamed": unnamed, "unreadable": len(bad)}
    return [Labelled("soundscapes", task.clips(clips), classes, several=True, counts=counts, notes=notes)]


def _durations(root: str, paths: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of each recording, and why the others cannot be read."""

    def one(path: str) -> float | str:
        try:
            return probe(urls.below(root, path)).duration_s
        except AudioError as error:
            return f"{error.reason} {error.detail}".strip()

    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(paths, pool.map(one, paths), strict=True))
    good = {path: value for path, value in found.items() if not isinstance(value, str)}
    return good, {path: value for path, value in found.items() if isinstance(value, str)}


def _in_window(calls: list[dict[str, Any]], start_s: float, end_s: float) -> set[str] | None:
    """The labels of the calls in a window; None where one of them has none."""
    there = windows.present(start_s, end_s, [c["start_s"] for c in calls], [c["end_s"] for c in calls])
    labels = {calls[i]["scientific_name"] for i in np.flatnonzero(there)}
    return None if None in labels else labels
