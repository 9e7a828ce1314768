"""Measure how well sound finds pictures, against baselines, with intervals.

    songsight evaluate --model model --gallery gallery --recordings recordings.parquet --out evaluation
    songsight evaluate --compare evaluation-a evaluation-b
    songsight evaluate --model model --benchmark ssw60 --data SSW60 --out evaluation
    songsight evaluate --model model --data field --annotations field/raven --out evaluation

Queries are the recordings whose `split` is `test`; they are ranked against the gallery's `test` photographs (all of
them where it knows no such split). `train` recordings fit the baselines that need fitting, and kNN's neighbours. Two
evaluations that `--out` kept are compared recording by recording. Benchmarks are read from their own files; `--checks`
looks into what the table leaves open.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from jobs.shared import cluster, tracking
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import lease, urls

if TYPE_CHECKING:
    from inference.benchmarks import Ask, Labelled
    from inference.evaluation.measured import Settings
    from jobs.evaluating.models import Names

_OF_BENCHMARKS = ("data", "parts", "species_column", "window_s", "hop_s")
_OF_COMPARISONS = ("compare", "out", "resamples", "seed")


@dataclass(frozen=True)
class Options:
    """Options of `songsight evaluate`."""

    model: str | None = None
    """model made by `songsight distill`: folder, URL, or registered: models:/songsight/3, models:/songsight@champion"""
    gallery: str | None = None
    """gallery of photographs, made by `songsight gallery` with the model's teacher; of --benchmark ssw60 made here"""
    recordings: str | None = None
    """recordings table with a split column (Parquet or CSV; path or URL)"""
    benchmark: Literal["ssw60", "inatsounds", "birdset", "beans", "raven"] | None = None
    """a published benchmark in place of --recordings, read from its own files in --data"""
    data: str | None = None
    """folder or URL of the --benchmark, or of the recordings that --annotations are of"""
    parts: tuple[str, ...] = ()
    """parts of the benchmark, such as `cbi dcase` of beans, `HSN` of birdset, `images_inat` of ssw60; else all"""
    taxonomy: str | None = None
    """table with scientific_name and ranks, common_name or species_code: what recordings and gallery lack of them, and
    what a benchmark's codes mean"""
    annotations: str | None = None
    """Raven selection tables, Audacity labels or a plain table of what sounds in the recordings of --data"""
    species_column: str | None = None
    """column of --annotations that names the species; the first known one if not given"""
    window_s: float = 5.0
    """window of --annotations and inatsounds, in seconds"""
    hop_s: float | None = None
    """from one window to the next, in seconds; the window's length if not given"""
    checks: tuple[str, ...] = ()
    """what to look into besides: text-types, confusable, unseen, robustness, renamed, or all"""
    trained_on: str | None = None
    """for --checks unseen: the recordings table that the model was trained on, where it is not --recordings"""
    synonyms: str | None = None
    """for --checks renamed: table with scientific_name and synonym"""
    out: str | None = None
    """folder or URL for the tables (JSON, Markdown, CSV), each query's results and `evaluation.html`"""
    save_scores: str | None = None
    """file or URL (.npz) for the student's scores: `scores` [queries, images], `query_species`, `image_species`"""
    compare: tuple[str, ...] = ()
    """two folders that `--out` wrote, or MLflow runs (runs:/ID): say which differences are more than noise"""
    teacher: str | None = None
    """the gallery's teacher, where it is no longer at the name that the gallery holds"""
    base: str | None = None
    """ClapModel that the model came from, where it is no longer at the name that the model holds"""
    train_recordings: int = 10000
    """most `train` recordings to embed, drawn once"""
    k: int = 5
    """neighbours of kNN"""
    bridge: float = 0.25
    """weight of the species' texts in the bridged query, from 0 to 1; `songsight annotate` has the same option"""
    resamples: int = 1000
    """bootstrap resamples that intervals are made of"""
    actors: int | None = None
    """encoders side by side; one a GPU or else one a CPU if not given"""
    seed: int = 0
    """of the random projection, the frozen head, the draw of recordings and the bootstrap"""


