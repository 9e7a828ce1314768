"""Sign codes: an embedding as one bit a number, 32 times smaller than float32 and 16 times smaller than float16.

A vector x of width D is kept as the signs of its numbers, and as the cosine c between x and its signs. With b the signs
scaled to length 1, b · g / c estimates x · g for any g: it is exact for the part of g along x, and what b holds beside
x is taken as having no part in g (the estimator of RaBitQ, Gao & Long, SIGMOD 2024, without its random rotation, which
changed nothing on songsight's embeddings). `kept` measures what a search among codes loses.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.match.matching import Matcher
from inference.match.zero_shot import NameMatcher


def encode(vectors_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors to codes.

    Args:
        vectors_BD: float [n, width].

    Returns:
        (codes, uint8 [n, ⌈width / 8⌉]: bit 7 of byte 0 is 1 where the first number is 0 or more, and so on as
        `numpy.packbits` has it; the cosine of each vector and its signs, float32 [n]).
    """
    width = vectors_BD.shape[1]
    cosine_B = np.abs(vectors_BD.astype(np.float32)).sum(axis=1) / np.sqrt(np.float32(width))
    return np.packbits(vectors_BD >= 0, axis=1), cosine_B.astype(np.float32)


def decode(codes_BC: np.ndarray, cosine_B: np.ndarray, width: int) -> np.ndarray:
    """Codes to vectors whose dot products estimate those of the encoded ones: float32 [n, width], length 1 / cosine."""
    bits_BD = np.unpackbits(codes_BC, axis=1, count=width).astype(np.float32)
    return (2 * bits_BD - 1) / (np.sqrt(np.float32(width)) * cosine_B[:, None])


@dataclass(frozen=True)
class Kept:
    """What a search among codes finds of what a search among the vectors finds.

    Attributes:
        windows: compared.
        species: windows whose best species is the same.
        images: photographs of the vectors' k most similar that are among the codes' k.
        of_images: k for each window.
    """

    windows: int
    species: int
    images: int
    of_images: int

    def __add__(self, other: Kept) -> Kept:
        return Kept(
            self.windows + other.windows,
            self.species + other.species,
            self.images + other.images,
            self.of_images + other.of_images,
        )

    def shares(self) -> dict[str, Any]:
        """`same_best_species` and `recall_of_images` as shares of 1; None where nothing was compared."""
        return {
            "windows": self.windows,
            "same_best_species": self.species / self.windows if self.windows else None,
            "recall_of_images": self.images / self.of_images if self.of_images else None,
        }


NONE_KEPT = Kept(0, 0, 0, 0)


def total(rows: pa.Table) -> Kept:
    """The sum of a table that has the fields of `Kept` as its columns."""
    return Kept(*(pc.sum(rows[field.name]).as_py() or 0 for field in dataclasses.fields(Kept)))


def kept(vectors_BD: np.ndarray, matcher: Matcher | NameMatcher, k: int = 10) -> Kept:
    """Measures the loss of recall of sign codes against a gallery, by the direct match without a bridge.

    Args:
        vectors_BD: unit vectors of windows, float32 [windows, width].
        matcher: of the gallery; of a ClapModel's names, which then stand for photographs.
        k: photographs a window; all where the gallery has fewer.
    """
    coded_BD = decode(*encode(vectors_BD), vectors_BD.shape[1])
    k = min(k, len(matcher.vectors_ND))
    best = [matcher.match(some) for some in (vectors_BD, coded_BD)]
    nearest = [np.argpartition(-(some @ matcher.vectors_ND.T), k - 1, axis=1)[:, :k] for some in (vectors_BD, coded_BD)]
    same = sum(len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(*nearest, strict=True))
    return Kept(len(vectors_BD), int((best[0].species[:, 0] == best[1].species[:, 0]).sum()), same, k * len(vectors_BD))
