"""Embed photographs of species once, so that sounds can be matched with them.

    songsight gallery --images images.parquet --teacher hf-hub:imageomics/bioclip-2 --out gallery

The images table needs `path` and `scientific_name`. Photographs that cannot be read go to the gallery's quarantine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from jobs.shared import options as opts
from songsight.errors import UserError


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
    import pyarrow as pa
    import pyarrow.compute as pc

    from inference.match import gallery
    from jobs.shared import cluster, progress, tracking
    from songsight.models import teacher
    from songsight.store import checkpoints, tables, urls

    opts.require_positive(actors=options.actors)
    images = tables.read_table(options.images, "--images", ("path", "scientific_name"), tables.IMAGES)
    if options.split is not None:
        images = images.filter(pc.equal(images["split"], options.split))
        if not len(images):
            raise UserError(f"--split {options.split}: no photograph of {options.images} has it")
    if images["scientific_name"].null_count or images["path"].null_count:
        raise UserError(f"--images: {options.images} has rows without scientific_name or path")
    if images["image_id"].null_count:
        column = images.schema.get_field_index("image_id")
        ids = pc.coalesce(images["image_id"], images["path"])
        images = images.set_column(column, "image_id", ids)
    urls.require_writable(options.out, "--out")
    taught_by = teacher.load(options.teacher, options.image_resize)
    text_rows = gallery.species_of(images)

    cluster.connect()
    fingerprints = {"images": tables.fingerprint(images), "teacher": taught_by.fingerprint}
    with tracking.run("gallery", opts.as_dict(options), fingerprints) as run:
        import mlflow

        bar = progress.Progress("photographs", len(images))
        gpus_each = min(1, cluster.gpus())
        done, quarantine = gallery.build(
            images,
            options.images,
            options.teacher,
            options.image_resize,
            options.actors or cluster.slots(gpus_each),
            gpus_each,
            bar.update,
        )
        bar.close()
        if not len(done):
            first = quarantine.to_pylist()[0]
            raise UserError(
                f"--images: none of the {len(images)} photographs of {options.images} can be read; the first, "
                f"{first['path']}: {first['reason']} {first['detail']}"
            )
        known = set(done["scientific_name"].to_pylist())
        text_rows = text_rows.filter(pa.array([name in known for name in text_rows["scientific_name"].to_pylist()]))
        name_vectors = taught_by.embed_texts(text_rows["text"].to_pylist())
        info = {
            "teacher": checkpoints.portable(options.teacher, "--teacher"),
            "teacher_fingerprint": taught_by.fingerprint,
            "width": taught_by.width,
            "image_resize": taught_by.image_resize,
            "text_type": gallery.SPECIES_TEXT_TYPE,
            "images": len(done),
            "species": len(text_rows),
            "quarantined": len(quarantine),
            "images_fingerprint": fingerprints["images"],
            "mlflow_run": run.info.run_id,
        }
        tables.write_table(urls.join(options.out, "images.parquet"), done)
        named = text_rows.append_column("embedding", gallery.vectors_column(name_vectors))
        tables.write_table(urls.join(options.out, "species.parquet"), named)
        tables.write_table(urls.join(options.out, "quarantine.parquet"), quarantine)
        # Last: a gallery without this file is no gallery yet.
        urls.write_bytes(urls.join(options.out, "gallery.json"), json.dumps(info, indent=2).encode())
        mlflow.log_dict(info, "gallery.json")
        mlflow.log_metrics({"images": len(done), "species": len(text_rows), "quarantined": len(quarantine)})
    print(
        f"gallery: {options.out}: {len(done)} photographs of {len(text_rows)} species "
        f"({len(images)} listed = {len(done)} embedded + {len(quarantine)} quarantined)"
    )


if __name__ == "__main__":
    from jobs.cli import command

    command("gallery")