def main(options: Options) -> dict[str, Any]:
    """Prints the tables and returns them."""
    _check(options)
    with lease.held(options.out) if options.out else contextlib.nullcontext():
        if options.compare:
            return _compare(options)
        if options.benchmark or options.annotations:
            return _measure_benchmark(options)
        return _find_photographs(options)


def _compare(options: Options) -> dict[str, Any]:
    """Says in what two kept evaluations differ."""
    from jobs.evaluating import compare

    return compare.run(compare.Comparison(options.compare, options.out, options.resamples, options.seed))


def _find_photographs(options: Options) -> dict[str, Any]:
    """Measures how well the recordings of a table find the photographs of a gallery."""
    from jobs.evaluating import checks, inputs

    assert options.recordings
    assert options.gallery
    plan = checks.plan(options.checks, options.trained_on, options.synonyms, options.recordings)
    question = inputs.Question(
        options.recordings, options.gallery, options.taxonomy, options.train_recordings, options.seed
    )
    given = inputs.read(question)
    checks.check_synonyms(plan, options.synonyms, given.gallery, options.gallery)

    # PyTorch and MLflow take seconds to import: what the options or the tables lack is said before.
    from inference.evaluation import files
    from jobs.evaluating import models, results, retrieval

    loaded = models.load(_names(options), given.gallery, "gallery", options.actors)
    fingerprints = retrieval.fingerprints(given, loaded)

    cluster.connect()
    with tracking.run("evaluate", opts.as_dict(options), fingerprints) as active:
        embedded = retrieval.embed(given, loaded)
        found = retrieval.measure(embedded, _settings(options))
        record = results.record(opts.as_dict(options), fingerprints, active.info.run_id)
        outcome = retrieval.outcome(found, embedded, record)
        results.keep(outcome, options.out, options.save_scores)
        print(results.markdown(outcome))
        if not plan.names:
            return outcome.figures
        checked = checks.run(checks.subject(plan, found, embedded), plan.names, options.out)
        # What was kept before the checks, which may take long or fail, is kept again with them.
        results.keep_files(files.summary(outcome, checks.sections(checked)), options.out)
        return outcome.figures | {"checks": checked}


def _measure_benchmark(options: Options) -> dict[str, Any]:
    """Reads a benchmark and measures it.

    One of sounds and pictures goes the way of any recordings and gallery (the gallery is made if none is given); of one
    of sounds and labels the sounds are named.
    """
    from inference.benchmarks import BENCHMARKS, Pair
    from jobs.evaluating import benchmarks

    name = options.benchmark or "raven"
    _check_benchmark(options, BENCHMARKS[name].heeds)
    with tempfile.TemporaryDirectory(prefix="songsight-") as scratch:
        where = options.out or scratch
        ask = _ask(options, urls.join(where, "sounds"))
        found = BENCHMARKS[name].read(ask)
        if isinstance(found, Pair):
            recordings = benchmarks.write_recordings(found, where)
            gallery = benchmarks.gallery_of(found, ask.parts, options.gallery, _names(options), options.actors, where)
            pair = replace(options, benchmark=None, data=None, parts=(), recordings=recordings, gallery=gallery)
            _check(pair)
            return _find_photographs(pair)
        benchmarks.check_labelled(name, found, _given(options))
        return _name_sounds(found, options)


