"""`songsight evaluate --benchmark`: published benchmarks from their own files."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    from inference.benchmarks import Ask, Labelled, Pair
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
    from jobs.evaluating import labelled
    from songsight.store import urls

    with tempfile.TemporaryDirectory(prefix="songsight-") as scratch:
        where = options.out or scratch
        ask = replace(_ask(options), unpack=urls.join(where, "sounds"))
        found = BENCHMARKS[options.benchmark or "raven"].read(ask)
        if isinstance(found, Pair):
            return _pair(found, ask, where, options)
        _check_labelled(found, options)
        return labelled.run(found, options)


def _ask(options: Options) -> Ask:
    from inference.benchmarks import BENCHMARKS, Ask
    from songsight.datasets import taxonomy

    name = options.benchmark or "raven"
    if options.data is None:
        raise UserError(f"missing --data: the folder of {options.benchmark or 'the annotated recordings'}")
    if options.model is None:
        raise UserError("missing --model")
    if options.recordings is not None:
        raise UserError("--recordings is not for --benchmark: --data has the recordings")
    for field in _ASKED:
        if field not in BENCHMARKS[name].heeds and _given(options, field):
            raise UserError(f"{opts.flag(field)} is not for --benchmark {name}")
    opts.require_positive(window_s=options.window_s, hop_s=options.hop_s)
    parts = [part for word in options.parts for part in word.split(",") if part]
    taxa = taxonomy.read(options.taxonomy) if options.taxonomy else None
    return Ask(options.data, parts, taxa, options.annotations, options.species_column, options.window_s, options.hop_s)


def _given(options: Options, field: str) -> bool:
    return getattr(options, field) != getattr(type(options), field)


def _check_labelled(found: list[Labelled], options: Options) -> None:
    """Refuses what would change nothing.

    Raises:
        UserError: naming the option.
    """
    for field in ("checks", "trained_on", "synonyms"):
        if _given(options, field):
            raise UserError(f"{opts.flag(field)} is for recordings and photographs: ssw60, or --recordings")
    name = options.benchmark or "raven"
    retrieves = any(not task.several for task in found)
    for field, what in (("k", "kNN"), ("bridge", "bridged query")):
        if _given(options, field) and not (retrieves and options.gallery):
            needs = " without --gallery" if retrieves else ""
            raise UserError(f"{opts.flag(field)} is not for --benchmark {name}{needs}: there is no {what}")
    if options.save_scores and len(found) > 1:
        parts = ", ".join(task.name.partition("_")[2] for task in found)
        raise UserError(f"--save-scores keeps the scores of one part: name it by --parts (here are {parts})")


def _pair(found: Pair, ask: Ask, where: str, options: Options) -> dict[str, Any]:
    """Writes the two tables, embeds the photographs, and evaluates as if they had been given."""
    from jobs import evaluate
    from songsight.store import tables, urls

    recordings = urls.join(where, "recordings.parquet")
    tables.write_table(recordings, found.recordings)
    gallery = options.gallery
    if gallery is None:
        gallery = _gallery(found, urls.join(where, "gallery"), where, options)
    elif any(part.startswith("images_") for part in ask.parts):
        gallery = _of_parts(gallery, found, urls.join(where, "gallery_of_parts"), ask)
    return evaluate.main(replace(options, benchmark=None, data=None, parts=(), recordings=recordings, gallery=gallery))


def _of_parts(gallery: str, found: Pair, out: str, ask: Ask) -> str:
    """A gallery's photographs that are of the parts asked for, as a gallery of their own."""
    from inference.benchmarks import photographs

    kept = photographs.only(gallery, set(found.images["image_id"].to_pylist()), out)
    if not kept:
        raise UserError(f"--gallery {gallery}: holds no photograph of --parts {' '.join(ask.parts)}, by image_id")
    opts.note(f"{kept} of the {len(found.images)} photographs of {' '.join(ask.parts)} are in --gallery {gallery}")
    return out


def _gallery(found: Pair, out: str, where: str, options: Options) -> str:
    """The gallery of the benchmark's photographs in `out`: the one that is there, if it is of them and the teacher."""
    from jobs import gallery
    from songsight.models import student
    from songsight.store import tables, urls

    assert options.model
    config = student.load(options.model).config
    info = urls.join(out, "gallery.json")
    if urls.exists(info):
        there = json.loads(urls.read_bytes(info))
        same = (tables.fingerprint(found.images), config.teacher_fingerprint)
        if (there.get("images_fingerprint"), there.get("teacher_fingerprint")) == same:
            opts.note(f"the photographs are embedded already: {out}")
            return out
        # What is there is about to be written over: stopped in between, it is no gallery.
        urls.remove_file(info)
    images = urls.join(where, "images.parquet")
    tables.write_table(images, found.images)
    gallery.main(
        gallery.Options(images=images, teacher=options.teacher or config.teacher, out=out, actors=options.actors)
    )
    return out
