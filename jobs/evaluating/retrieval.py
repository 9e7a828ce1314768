"""Sounds find photographs: recordings are embedded and measured against a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from inference.evaluation import files, measured, montage, naming
from inference.evaluation.files import Outcome
from inference.evaluation.measured import Evaluation, Settings
from inference.evaluation.methods import Recordings
from jobs.evaluating import inputs, results
from jobs.evaluating.inputs import Inputs
from jobs.evaluating.models import Loaded
from songsight.audio.clips import Clips, Features
from songsight.errors import UserError
from songsight.store import tables


@dataclass(frozen=True)
class Embedded:
    """The recordings that could be decoded.

    Attributes:
        given, models: the tables, and what they were embedded by.
        clips: all recordings.
        rows: those that could be decoded, int64 [decoded].
        recordings: their vectors, and what is known of them.
    """

    given: Inputs
    models: Loaded
    clips: Clips
    rows: np.ndarray
    recordings: Recordings

    @property
    def queries(self) -> np.ndarray:
        """The rows of the queries, int64 [queries]."""
        return self.rows[self.recordings.queries]


def fingerprints(given: Inputs, models: Loaded) -> dict[str, str]:
    """Hashes of what goes in: data, models and texts."""
    training = given.recordings.filter(given.is_train)
    return {
        "recordings": tables.fingerprint(given.recordings),
        "photographs": files.photographs_fingerprint(given.gallery.of_split("test")),
        **models.fingerprints,
        "training": tables.fingerprint(
            training.select(["recording_id", "path", "start_s", "scientific_name", "rights_holder"])
        ),
        "texts": tables.fingerprint(pa.table(naming.texts(given.names))),
    }


def embed(given: Inputs, models: Loaded) -> Embedded:
    """Embeds the recordings by both audio encoders, and the texts of the training recordings by the teacher.

    Raises:
        UserError: no query can be decoded, or a model gives vectors that are no finite numbers.
    """
    table, url = given.recordings, given.question.recordings
    clips = Clips.of(table, url, Features.of(models.student.mel, given.question.seed))
    rows, vectors = models.embed(clips, len(table), "recordings")
    train, asked = np.flatnonzero(given.is_train[rows]), np.flatnonzero(~given.is_train[rows])
    if not len(asked):
        raise UserError(f"--recordings: none of the test recordings of {url} can be decoded")
    for kind, some in vectors.items():
        if bad := int((~np.isfinite(some)).any(axis=1).sum()):
            whose = f"--model {models.student_name}" if kind.startswith("student") else f"--base {models.base_name}"
            raise UserError(f"{whose}: gives vectors that are no finite numbers for {bad} of {len(rows)} recordings")
    recordists = np.array(table["rights_holder"].to_pylist(), dtype=object)[rows]
    texts = given.texts
    species = np.array(texts.species, dtype=object)[texts.species_of_row[rows]]
    text_ND = given.gallery.name_vectors[:0]
    if len(train):
        text_ND = models.texts.teacher_text(texts.texts)[texts.choices[0][1][rows[train]]]
    recordings = Recordings(vectors, train, asked, species, recordists, text_ND)
    return Embedded(given, models, clips, rows, recordings)


def measure(embedded: Embedded, settings: Settings) -> Evaluation:
    """Measures every way from a sound to a picture.

    Raises:
        UserError: no query that can be decoded is of a species that the gallery shows.
    """
    given, models = embedded.given, embedded.models
    rank_rows = given.names + given.recordings.select(["scientific_name", *tables.RANKS]).to_pylist()
    found = measured.measure(embedded.recordings, given.names, given.gallery, models.texts, rank_rows, settings)
    if not found.answered.any():
        raise UserError(
            f"--recordings: none of the test recordings of species that {given.question.gallery} shows can be decoded"
        )
    return found


def outcome(found: Evaluation, embedded: Embedded, record: Mapping[str, Any]) -> Outcome:
    """What is kept and printed of an evaluation.

    Args:
        found, embedded: the evaluation, and what it is of.
        record: see `results.record`.
    """
    given, answered = embedded.given, found.answered
    figures = results.figures(found) | {
        "undecodable": len(given.recordings) - len(embedded.rows),
        "without_split": given.without_split,
    }
    queries = montage.montage(
        found.queries[answered],
        embedded.queries[answered],
        embedded.clips,
        given.texts.species_of_row,
        given.texts.species,
        found.photographs,
        embedded.models.student,
    )
    pictures = found.pictures() | {"queries.png": (montage.CAPTION, queries)}
    ids = inputs.recording_ids(given.recordings.take(embedded.queries))
    return Outcome(found, figures, record, ids, pictures)
