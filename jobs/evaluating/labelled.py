"""Labelled benchmarks: sounds are embedded and named in every way, and what they find is looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.benchmarks import Labelled, kept, look, measure, retrieval, scores
from inference.benchmarks.redraw import Redrawn
from inference.benchmarks.scores import Units
from inference.evaluation import files, montage
from inference.evaluation.files import Pictures
from inference.evaluation.measured import Evaluation, Settings
from inference.evaluation.table import Row
from inference.match.gallery import Gallery
from jobs.evaluating import results
from jobs.evaluating.models import Loaded
from jobs.shared import options as opts
from songsight.audio.clips import Clips, Features
from songsight.errors import UserError
from songsight.store import tables, urls


@dataclass(frozen=True)
class Setup:
    """What the parts of a benchmark are measured with.

    Attributes:
        data: where the benchmark is, for error lines.
        models: that name.
        gallery: photographs to name by, and to find; None for none.
        settings: how it is measured.
        most_train: training units to embed at most, drawn once.
        record: how it was made, see `results.record`.
        folder: a local one, for the files.
    """

    data: str
    models: Loaded
    gallery: Gallery | None
    settings: Settings
    most_train: int
    record: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class Part:
    """What one part of a benchmark came to.

    Attributes:
        rows, heading: a row a method, and the text above them.
        pictures: PNG by file name, each with what it shows.
        files: what was written into the folder: `scores` and, where sounds find photographs, `retrieval`.
    """

    rows: list[Row]
    heading: str
    pictures: Pictures
    files: dict[str, str]


def fingerprints(tasks: list[Labelled], models: Loaded, gallery: Gallery | None) -> dict[str, str]:
    """Hashes of what goes in: models, photographs, and the clips of each part."""
    found = dict(models.fingerprints)
    if gallery is not None:
        found["photographs"] = files.photographs_fingerprint(gallery.of_split("test"))
    return found | {task.name: tables.fingerprint(task.clips) for task in tasks}


def evaluate(task: Labelled, setup: Setup, prefix: str, save_scores: str | None) -> Part:
    """Measures one part; its scores and what sound finds are written into the folder.

    Args:
        task: the part.
        setup: what it is measured with.
        prefix: of the names of its files.
        save_scores: file or URL for the student's scores of all classes; None for none.

    Raises:
        UserError: no test clip can be decoded, or no class can be asked for.
    """
    for note in task.notes:
        opts.note(f"{task.name}: {note}")
    units = _embed(task, setup)
    test, written = units.of("test"), {"scores": f"{prefix}scores.npz"}
    rows, pictures = _name(task, units, test, setup, os.path.join(setup.folder, written["scores"]), save_scores)
    if setup.gallery is not None and (queries := retrieval.is_query(task, units, setup.gallery)).any():
        written["retrieval"] = f"{prefix}retrieval"
        found = retrieval.evaluation(task, units, setup.gallery, setup.models.texts, setup.settings)
        _keep_retrieval(found, task, units, queries, setup, os.path.join(setup.folder, written["retrieval"]))
        (own,) = [row for row in found.table if row["method"] == scores.STUDENT]
        (named,) = [row for row in rows if row["method"] == scores.STUDENT]
        ends = ("", "_low", "_high", "_species_low", "_species_high")
        named |= {f"audio_to_image_mAP{end}": own[f"macro_mAP{end}"] for end in ends}
    asked = set(task.clips.filter(pc.equal(task.clips["split"], "test"))["unit"].to_pylist())
    counts = {
        "units": len(test.names),
        "recordings": len(np.unique(test.recording.astype(str))),
        "classes": int((test.present.sum(axis=0) > 0).sum()),
        "undecodable": len(asked) - len(test.names),
    }
    heading = f"{task.name}: {counts['units']} test units of {counts['recordings']} recordings and {counts['classes']} "
    heading += "classes"
    if setup.gallery is not None:
        heading += f", {len(setup.gallery.of_split('test').vectors)} photographs"
    return Part([row | counts | task.counts for row in rows], heading, pictures, written)


def keep(parts: Mapping[str, Part], setup: Setup, out: str | None) -> None:
    """Logs the files of all parts and their page to the MLflow run, and writes them to `--out`."""
    pictures = {name: picture for part in parts.values() for name, picture in part.pictures.items()}
    record = {**setup.record, "parts": {name: part.files for name, part in parts.items()}}
    sections = [(part.heading, part.rows) for part in parts.values()]
    page = look.html("How well sounds are named", sections, pictures, record)
    data = {kept.RECORD: json.dumps(record, indent=2).encode(), "benchmark.html": page.encode()}
    results.write(data | {f"pictures/{name}": png for name, (_, png) in pictures.items()}, setup.folder)
    mlflow.log_artifacts(setup.folder)
    if out:
        urls.store_folder(setup.folder, out)


def _embed(task: Labelled, setup: Setup) -> Units:
    """The units of a part; of train no more than asked for, drawn once."""
    split = np.array(task.clips["split"].to_pylist(), dtype=object)
    unit = np.array(task.clips["unit"].to_pylist(), dtype=object)
    is_train = split == "train"
    train = np.unique(unit[is_train].astype(str))
    if len(train) > setup.most_train:
        drawn = np.random.default_rng(setup.settings.seed).permutation(train)[: setup.most_train]
        is_train &= np.isin(unit.astype(str), drawn)
    chosen = np.flatnonzero(is_train | (split != "train"))
    table = task.clips.take(chosen)
    rows, vectors = setup.models.embed(_clips(table, setup), len(table), "clips")
    if len(rows) < len(table):
        opts.note(f"{task.name}: {len(table) - len(rows)} of {len(table)} clips cannot be decoded")
    for kind, some in vectors.items():
        if not np.isfinite(some).all():
            whose = f"--model {setup.models.student_name}" if kind.startswith("student") else "--base"
            raise UserError(f"{whose}: gives vectors that are no finite numbers for clips of {task.name}")
    if not (split[chosen[rows]] == "test").any():
        raise UserError(f"--data {setup.data}: none of the test clips of {task.name} can be decoded")
    return scores.units(task, chosen[rows], vectors)


def _clips(table: pa.Table, setup: Setup) -> Clips:
    return Clips(
        table["path"].to_pylist(),
        np.nan_to_num(np.asarray(table["start_s"].to_pylist(), np.float64)),
        np.asarray(table["end_s"].to_pylist(), np.float64),
        Features.of(setup.models.student.mel, setup.settings.seed),
    )


def _name(
    task: Labelled, units: Units, test: Units, setup: Setup, path: str, save_scores: str | None
) -> tuple[list[Row], Pictures]:
    """(a row a way of naming, the curves); the scores are written to a local path, one method at a time."""
    texts, settings = setup.models.texts, setup.settings
    truth = scores.truth(task, test)
    redrawn = Redrawn(test.recording, settings.resamples, settings.seed)
    curves = look.Curves(truth)
    rows: list[Row] = [{"method": "chance"} | measure.chance(truth)]
    with kept.archive(path) as writer:
        kept.begin(writer, task, test, truth)
        for name, method in scores.methods(task, units, texts.base_text, texts.teacher_text, setup.gallery):
            scored = method.scored(task, test)
            rows.append({"method": name} | measure.row(measure.figures(truth, scored, redrawn)))
            writer.method(name, scored)
            curves.add(name, scored)
            if save_scores and name == scores.STUDENT:
                kept.save_scores(save_scores, task, test, method)
    if save_scores and scores.STUDENT not in [row["method"] for row in rows]:
        raise UserError("--save-scores: no class has a name that it could be asked for by; --taxonomy may know them")
    return rows, curves.pictures(task.name)


def _keep_retrieval(
    found: Evaluation, task: Labelled, units: Units, queries: np.ndarray, setup: Setup, folder: str
) -> None:
    """Prints and logs what sound finds, and leaves in a local folder what `songsight evaluate --out` would."""
    figures = results.figures(found) | {
        "queries_without_species_in_gallery": int((units.split == "test").sum() - queries.sum()),
        "undecodable": 0,  # the table of names counts them
        "without_split": 0,
    }
    prints = {
        "recordings": tables.fingerprint(task.clips),
        "photographs": files.photographs_fingerprint(found.photographs),
    }
    number = {row["label"]: number for number, row in enumerate(task.classes)}
    picture = montage.montage(
        found.queries,
        units.first[queries],
        _clips(task.clips, setup),
        np.array([number[labels[0]] for labels in task.clips["labels"].to_pylist()]),
        [row["scientific_name"] or row["label"] for row in task.classes],
        found.photographs,
        setup.models.student,
    )
    pictures = found.pictures() | {"queries.png": (montage.CAPTION, picture)}
    record = {**setup.record, "fingerprints": prints}
    outcome = files.Outcome(found, figures, record, units.names[queries].tolist(), pictures)
    results.write(files.everything(outcome), folder)
    metrics = results.metrics(figures)
    mlflow.log_metrics({f"{task.name}.retrieval.{name}": value for name, value in metrics.items()})
    print(results.markdown(outcome), end="\n\n")
