"""The gallery: each species' photographs, embedded once by the teacher.

A gallery is a folder or URL:

    images.parquet    tables.IMAGES, `embedding` (unit length, float32 [width]) and `thumbnail` (JPEG bytes)
    species.parquet   the names and ranks of each species and the teacher's `embedding` of its text
    quarantine.parquet  photographs that could not be read, and why
    gallery.json      the teacher, its weights' hash, how images were made square, counts
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from songsight import photographs, pool
from songsight.audio.header import refuse_hopeless
from songsight.errors import UserError
from songsight.models import prompts
from songsight.reasons import AudioError, from_storage, one_line
from songsight.store import checkpoints, tables
from songsight.store import urls as storage
from songsight.store.retry import patiently

THUMBNAIL_PX = 240
IMAGES_PER_BLOCK = 64
_HEAD_BYTES = 512
BLOCKS_PER_ACTOR = 8  # fewer are embedded before another teacher is loaded
SPECIES_TEXT_TYPE = "taxon_com"  # what BioCLIP's own evaluations on rare species ask with


@dataclass(frozen=True)
class Gallery:
    """A gallery in memory.

    Attributes:
        info: what `gallery.json` says.
        images: `images.parquet` without the embedding column, sorted by species.
        vectors: float32 [images, width], row for row with `images`.
        names: `species.parquet` without the embedding column.
        name_vectors: float32 [species, width], row for row with `names`.
    """

    info: dict[str, Any]
    images: pa.Table
    vectors: np.ndarray
    names: pa.Table
    name_vectors: np.ndarray

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return self.vectors.shape[1]

    @cached_property
    def species(self) -> np.ndarray:
        """Scientific name of each photograph, object [images]."""
        return np.array(self.images["scientific_name"].to_pylist(), dtype=object)

    def fingerprint(self) -> str:
        """A hash of all that a hit shows or depends on: vectors, names, photographs' ids and paths; 16 hex digits."""
        digest = hashlib.sha256(self.scoring_fingerprint.encode())
        digest.update(tables.fingerprint(self.images.select(["image_id", "path", "common_name"])).encode())
        digest.update(tables.fingerprint(self.names.select(["scientific_name", "common_name"])).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def scoring_fingerprint(self) -> str:
        """A hash of what decides scores, the vectors and which species they are of: 16 hex digits of SHA-256."""
        digest = hashlib.sha256(self.vectors.tobytes())
        digest.update(self.name_vectors.tobytes())
        digest.update(tables.fingerprint(self.images.select(["scientific_name"])).encode())
        return digest.hexdigest()[:16]

    def where(self, keep: np.ndarray) -> Gallery:
        """The photographs for which a bool mask [images] holds."""
        return Gallery(self.info, self.images.filter(pa.array(keep)), self.vectors[keep], self.names, self.name_vectors)

    def of_split(self, split: str) -> Gallery:
        """The photographs of a split, or all of them where the gallery knows no such split."""
        keep = np.array([value == split for value in self.images["split"].to_pylist()], bool)
        return self.where(keep) if keep.any() else self

    def check_teacher(self, width: int, fingerprint: str, option: str, of: str) -> None:
        """Refuses vectors that cannot be compared with these.

        Args:
            width: of the other vectors.
            fingerprint: of the teacher whose space they lie in.
            option: the option that named this gallery.
            of: what the other vectors are, for the error line.

        Raises:
            UserError: another width, or another teacher of the same width.
        """
        if width != self.width:
            raise UserError(
                f"{option}: the gallery has vectors of width {self.width} (teacher {self.info['teacher']}), "
                f"{of} has {width}: embed the photographs with the model's own teacher"
            )
        if fingerprint != self.info["teacher_fingerprint"]:
            raise UserError(
                f"{option}: the gallery was embedded by {self.info['teacher']} with weights "
                f"{self.info['teacher_fingerprint']}, {of} belongs to a teacher with weights {fingerprint}: "
                "embed the photographs with the model's own teacher"
            )


def read(url: str, option: str = "--gallery", thumbnails: bool = True) -> Gallery:
    """Reads a gallery that `songsight gallery` wrote.

    Args:
        url: of the gallery.
        option: that it was given as, for error lines.
        thumbnails: whether to read them too, most of its bytes; else the images have the columns that hits need.

    Raises:
        UserError: there is no gallery at the URL.
    """
    info_url = storage.join(url, "gallery.json")
    if not storage.exists(info_url):
        raise UserError(f"{option} {url}: no gallery is there (no gallery.json); `songsight gallery` makes one")
    info = json.loads(storage.read_bytes(info_url))
    columns = None if thumbnails else ["image_id", "path", "scientific_name", "common_name", "embedding"]
    images = read_vectors(storage.join(url, "images.parquet"), option, columns)
    names = read_vectors(storage.join(url, "species.parquet"), option)
    return Gallery(info, *images, *names)


def read_vectors(url: str, option: str, columns: list[str] | None = None) -> tuple[pa.Table, np.ndarray]:
    """A table with an `embedding` for each row: its other columns, and the vectors, float32 [rows, width].

    Args:
        url: of the table.
        option: that it was given as, for error lines.
        columns: to read; all if not given.

    Raises:
        UserError: there is no such table.
    """
    table = tables.read_table(url, option, ("scientific_name", "embedding"), columns=columns)
    return table.drop_columns("embedding"), _vectors(table)


def _vectors(table: pa.Table) -> np.ndarray:
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32, copy=False)


