"""BEANS, the benchmark of animal sounds (arXiv 2210.12300; https://github.com/earthspecies/beans).

    root/datasets.yml                   name, type, train_data, valid_data, test_data, labels, unknown_label, …
    root/data/<set>/*.train.csv, …      classification: path, label
    root/data/<set>/train.jsonl, …      detection: path, length, annotations [{st, ed, label}] a line
    root/data/<set>/…wav                paths are relative to the root

as its own scripts leave them. Classification sets are measured by accuracy, detection sets by mAP over the windows that
`window_width` and `window_shift` (seconds) cut, where a label that no test window has counts 0. Features are frozen and
a linear probe is fitted on train, its penalty chosen on valid; sets whose labels are names are also asked for by text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from inference.benchmarks import task
from inference.benchmarks.sets import windows
from inference.benchmarks.task import Ask, Labelled
from songsight.datasets import files
from songsight.errors import UserError
from songsight.store import sheets, urls

_SPLITS = {"train": "train_data", "val": "valid_data", "test": "test_data"}
_NEEDED = ("name", "type", *_SPLITS.values(), "labels")


def read(ask: Ask) -> list[Labelled]:
    """One task a data set that was asked for, or whose test data is there.

    Raises:
        UserError: no `datasets.yml`, a set of another type, no such part, or none of the sets is there.
    """
    folder = files.Folder(ask.data)
    if "datasets.yml" not in folder.files:
        raise UserError(f"--data {ask.data}: has no datasets.yml, as BEANS has; give the folder that `data` lies in")
    url = folder.open("datasets.yml")
    try:
        listed = yaml.safe_load(urls.read_bytes(url))
    except yaml.YAMLError as error:
        raise UserError(f"{url} is not YAML: {' '.join(str(error).split())}") from None
    sets = {}
    for one in listed or []:
        sheets.require(url, list(one), _NEEDED)
        sets[str(one["name"])] = one
    chosen = list(files.chosen_parts(sets, ask.parts, url))
    if not ask.parts:
        chosen = [name for name in chosen if sets[name]["test_data"] in folder.files]
    if not chosen:
        raise UserError(f"--data {ask.data}: the test data of none of the sets in datasets.yml is there")
    return [_set(folder, url, sets[name], ask) for name in chosen]


def _set(folder: files.Folder, url: str, about: dict[str, Any], ask: Ask) -> Labelled:
    name, kind = str(about["name"]), about["type"]
    if kind not in ("classification", "detection"):
        raise UserError(f"{url}: {name} should be of type classification or detection (got {kind!r})")
    labels = [str(label) for label in about["labels"]]
    unknown = None if about.get("unknown_label") is None else str(about["unknown_label"])

    def label(value: Any, where: str) -> str:
        if str(value) in labels:
            return str(value)
        if unknown is None:
            raise UserError(f"{where}: label {value!r} is not among those of {name} in datasets.yml")
        return unknown

    read_split = _classified if kind == "classification" else _detected
    clips: list[dict[str, Any]] = []
    lost: list[str] = []  # labels of test calls that no window has
    for split, key in _SPLITS.items():
        if about[key] not in folder.files:
            raise UserError(f"--data {ask.data}: {name} has no {about[key]}")
        rows = read_split(folder, about[key], about, label, lost if split == "test" else [])
        clips += [row | {"split": split} for row in rows]
    classes = [task.class_row(each, ask.taxonomy, _common(each)) for each in labels]
    return Labelled(
        f"beans_{name}",
        task.clips(clips),
        # A bat's number, or 1 for "a whale", is no name.
        classes,
        several=kind == "detection",
        absent_counts=kind == "detection",
        counts={"calls_in_no_window": len(lost)} if kind == "detection" else {},
    )


def _classified(
    folder: files.Folder, name: str, about: dict[str, Any], label: Any, lost: list[str]
) -> Iterator[dict[str, Any]]:
    url = folder.open(name)
    rows = files.read_rows(url, ["path", "label"], text=("path", "label"))
    for row in rows.to_pylist():
        end_s = float(about["max_duration"]) if about.get("max_duration") else None
        yield {
            "path": task.absolute(folder, row["path"]),
            "start_s": 0.0,
            "end_s": end_s,
            "unit": row["path"],
            "recording": row["path"],
            "labels": [label(row["label"], url)],
        }


def _detected(
    folder: files.Folder, name: str, about: dict[str, Any], label: Any, lost: list[str]
) -> Iterator[dict[str, Any]]:
    url = folder.open(name)
    sheets.require(f"datasets.yml: {about['name']}", list(about), ("window_width", "window_shift"))
    width_s, shift_s = float(about["window_width"]), float(about["window_shift"])
    for number, line in enumerate(urls.read_bytes(url).decode().splitlines(), 1):
        try:
            row = json.loads(line)
            calls = [(float(a["st"]), float(a["ed"]), label(a["label"], url)) for a in row["annotations"]]
            path, length_s = row["path"], float(row["length"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{url}, line {number}: should be an object with path, length and annotations [{{st, ed, label}}] "
                f"({type(error).__name__}: {error})"
            ) from None
        windowed = np.zeros(len(calls), bool)
        # BEANS' own count, which leaves out what lies behind the last whole window.
        for place in range(int((length_s - width_s) / shift_s) + 1):
            start_s = place * shift_s
            there = windows.present(start_s, start_s + width_s, [c[0] for c in calls], [c[1] for c in calls])
            windowed |= there
            yield {
                "path": task.absolute(folder, path),
                "start_s": start_s,
                "end_s": start_s + width_s,
                "unit": f"{path}@{start_s:g}",
                "recording": path,
                "labels": sorted({call[2] for call, yes in zip(calls, there, strict=True) if yes}),
            }
        lost += [call[2] for call, yes in zip(calls, windowed, strict=True) if not yes]


def _common(label: str) -> str | None:
    """What a label says in words: `Bottlenose_Dolphin` → "Bottlenose Dolphin"; None where it is one word or a number.

    One word is a code, a dog's or a bat's name, or a spoken word: nothing that a model of species knows.
    """
    words = label.replace("_", " ").strip()
    return words if " " in words else None
