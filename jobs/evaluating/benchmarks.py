"""`songsight evaluate --benchmark`: what becomes of a published benchmark before it is measured."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from inference.benchmarks import Labelled, Pair, photographs
from jobs import gallery
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import tables, urls

if TYPE_CHECKING:
    from jobs.evaluating.models import Names


def check_labelled(name: str, tasks: Sequence[Labelled], given: Collection[str]) -> None:
    """Refuses options that would change nothing where sounds are named.

    Args:
        name: of the benchmark.
        tasks: its parts.
        given: the fields of the options that were given.

    Raises:
        UserError: naming the option.
    """
    for field in ("checks", "trained_on", "synonyms"):
        if field in given:
            raise UserError(f"{opts.flag(field)} is for recordings and photographs: ssw60, or --recordings")
    retrieves = any(not task.several for task in tasks)
    for field, what in (("k", "kNN"), ("bridge", "bridged query")):
        if field in given and not (retrieves and "gallery" in given):
            needs = " without --gallery" if retrieves else ""
            raise UserError(f"{opts.flag(field)} is not for --benchmark {name}{needs}: there is no {what}")
    if "save_scores" in given and len(tasks) > 1:
        parts = ", ".join(task.name.partition("_")[2] for task in tasks)
        raise UserError(f"--save-scores keeps the scores of one part: name it by --parts (here are {parts})")


def write_recordings(found: Pair, where: str) -> str:
    """Writes the recordings table below a folder or URL; returns its URL."""
    url = urls.join(where, "recordings.parquet")
    tables.write_table(url, found.recordings)
    return url


def gallery_of(
    found: Pair, parts: Sequence[str], given: str | None, models: Names, actors: int | None, where: str
) -> str:
    """A gallery of a benchmark's photographs.

    Args:
        found: the benchmark.
        parts: that are asked for; those whose names begin with `images_` are photographs.
        given: URL of a gallery to take them from; None to embed them.
        models: whose teacher embeds them.
        actors: teachers side by side.
        where: folder or URL that one is written below.

    Returns:
        its URL.

    Raises:
        UserError: the gallery that is given has no photograph of the parts.
    """
    if given is None:
        return _embedded(found, models, actors, where)
    return _of_parts(given, found, parts, where) if any(part.startswith("images_") for part in parts) else given


def _of_parts(url: str, found: Pair, parts: Sequence[str], where: str) -> str:
    """A gallery's photographs that are of the parts, as a gallery of their own."""
    out = urls.join(where, "gallery_of_parts")
    kept = photographs.only(url, set(found.images["image_id"].to_pylist()), out)
    if not kept:
        raise UserError(f"--gallery {url}: holds no photograph of --parts {' '.join(parts)}, by image_id")
    opts.note(f"{kept} of the {len(found.images)} photographs of {' '.join(parts)} are in --gallery {url}")
    return out


def _embedded(found: Pair, models: Names, actors: int | None, where: str) -> str:
    """All photographs as a gallery: the one that is there, if it is of them and the teacher."""
    from songsight.models import student  # PyTorch takes seconds to import, and wrong options are answered before

    out = urls.join(where, "gallery")
    config = student.load(models.model).config
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
    gallery.main(gallery.Options(images=images, teacher=models.teacher or config.teacher, out=out, actors=actors))
    return out