def vectors_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors [n, width] as an Arrow column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


class _EmbedImages:
    """One actor's teacher: photographs to vectors, thumbnails and reasons."""

    def __init__(self, load: Mapping[str, Any]) -> None:
        import torch

        from songsight.models import teacher

        if load["device"] == "cpu":
            torch.set_num_threads(1)  # there is an actor a core
        self.teacher = teacher.load(**load)

    def work(self, batch: pa.Table) -> pa.Table:
        results = [_open_image(url) for url in batch["url"].to_pylist()]
        problems = [vars(result) if isinstance(result, _Bad) else None for result in results]
        good = [i for i, problem in enumerate(problems) if problem is None]
        vectors = np.zeros((len(results), self.teacher.width), np.float32)
        if good:
            vectors[good] = self.teacher.embed_images([results[i] for i in good])
        thumbnails = [None if isinstance(result, _Bad) else _thumbnail(result) for result in results]
        return (
            batch.append_column("embedding", vectors_column(vectors))
            .append_column("thumbnail", pa.array(thumbnails, pa.binary()))
            .append_column("problem", pa.array(problems, _PROBLEM))
        )


@dataclass(frozen=True)
class _Bad:
    """Why a photograph cannot be read, as `tables.QUARANTINE` has it."""

    reason: str
    detail: str
    size_bytes: int | None


_PROBLEM = pa.struct([tables.QUARANTINE.field(name) for name in ("reason", "detail", "size_bytes")])


def _open_image(url: str) -> Any:
    """An upright RGB image, or `_Bad` where it cannot be read."""
    name = url.rsplit("/", 1)[-1]
    size: int | None = None
    try:
        data = patiently(lambda: _fetch(url))
        size = len(data)
        refuse_hopeless(data[:_HEAD_BYTES], size)
        return photographs.read(data)
    except AudioError as error:
        return _Bad(error.reason, f"{name}: {error.detail}", size)
    except ValueError as error:
        return _Bad("unreadable", one_line(f"{name}, {size} bytes: {error}"), size)


def _fetch(url: str) -> bytes:
    """A whole file; what its storage says against it in the words that a recording's storage has."""
    try:
        storage.require_regular(url)
        return storage.read_bytes(url)
    except Exception as error:  # botocore's errors are no OSErrors
        raise from_storage(error) from None


def _thumbnail(image: Any) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=82)
    return sink.getvalue()


def build(
    images: pa.Table,
    table_url: str,
    teacher: str,
    image_resize: str,
    actors: int = 1,
    gpus_each: float = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[pa.Table, pa.Table]:
    """Embeds the photographs of an images table by a Ray batch job.

    Args:
        images: a `tables.IMAGES` table.
        table_url: where it was read from: relative paths are beside it.
        teacher: the teacher's name.
        image_resize: see `teacher.load`.
        actors: teachers side by side; no more than there are blocks of photographs for.
        gpus_each: GPUs of each.
        progress: called with (photographs done, of how many).

    Returns:
        (the photographs with `embedding` and `thumbnail`, sorted by species; a `tables.QUARANTINE` table).
    """
    urls = [storage.absolute(tables.resolve_path(path, table_url)) for path in images["path"].to_pylist()]
    images = images.append_column("url", pa.array(urls, pa.string()))
    blocks = [images.slice(start, IMAGES_PER_BLOCK) for start in range(0, len(images), IMAGES_PER_BLOCK)]
    load = {
        "name": checkpoints.portable(teacher),
        "image_resize": image_resize,
        "device": "cuda" if gpus_each else "cpu",
    }
    most = min(actors, -(-len(blocks) // BLOCKS_PER_ACTOR))
    parts: list[pa.Table] = []
    read = 0
    for part in pool.actors(_EmbedImages, {"load": load}, blocks, most, num_gpus=gpus_each, num_cpus=1):
        parts.append(part)
        read += len(part)
        progress(read, len(images))
    done = pa.concat_tables(parts)
    bad = np.array([problem is not None for problem in done["problem"].to_pylist()], bool)
    quarantine = [
        {"path": path, "stage": "gallery"} | problem
        for path, problem in zip(done["path"].to_pylist(), done["problem"].to_pylist(), strict=True)
        if problem
    ]
    good = done.filter(pa.array(~bad)).drop_columns(["url", "problem"])
    order = [("scientific_name", "ascending"), ("image_id", "ascending")]
    return good.sort_by(order), pa.Table.from_pylist(quarantine, tables.QUARANTINE)


def species_of(images: pa.Table) -> pa.Table:
    """One row a species, sorted by name, with its text: names and ranks as its first photograph has them."""
    first: dict[str, dict[str, Any]] = {}
    columns = ["scientific_name", "common_name", *tables.RANKS]
    for row in images.select(columns).to_pylist():
        first.setdefault(row["scientific_name"], row)
    rows = [row | {"text": prompts.text(row, SPECIES_TEXT_TYPE)} for _, row in sorted(first.items())]
    fields = [pa.field(name, pa.string()) for name in [*columns, "text"]]
    return pa.Table.from_pylist(rows, pa.schema(fields))
