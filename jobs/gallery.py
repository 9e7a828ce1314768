"""Embed photographs of species once, so that sounds can be matched with them.

    songsight gallery --images images.parquet --teacher hf-hub:imageomics/bioclip-2 --out gallery

The images table needs `path` and `scientific_name`. Photographs that cannot be read go to the gallery's quarantine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.shared import cluster, progress, tracking
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import checkpoints, lease, urls

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from songsight.models.teacher import Teacher


@dataclass(frozen=True)
class Options:
    """Options of `songsight gallery`."""

    images: str
    """images table (Parquet or CSV; path or URL)"""
    out: str
    """folder or URL for the gallery"""
    teacher: str = "hf-hub:imageomics/bioclip-2"
    """open_clip model: hf-hub:owner/name, local-dir:folder, folder, URL, or registered (models:/bioclip/1)"""
    image_resize: Literal["checkpoint", "squash"] = "checkpoint"
    """how photographs become square: the checkpoint's own transform, or squashed as pybioclip does"""
    split: str | None = None
    """take only the photographs of this split"""
    actors: int | None = None
    """teachers side by side; one a GPU or else one a CPU if not given"""


def main(options: Options) -> None:
    """Embeds the photographs and writes the gallery."""
    opts.require_positive(actors=options.actors)
    from songsight.models import teacher

    images = _images(options.images, options.split)
    taught_by = teacher.load(options.teacher, options.image_resize)
    with lease.held(options.out):
        _embed(options, images, taught_by)


def _embed(options: Options, images: pa.Table, taught_by: Teacher) -> None:
    """The same of photographs that are listed, while no other run is at `--out`."""
    from inference.match import gallery
    from songsight.store import tables

    cluster.connect()
    fingerprints = {"images": tables.fingerprint(images), "teacher": taught_by.fingerprint}
    with tracking.run("gallery", opts.as_dict(options), fingerprints) as run:
        import mlflow

        bar = progress.Progress("photographs", len(images))
        gpus_each = min(1, cluster.gpus())
        actors = options.actors or cluster.slots(gpus_each)
        done, quarantine = gallery.build(
            images, options.images, options.teacher, options.image_resize, actors, gpus_each, bar.update
        )
        bar.close()
        _require_some(done, quarantine, options.images)
        species = _shown(gallery.species_of(images), done)
        vectors = taught_by.embed_texts(species["text"].to_pylist())
        counts: dict[str, float] = {"images": len(done), "species": len(species), "quarantined": len(quarantine)}
        info = _info(options.teacher, taught_by) | counts
        info |= {"images_fingerprint": fingerprints["images"], "mlflow_run": run.info.run_id}
        lease.check()
        _write(options.out, done, species, vectors, quarantine, info)
        mlflow.log_dict(info, "gallery.json")
        mlflow.log_metrics(counts)
    print(
        f"gallery: {options.out}: {len(done)} photographs of {len(species)} species "
        f"({len(images)} listed = {len(done)} embedded + {len(quarantine)} quarantined)"
    )


def _images(url: str, split: str | None) -> pa.Table:
    """The photographs of an images table, each with an id.

    Raises:
        UserError: none of them is of the split, or one lacks its path or species.
    """
    import pyarrow.compute as pc

    from songsight.store import tables

    images = tables.read_table(url, "--images", ("path", "scientific_name"), tables.IMAGES)
    if split is not None:
        images = images.filter(pc.equal(images["split"], split))
        if not len(images):
            raise UserError(f"--split {split}: no photograph of {url} has it")
    if images["scientific_name"].null_count or images["path"].null_count:
        raise UserError(f"--images: {url} has rows without scientific_name or path")
    if images["image_id"].null_count:
        column = images.schema.get_field_index("image_id")
        images = images.set_column(column, "image_id", pc.coalesce(images["image_id"], images["path"]))
    return images


def _require_some(done: pa.Table, quarantine: pa.Table, url: str) -> None:
    """Raises UserError where none of the photographs could be read."""
    if len(done):
        return
    first = quarantine.slice(0, 1).to_pylist()[0]
    raise UserError(
        f"--images: none of the {len(quarantine)} photographs of {url} can be read; the first, "
        f"{first['path']}: {first['reason']} {first['detail']}"
    )


def _shown(species: pa.Table, done: pa.Table) -> pa.Table:
    """The species that have a photograph left."""
    import pyarrow.compute as pc

    return species.filter(pc.is_in(species["scientific_name"], pc.unique(done["scientific_name"])))


def _info(teacher: str, taught_by: Teacher) -> dict[str, Any]:
    """What `gallery.json` says of the teacher."""
    from inference.match import gallery

    return {
        "teacher": checkpoints.portable(teacher, "--teacher"),
        "teacher_fingerprint": taught_by.fingerprint,
        "width": taught_by.width,
        "image_resize": taught_by.image_resize,
        "text_type": gallery.SPECIES_TEXT_TYPE,
    }


def _write(
    out: str, images: pa.Table, species: pa.Table, vectors: np.ndarray, quarantine: pa.Table, info: dict[str, Any]
) -> None:
    """Writes the gallery, `gallery.json` last: without it it is no gallery yet."""
    from inference.match import gallery
    from songsight.store import tables

    named = species.append_column("embedding", gallery.vectors_column(vectors))
    for name, table in (("images", images), ("species", named), ("quarantine", quarantine)):
        tables.write_table(urls.join(out, f"{name}.parquet"), table)
    urls.write_bytes(urls.join(out, "gallery.json"), json.dumps(info, indent=2).encode())


if __name__ == "__main__":
    from jobs.cli import command

    command("gallery")
