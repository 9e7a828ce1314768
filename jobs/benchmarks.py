"""`songsight evaluate --benchmark`: published benchmarks from their own files."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distill.errors import UserError
from jobs import options as opts

if TYPE_CHECKING:
    from inference.benchmarks import Ask, Labelled, Pair
    from inference.gallery import Gallery
    from jobs.evaluate import Options

_ASKED = ("parts", "taxonomy", "annotations", "species_column", "window_s", "hop_s")


def run(options: Options) -> dict[str, Any]:
    """Reads the benchmark and measures it.

    A benchmark of sounds and pictures goes the way of any recordings and gallery (the gallery is made if none is
    given); one of sounds and labels is embedded and named here.

    Returns:
        The tables by their names.

    Raises:
        UserError: bad options, or a folder that is not laid out as the benchmark was published.
    """
    from inference.benchmarks import BENCHMARKS, Pair

    ask = _ask(options)
    found = BENCHMARKS[options.benchmark or "raven"].read(ask)
    if isinstance(found, Pair):
        return _pair(found, options)
    for field in ("checks", "save_scores"):
        if getattr(options, field):
            raise UserError(f"{opts.flag(field)} is for recordings and photographs: ssw60, or --recordings")
    return _labelled(found, options)


def _ask(options: Options) -> Ask:
    from distill.sources import taxonomy
    from inference.benchmarks import BENCHMARKS, Ask

    name = options.benchmark or "raven"
    if options.data is None:
        raise UserError(f"missing --data: the folder of {options.benchmark or 'the annotated recordings'}")
    if options.model is None:
        raise UserError("missing --model")
    if options.recordings is not None:
        raise UserError("--recordings is not for --benchmark: --data has the recordings")
    for field in _ASKED:
        if field not in BENCHMARKS[name].heeds and getattr(options, field) != getattr(type(options), field):
            raise UserError(f"{opts.flag(field)} is not for --benchmark {name}")
    opts.require_positive(window_s=options.window_s, hop_s=options.hop_s)
    parts = [part for word in options.parts for part in word.split(",") if part]
    taxa = taxonomy.read(options.taxonomy) if options.taxonomy else None
    return Ask(options.data, parts, taxa, options.annotations, options.species_column, options.window_s, options.hop_s)


def _pair(found: Pair, options: Options) -> dict[str, Any]:
    """Writes the two tables, embeds the photographs, and evaluates as if they had been given."""
    from distill import storage, tables
    from jobs import evaluate

    with tempfile.TemporaryDirectory(prefix="songsight-") as scratch:
        where = options.out or scratch
        recordings = storage.join(where, "recordings.parquet")
        tables.write_table(recordings, found.recordings)
        gallery = options.gallery or _gallery(found, storage.join(where, "gallery"), where, options)
        return evaluate.main(
            replace(options, benchmark=None, data=None, parts=(), recordings=recordings, gallery=gallery)
        )


def _gallery(found: Pair, out: str, where: str, options: Options) -> str:
    from distill import storage, student, tables
    from jobs import gallery

    assert options.model
    teacher = options.teacher or student.load(options.model).config.teacher
    images = storage.join(where, "images.parquet")
    tables.write_table(images, found.images)
    gallery.main(gallery.Options(images=images, teacher=teacher, out=out, actors=options.actors))
    return out


def _labelled(found: list[Labelled], options: Options) -> dict[str, Any]:
    import json

    from distill import checkpoints, storage, student, tables, teacher
    from inference import gallery as galleries
    from inference.benchmarks import naming
    from jobs import cluster, evaluate, side_tables, tracking

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

    cluster.connect()
    fingerprints = {task.name: tables.fingerprint(task.clips) for task in found} | {"teacher": taught_by.fingerprint}
    result: dict[str, Any] = {}
    with tracking.run("evaluate", opts.as_dict(options), fingerprints) as active:
        for task in found:
            for note in task.notes:
                opts.note(f"{task.name}: {note}")
            units = _embedded(task, model, model_at, student.Base(base), options)
            rows = naming.rows(task, units, base_text, taught_by.embed_texts, shown, options.seed)
            result[task.name] = rows
            name = task.name if len(found) > 1 else "table"
            side_tables.keep(name, rows, _heading(task, rows, shown), options.out, task.name)
        if options.out:
            about: dict[str, Any] = {
                "options": opts.as_dict(options),
                "fingerprints": fingerprints,
                "versions": tracking.versions(),
            }
            about |= {"git_commit": tracking.git_commit(), "run_id": active.info.run_id}
            storage.write_bytes(storage.join(options.out, "benchmark.json"), json.dumps(about, indent=2).encode())
    return result


def _embedded(task: Labelled, model: Any, model_at: str, base: Any, options: Options) -> Any:
    """The units of a task; of train no more clips than asked for, drawn once."""
    import numpy as np

    from distill import dataset
    from distill.text_bank import TextPlan
    from inference import embedding
    from inference.benchmarks import naming
    from jobs import cluster, progress

    split = np.array(task.clips["split"].to_pylist(), dtype=object)
    train = np.flatnonzero(split == "train")
    if len(train) > options.train_recordings:
        train = np.sort(np.random.default_rng(options.seed).permutation(train)[: options.train_recordings])
    chosen = np.sort(np.concatenate([train, np.flatnonzero(split != "train")]))
    table = task.clips.take(chosen)
    no_texts = TextPlan([], np.zeros(0), [], [], np.zeros(0, np.int32))
    clips = dataset.Clips(
        table["path"].to_pylist(),
        np.nan_to_num(np.asarray(table["start_s"].to_pylist(), np.float64)),
        np.asarray(table["end_s"].to_pylist(), np.float64),
        no_texts,
        dataset.Features.of(model.mel, options.seed),
    )
    bar = progress.Progress("clips", len(table))
    gpus_each = min(1, cluster.gpus())
    actors = options.actors or cluster.slots(gpus_each)
    rows, vectors = embedding.embed_recordings(clips, len(table), model_at, base, actors, gpus_each, bar.update)
    bar.close()
    if len(rows) < len(table):
        opts.note(f"{task.name}: {len(table) - len(rows)} of {len(table)} clips cannot be decoded")
    found = naming.units(task, chosen[rows], vectors)
    if not (found.split == "test").any():
        raise UserError(f"--data {options.data}: none of the test clips of {task.name} can be decoded")
    return found


def _heading(task: Labelled, rows: list[dict[str, Any]], shown: Gallery | None) -> str:
    pictures = f", {len(shown.of_split('test').vectors)} photographs" if shown is not None else ""
    return f"{task.name}: {rows[0]['units']} test units of {rows[0]['classes']} classes{pictures}"
