"""SSW60, sound to pictures (ECCV 2022; the test of arXiv 2602.00681): the layout is that of `songsight.datasets.ssw60`.

The test recordings of audio_ml ask for the test photographs of images_inat and images_nabirds; the train recordings
fit what needs fitting. `--parts images_inat` takes that collection of photographs alone, `--parts video_ml` the sounds
of the videos.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from inference.benchmarks.task import Ask, Pair
from songsight.datasets import assemble, files, ssw60
from songsight.errors import UserError
from songsight.store import tables


def read(ask: Ask) -> Pair:
    """The two tables; the images are those of the test split.

    Raises:
        UserError: the folder is not laid out as SSW60 is, has no such part, or none of the files is there.
    """
    folder = files.Folder(ask.data)
    sounds = [part for part in ask.parts if part in ("audio_ml", "video_ml")]
    pictures = [part for part in ask.parts if part not in sounds]
    recordings = _present(ssw60.read(folder, "recordings", sounds), folder, "recording")
    images = _present(ssw60.read(folder, "images", pictures), folder, "photograph")
    images = images.filter(pc.equal(images["split"], "test"))
    if not len(images):
        raise UserError(f"--data {ask.data}: none of its photographs is of the test split")
    return Pair(tables.conform(recordings, tables.RECORDINGS), tables.conform(images, tables.IMAGES))


def _present(table: pa.Table, folder: files.Folder, what: str) -> pa.Table:
    found, missing = assemble.present(table, folder)
    if not len(found):
        raise UserError(f"--data {folder.root}: no {what} is there (the first: {missing['path'][0].as_py()})")
    return found
