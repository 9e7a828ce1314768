"""Some queries to look at, each with the photographs that it finds."""

from __future__ import annotations

import io

import numpy as np

from inference.match.gallery import Gallery
from songsight import pictures
from songsight.audio.clips import Clips
from songsight.models.student import Student

CAPTION = "Queries: recordings as the encoder hears them and their five nearest photographs"


def montage(
    vectors_QD: np.ndarray,
    rows: np.ndarray,
    clips: Clips,
    species_of_row: np.ndarray,
    species: list[str],
    photographs: Gallery,
    student: Student,
) -> bytes:
    """Queries of several species as spectrograms beside their five nearest photographs: PNG.

    Args:
        vectors_QD: of the queries.
        rows: which clips they are, int64 [queries].
        clips: the recordings.
        species_of_row: number of each clip's species, [clips].
        species: scientific names by number.
        photographs: to be found.
        student: whose features are drawn.
    """
    number = {name: i for i, name in enumerate(species)}
    # A photograph of a species that no recording is of can still be found: it gets a number of its own.
    strangers = [name for name in dict.fromkeys(photographs.species.tolist()) if name not in number]
    number |= {name: len(species) + i for i, name in enumerate(strangers)}
    held_out = pictures.HeldOut(
        clips,
        species_of_row,
        np.zeros((0, vectors_QD.shape[1]), np.float32),
        photographs.vectors,
        np.array([number[name] for name in photographs.species], np.int32),
        pictures.Photographs(
            photographs.images["thumbnail"],
            photographs.species.tolist(),
            [*species, *strangers],
        ),
    )
    sink = io.BytesIO()
    pictures.draw(vectors_QD, rows, held_out, student.mel, "Recordings and their nearest photographs").save(sink, "PNG")
    return sink.getvalue()