def _name_sounds(tasks: list[Labelled], options: Options) -> dict[str, Any]:
    """Measures how well the sounds of a benchmark's parts are named."""
    from inference.match import gallery
    from jobs.evaluating import labelled, models, results, side_tables

    assert options.data
    shown = gallery.read(options.gallery) if options.gallery else None
    loaded = models.load(_names(options), shown, "model", options.actors)
    fingerprints = labelled.fingerprints(tasks, loaded, shown)

    cluster.connect()
    with (
        tracking.run("evaluate", opts.as_dict(options), fingerprints) as active,
        tempfile.TemporaryDirectory(prefix="songsight-") as folder,
    ):
        record = results.record(opts.as_dict(options), fingerprints, active.info.run_id)
        setup = labelled.Setup(
            options.data, loaded, shown, _settings(options), options.train_recordings, record, folder
        )
        parts = {}
        for task in tasks:
            prefix = f"{task.name}." if len(tasks) > 1 else ""
            part = parts[task.name] = labelled.evaluate(task, setup, prefix, options.save_scores)
            name = task.name if prefix else "table"
            side_tables.keep(name, part.rows, part.heading, options.out, named=task.name)
        labelled.keep(parts, setup, options.out)
    return {name: part.rows for name, part in parts.items()}


def _names(options: Options) -> Names:
    from jobs.evaluating.models import Names

    assert options.model
    return Names(options.model, options.base, options.teacher)


def _settings(options: Options) -> Settings:
    from inference.evaluation.measured import Settings

    return Settings(options.bridge, options.k, options.resamples, options.seed)


def _ask(options: Options, unpack: str) -> Ask:
    from inference.benchmarks import Ask
    from songsight.datasets import taxonomy

    assert options.data
    parts = [part for word in options.parts for part in word.split(",") if part]
    taxa = taxonomy.read(options.taxonomy) if options.taxonomy else None
    species = options.species_column
    return Ask(options.data, parts, taxa, options.annotations, species, options.window_s, options.hop_s, unpack)


def _check(options: Options) -> None:
    """Finds out before hours are spent what is missing, out of range, would be ignored or cannot be written.

    Raises:
        UserError: naming the option.
    """
    opts.require_positive(
        k=options.k, train_recordings=options.train_recordings, actors=options.actors, resamples=options.resamples
    )
    opts.require_at_least(0, seed=options.seed, bridge=options.bridge)
    if options.bridge > 1:
        raise UserError(f"--bridge should be at most 1 (got {options.bridge:g})")
    if options.compare:
        others = [field.name for field in fields(Options) if field.name not in _OF_COMPARISONS]
        _refuse(options, others, "--compare")
    elif not (options.benchmark or options.annotations):
        missing = [opts.flag(name) for name in ("model", "gallery", "recordings") if not getattr(options, name)]
        if missing:
            raise UserError(f"missing {', '.join(missing)}; or give --benchmark and --data")
        _refuse(options, _OF_BENCHMARKS, "--recordings: it is for --benchmark or --annotations")
    if options.save_scores:
        urls.require_writable_file(options.save_scores, "--save-scores")


def _check_benchmark(options: Options, heeds: Iterable[str]) -> None:
    """The same of a benchmark that heeds some options besides those that all do."""
    if options.data is None:
        raise UserError(f"missing --data: the folder of {options.benchmark or 'the annotated recordings'}")
    if options.model is None:
        raise UserError("missing --model")
    if options.recordings is not None:
        raise UserError("--recordings is not for --benchmark: --data has the recordings")
    others = ("parts", "taxonomy", "annotations", "species_column", "window_s", "hop_s")
    _refuse(options, [name for name in others if name not in heeds], f"--benchmark {options.benchmark or 'raven'}")
    opts.require_positive(window_s=options.window_s, hop_s=options.hop_s)


def _given(options: Options) -> set[str]:
    """The fields with another value than their default."""
    return {field.name for field in fields(options) if getattr(options, field.name) != field.default}


def _refuse(options: Options, names: Iterable[str], mode: str) -> None:
    """Refuses options that would be ignored."""
    given = _given(options)
    for name in names:
        if name in given:
            raise UserError(f"{opts.flag(name)} is not for {mode}")


if __name__ == "__main__":
    from jobs.cli import command

    command("evaluate")
