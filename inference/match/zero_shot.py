"""Annotating with an untouched ClapModel: its own texts name the species, the gallery shows it.

This is the chain that songsight's distilled students are compared with (arXiv 2308.04978, section 3: the caption most
similar to a sound names it): sound → name by the ClapModel's two towers, name → photographs by the teacher's vector of
that species' text. It needs no training; hits of it are marked `zero-shot`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from inference.match.gallery import Gallery
from inference.match.matching import Matches


class NameMatcher:
    """Names windows by texts; the photographs are the gallery's of the named species, the most typical first.

    Args:
        gallery: photographs and the teacher's vectors of texts; may lack some of the names.
        names: scientific names, distinct.
        names_SD: their vectors in the ClapModel's joint space, float32 [species, joint width].
        top_k: species to keep for each window.
        images_per_hit: photographs to keep for each species.
    """

    def __init__(
        self, gallery: Gallery, names: Sequence[str], names_SD: np.ndarray, top_k: int, images_per_hit: int = 3
    ) -> None:
        self.species = np.array(names)
        self.vectors_ND = names_SD
        self.top_k = min(top_k, len(names))
        self.images_SM = np.full((len(names), images_per_hit), -1, np.int64)
        self.image_scores_SM = np.full((len(names), images_per_hit), np.nan, np.float32)
        text_of = dict(zip(gallery.names["scientific_name"].to_pylist(), gallery.name_vectors, strict=True))
        rows_of: dict[str, list[int]] = {}
        for row, name in enumerate(gallery.species):
            rows_of.setdefault(name, []).append(row)
        for number, name in enumerate(names):
            if name in rows_of and name in text_of:
                rows = np.array(rows_of[name])
                cosines = gallery.vectors[rows] @ text_of[name]
                best = np.argsort(-cosines, kind="stable")[:images_per_hit]
                self.images_SM[number, : len(best)] = rows[best]
                self.image_scores_SM[number, : len(best)] = cosines[best]

    def match(self, windows_BD: np.ndarray, added_BS: np.ndarray | None = None) -> Matches:
        """The best species of each window, scored by the cosine of the window and the species' names.

        Args:
            windows_BD: unit vectors in the joint space, float32 [windows, joint width].
            added_BS: as of `Matcher.match`.
        """
        scores_BS = windows_BD @ self.vectors_ND.T
        if added_BS is not None:
            scores_BS = scores_BS + added_BS
        best_BK = np.argsort(-scores_BS, axis=1, kind="stable")[:, : self.top_k]
        return Matches(
            best_BK,
            np.take_along_axis(scores_BS, best_BK, axis=1),
            self.images_SM[best_BK],
            self.image_scores_SM[best_BK],
        )


def names_table(species: Sequence[tuple[str, str | None]], names_SD: np.ndarray) -> pa.Table:
    """Species and their vectors as a table, for the annotators: scientific_name, common_name, embedding."""
    flat = pa.array(names_SD.astype(np.float32).ravel())
    return pa.table(
        {
            "scientific_name": pa.array([name for name, _ in species], pa.string()),
            "common_name": pa.array([common for _, common in species], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, names_SD.shape[1]),
        }
    )
