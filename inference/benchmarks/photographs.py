"""Takes some of a gallery's photographs."""

from __future__ import annotations

import json
from collections.abc import Collection

import pyarrow as pa

from inference.match import gallery
from songsight.store import tables, urls


def only(url: str, image_ids: Collection[str], out: str) -> int:
    """Writes the photographs with some ids as a gallery of their own; the species are those that they show.

    Args:
        url: the gallery.
        image_ids: of the photographs to take.
        out: folder or URL for the new one.

    Returns:
        how many were found; nothing is written where none is.

    Raises:
        UserError: there is no gallery at the URL.
    """
    info = gallery.read(url).info
    images = tables.read_table(urls.join(url, "images.parquet"), "--gallery", ("image_id", "scientific_name"))
    images = images.filter(pa.array([name in image_ids for name in images["image_id"].to_pylist()], pa.bool_()))
    if not len(images):
        return 0
    names = tables.read_table(urls.join(url, "species.parquet"), "--gallery", ("scientific_name",))
    shown = set(images["scientific_name"].to_pylist())
    names = names.filter(pa.array([name in shown for name in names["scientific_name"].to_pylist()], pa.bool_()))
    tables.write_table(urls.join(out, "images.parquet"), images)
    tables.write_table(urls.join(out, "species.parquet"), names)
    # What its photographs were made of no longer holds: without the hash it is never taken for another one.
    about = {name: value for name, value in info.items() if name not in ("images_fingerprint", "quarantined")}
    about |= {"images": len(images), "species": len(names), "part_of": url}
    urls.write_bytes(urls.join(out, "gallery.json"), json.dumps(about, indent=2).encode())
    return len(images)
