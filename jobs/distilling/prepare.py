"""What a training is made from, besides its recordings: loaded, checked against each other, and hashed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distill.data import noise
from inference.archive import listing
from inference.match import gallery as galleries
from inference.match.gallery import Gallery
from songsight.audio.clips import Features
from songsight.errors import UserError
from songsight.models import htsat, student
from songsight.models import teacher as teachers
from songsight.models.mel import LogMel
from songsight.models.teacher import Teacher
from songsight.store import tables, urls


@dataclass(frozen=True)
class Sources:
    """Which models, photographs and backgrounds a training is made from; see the options of these names."""

    teacher: str
    student: str
    freeze_stages: int
    gallery: str | None
    noise: str | None
    seed: int


@dataclass(frozen=True)
class Inputs:
    """What `Sources` names, loaded, but for the teacher, which the training itself does not need.

    Attributes:
        sources: the names.
        base_model: the ClapModel that the student comes from.
        width: of the teacher's vectors.
        features: of the student: what a clip is.
        gallery: the photographs that held-out recordings are to find, or None.
        noise: backgrounds, float32 [clips, clip_samples], or None.
        fingerprints: hashes of all that goes in, by option.
    """

    sources: Sources
    base_model: str
    width: int
    features: Features
    gallery: Gallery | None
    noise: np.ndarray | None
    fingerprints: dict[str, str]


def load(sources: Sources, recordings: pa.Table) -> tuple[Inputs, Teacher]:
    """Loads what a training is made from.

    Args:
        sources: as the options name them.
        recordings: the whole table, to be hashed.

    Raises:
        UserError: one is not there or not of its kind, or they do not go together.
    """
    gallery = galleries.read(sources.gallery).of_split("val") if sources.gallery else None
    start = student.origin(sources.student)
    stages = len(htsat.TowerConfig.of(start.audio_config).depths)
    if sources.freeze_stages > stages:
        raise UserError(f"--freeze-stages {sources.freeze_stages}: the tower of {sources.student} has {stages} stages")
    features = Features.of(LogMel(start.preprocessor), sources.seed)
    teacher = teachers.load(sources.teacher)
    if gallery is not None:
        gallery.check_teacher(teacher.width, teacher.fingerprint, "--gallery", f"--teacher {sources.teacher}")
    backgrounds = noise.load(_recordings_in(sources.noise), features, "--noise") if sources.noise else None

    fingerprints = {
        "recordings": tables.fingerprint(recordings),
        "teacher": teacher.fingerprint,
        "student": start.fingerprint,
    }
    if gallery is not None:
        digest = hashlib.sha256(gallery.vectors.tobytes())
        digest.update(repr(gallery.species.tolist()).encode())
        fingerprints["gallery"] = digest.hexdigest()
    if backgrounds is not None:
        fingerprints["noise"] = hashlib.sha256(backgrounds.tobytes()).hexdigest()
    return Inputs(sources, start.base_model, teacher.width, features, gallery, backgrounds, fingerprints), teacher


def _recordings_in(folder: str) -> list[str]:
    """The recordings of a folder of backgrounds."""
    try:
        found = listing.listing(folder)
    except UserError as error:
        raise UserError(str(error).replace("--archive", "--noise")) from None
    return [urls.below(urls.absolute(folder), path) for path in found.table["path"].to_pylist()]
