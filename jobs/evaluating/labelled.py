"""Measures labelled benchmarks: sounds are embedded, named in every way, and what they find is looked at."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from inference.benchmarks import Labelled
    from inference.benchmarks.retrieval import Models
    from inference.benchmarks.scores import Units
    from inference.evaluation.measured import Evaluation
    from inference.match.gallery import Gallery
    from jobs.evaluate import Options
    from songsight.audio.clips import Clips


@dataclass(frozen=True)
class _Subject:
    """What is measured.

    Attributes:
        model, model_at: the student, and its name for actors.
        base: the audio half of the model that it came from.
        models: their texts and temperatures.
        gallery: photographs, or none.
    """

    model: Any
    model_at: str
    base: Any
    models: Models
    gallery: Gallery | None


def _subject(options: Options) -> tuple[_Subject, dict[str, str]]:
    """The models, and the fingerprints of what goes in."""
    from inference.benchmarks.retrieval import Models
    from inference.match import gallery as galleries
    from jobs import evaluate
    from songsight.models import student, teacher
    from songsight.store import checkpoints, tables

    assert options.model
    model_at = checkpoints.portable(options.model)
    model = student.load(model_at)
    shown = galleries.read(options.gallery) if options.gallery else None
    if shown is not None:
        shown.check_teacher(
            model.config.embedding_width, model.config.teacher_fingerprint, "--gallery", f"--model {options.model}"
        )
    base_name = options.base or model.config.base_model
    base = student.load_base(base_name, "--base")[0]
    base_text = evaluate._base_text(base, base_name)
    taught_by = teacher.load(options.teacher or model.config.teacher, option="--teacher")
    if taught_by.fingerprint != model.config.teacher_fingerprint:
        raise UserError(f"--teacher {taught_by.name}: has other weights than the model's teacher")
    fingerprints = {
        "teacher": taught_by.fingerprint,
        "model": checkpoints.fingerprint(model),
        "base": checkpoints.fingerprint(base),
    }
    if shown is not None:
        photographs = shown.of_split("test").images.select(["image_id", "scientific_name"])
        fingerprints["photographs"] = tables.fingerprint(photographs)
    models = Models(base_text, taught_by.embed_texts, float(model.log_scale), float(base.logit_scale_a))
    return _Subject(model, model_at, student.Base(base), models, shown), fingerprints


def run(found: list[Labelled], options: Options) -> dict[str, Any]:
    """Measures each part of a benchmark.

    Args:
        found: the parts.
        options: of the job.

    Returns:
        The tables by the parts' names.

    Raises:
        UserError: models or a gallery that do not fit together, or none of a part's test clips can be decoded.
    """
    import mlflow

    from inference.benchmarks import kept, look
    from jobs.shared import cluster, tracking
    from songsight.store import tables, urls

    subject, fingerprints = _subject(options)
    cluster.connect()
    fingerprints |= {task.name: tables.fingerprint(task.clips) for task in found}
    result: dict[str, Any] = {}
    sections: list[tuple[str, list[dict[str, Any]]]] = []
    pictures: dict[str, tuple[str, bytes]] = {}
    parts: dict[str, dict[str, str]] = {}
    with (
        tracking.run("evaluate", opts.as_dict(options), fingerprints) as active,
        tempfile.TemporaryDirectory(prefix="songsight-") as local,
    ):
        for task in found:
            for note in task.notes:
                opts.note(f"{task.name}: {note}")
            prefix = f"{task.name}." if len(found) > 1 else ""
            units = _embedded(task, subject, options)
            rows, drawn = _measured(task, units, subject, local, prefix, options)
            result[task.name] = rows
            sections.append((_heading(task, rows, subject.gallery), rows))
            pictures |= drawn
            parts[task.name] = {"scores": f"{prefix}scores.npz"}
            if os.path.isdir(os.path.join(local, f"{prefix}retrieval")):
                parts[task.name]["retrieval"] = f"{prefix}retrieval"
        record = {
            "options": opts.as_dict(options),
            "fingerprints": fingerprints,
            "versions": tracking.versions(),
            "git_commit": tracking.git_commit(),
            "run_id": active.info.run_id,
            "parts": parts,
        }
        page = look.html("How well sounds are named", sections, pictures, record)
        texts = {kept.RECORD: json.dumps(record, indent=2).encode(), "benchmark.html": page.encode()}
        for name, data in (texts | {f"pictures/{name}": png for name, (_, png) in pictures.items()}).items():
            urls.write_bytes(os.path.join(local, name), data)
        mlflow.log_artifacts(local)
        if options.out:
            urls.store_folder(local, options.out)
    return result


def _measured(
    task: Labelled, units: Units, subject: _Subject, local: str, prefix: str, options: Options
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, bytes]]]:
    """The rows and pictures of one part; its scores, and what sound finds, are left in a local folder."""
    import pyarrow.compute as pc

    from inference.benchmarks import kept, look, measure, retrieval, scores
    from inference.benchmarks.redraw import Redrawn
    from jobs.evaluating import side_tables

    test = units.of("test")
    truth = scores.truth(task, test)
    redrawn = Redrawn(test.recording, options.resamples, options.seed)
    curves = look.Curves(truth)
    rows: list[dict[str, Any]] = [{"method": "chance"} | measure.chance(truth)]
    models, shown = subject.models, subject.gallery
    with kept.archive(os.path.join(local, f"{prefix}scores.npz")) as writer:
        kept.begin(writer, task, test, truth)
        for name, method in scores.methods(task, units, models.base_text, models.teacher_text, shown):
            scored = method.scored(task, test)
            rows.append({"method": name} | measure.row(measure.figures(truth, scored, redrawn)))
            writer.method(name, scored)
            curves.add(name, scored)
            if options.save_scores and name == scores.STUDENT:
                kept.save_scores(options.save_scores, task, test, method)
    if options.save_scores and scores.STUDENT not in [row["method"] for row in rows]:
        raise UserError("--save-scores: no class has a name that it could be asked for by; --taxonomy may know them")
    if shown is not None and retrieval.asked(task, units, shown).any():
        found = retrieval.evaluation(
            task, units, shown, models, options.bridge, options.k, options.resamples, options.seed
        )
        _keep_retrieval(task, units, found, subject, os.path.join(local, f"{prefix}retrieval"), options)
        (own,) = [row for row in found.table if row["method"] == scores.STUDENT]
        ends = ("", "_low", "_high", "_species_low", "_species_high")
        by_method = {row["method"]: row for row in rows}
        by_method[scores.STUDENT] |= {f"audio_to_image_mAP{end}": own[f"macro_mAP{end}"] for end in ends}
    asked = set(task.clips.filter(pc.equal(task.clips["split"], "test"))["unit"].to_pylist())
    counts = {
        "units": len(test.names),
        "recordings": redrawn.recordings,
        "classes": int((test.present.sum(axis=0) > 0).sum()),
        "undecodable": len(asked) - len(test.names),
    }
    rows = [row | counts | task.counts for row in rows]
    name = task.name if prefix else "table"
    side_tables.keep(name, rows, _heading(task, rows, shown), options.out, task.name)
    return rows, curves.pictures(task.name)


def _keep_retrieval(
    task: Labelled, units: Units, found: Evaluation, subject: _Subject, local: str, options: Options
) -> None:
    """Prints what sound finds, and leaves in a local folder what `songsight evaluate --out` would."""
    import mlflow
    import numpy as np

    from inference.benchmarks import retrieval
    from inference.evaluation import files, montage
    from jobs.evaluating import log as evaluation_log
    from jobs.shared import tracking
    from songsight.store import tables, urls

    assert subject.gallery is not None
    active = mlflow.active_run()
    queries = retrieval.asked(task, units, subject.gallery)
    result = evaluation_log.figures(found) | {
        "queries_without_species_in_gallery": int((units.split == "test").sum() - queries.sum()),
        "undecodable": 0,  # the table of names counts them
        "without_split": 0,
    }
    photographs = found.photographs.images.select(["image_id", "scientific_name"])
    record = {
        "options": opts.as_dict(options),
        "fingerprints": {"recordings": tables.fingerprint(task.clips), "photographs": tables.fingerprint(photographs)},
        "versions": tracking.versions(),
        "git_commit": tracking.git_commit(),
        "run_id": active.info.run_id if active else "",
    }
    place = {row["label"]: number for number, row in enumerate(task.classes)}
    picture = montage.montage(
        found.queries,
        units.first[queries],
        _clips(task.clips, subject, options),
        np.array([place[labels[0]] for labels in task.clips["labels"].to_pylist()]),
        [row["scientific_name"] or row["label"] for row in task.classes],
        found.photographs,
        subject.model,
    )
    ids = units.names[queries].tolist()
    told = "Queries: recordings as the encoder hears them and their five nearest photographs"
    pictures = found.pictures() | {"queries.png": (told, picture)}
    for name, data in files.everything(found, result, record, ids, pictures).items():
        urls.write_bytes(os.path.join(local, name), data)
    figures = evaluation_log.metrics(result)
    mlflow.log_metrics({f"{task.name}.retrieval.{name}": value for name, value in figures.items()})
    print(evaluation_log.markdown(found, result, options.resamples), end="\n\n")


def _embedded(task: Labelled, subject: _Subject, options: Options) -> Units:
    """The units of a task; of train no more than asked for, drawn once."""
    import numpy as np

    from inference.benchmarks import scores
    from inference.evaluation import embed
    from jobs.shared import cluster, progress

    split = np.array(task.clips["split"].to_pylist(), dtype=object)
    unit = np.array(task.clips["unit"].to_pylist(), dtype=object)
    is_train = split == "train"
    train = np.unique(unit[is_train].astype(str))
    if len(train) > options.train_recordings:
        drawn = np.random.default_rng(options.seed).permutation(train)[: options.train_recordings]
        is_train &= np.isin(unit.astype(str), drawn)
    chosen = np.flatnonzero(is_train | (split != "train"))
    table = task.clips.take(chosen)
    bar = progress.Progress("clips", len(table))
    gpus_each = min(1, cluster.gpus())
    actors = options.actors or cluster.slots(gpus_each)
    rows, vectors = embed.embed_recordings(
        _clips(table, subject, options), len(table), subject.model_at, subject.base, actors, gpus_each, bar.update
    )
    bar.close()
    if len(rows) < len(table):
        opts.note(f"{task.name}: {len(table) - len(rows)} of {len(table)} clips cannot be decoded")
    for kind, some in vectors.items():
        if not np.isfinite(some).all():
            whose = f"--model {options.model}" if kind.startswith("student") else "--base"
            raise UserError(f"{whose}: gives vectors that are no finite numbers for clips of {task.name}")
    if not (split[chosen[rows]] == "test").any():
        raise UserError(f"--data {options.data}: none of the test clips of {task.name} can be decoded")
    return scores.units(task, chosen[rows], vectors)


def _clips(table: pa.Table, subject: _Subject, options: Options) -> Clips:
    import numpy as np

    from songsight.audio.clips import Clips, Features

    return Clips(
        table["path"].to_pylist(),
        np.nan_to_num(np.asarray(table["start_s"].to_pylist(), np.float64)),
        np.asarray(table["end_s"].to_pylist(), np.float64),
        Features.of(subject.model.mel, options.seed),
    )


def _heading(task: Labelled, rows: list[dict[str, Any]], shown: Gallery | None) -> str:
    pictures = f", {len(shown.of_split('test').vectors)} photographs" if shown is not None else ""
    about = f"{rows[0]['units']} test units of {rows[0]['recordings']} recordings and {rows[0]['classes']} classes"
    return f"{task.name}: {about}{pictures}"
