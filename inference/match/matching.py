"""From a window's vector to the species whose photographs it resembles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from inference.match.gallery import Gallery
from songsight.metrics import unit

Score = Literal["max", "mean-top-3", "prototype"]
"""What a species' score is: the cosine of its most similar photograph; the mean of its three most similar ones, of all
where it has fewer; or the cosine of its prototype, the mean of its photographs scaled to length 1."""

_AVERAGED = 3


@dataclass(frozen=True)
class Matches:
    """The best species of each window, best first.

    Attributes:
        species: numbers into `Matcher.species`, int64 [windows, k].
        scores: of the species, see `Score`, with what `Matcher.match` was told to add; float32 [windows, k].
        images: rows of the gallery, int64 [windows, k, m]: the species' m most similar photographs; -1 behind a
            species' last photograph.
        image_scores: their cosines, float32 [windows, k, m]; NaN there.
    """

    species: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    image_scores: np.ndarray


class Matcher:
    """Matches windows against all photographs of a gallery by one matrix product.

    Args:
        gallery: at least one photograph.
        top_k: species to keep for each window; all of them where the gallery has fewer.
        images_per_hit: photographs to keep for each species.
        score: what a species is ranked by.
    """

    def __init__(self, gallery: Gallery, top_k: int, images_per_hit: int = 3, score: Score = "max") -> None:
        # Photographs of a species lie side by side, so that a species' score is a maximum over a slice.
        self.row = np.argsort(gallery.species.astype(str), kind="stable")
        names = gallery.species[self.row].astype(str)
        self.species, self.start = np.unique(names, return_index=True)
        self.end = np.append(self.start[1:], len(names))
        # As `songsight gallery` sorts them they do already, and the vectors need no second place in memory.
        as_they_lie = np.array_equal(self.row, np.arange(len(names)))
        self.vectors_ND = gallery.vectors if as_they_lie else gallery.vectors[self.row]
        self.top_k = min(top_k, len(self.species))
        self.images_per_hit = images_per_hit
        self.score = score
        if score == "prototype":
            self.prototypes_SD = unit(np.add.reduceat(self.vectors_ND, self.start, axis=0)).astype(np.float32)

    def match(self, windows_BD: np.ndarray, added_BS: np.ndarray | None = None) -> Matches:
        """The best species of each window.

        Args:
            windows_BD: unit vectors, float32 [windows, width].
            added_BS: to be added to each species' score before the best are chosen, float32 [windows, species] in the
                order of `species`; -inf rules a species out. A window may then have fewer than k: scores of -inf.
        """
        scores_BN = windows_BD @ self.vectors_ND.T
        if self.score == "prototype":
            species_BS = windows_BD @ self.prototypes_SD.T
        elif self.score == "mean-top-3":
            species_BS = self._mean_of_best(scores_BN)
        else:
            species_BS = np.maximum.reduceat(scores_BN, self.start, axis=1)
        if added_BS is not None:
            species_BS = species_BS + added_BS
        best_BK = np.argsort(-species_BS, axis=1, kind="stable")[:, : self.top_k]
        shape = (*best_BK.shape, self.images_per_hit)
        images = np.full(shape, -1, np.int64)
        image_scores = np.full(shape, np.nan, np.float32)
        for window, chosen_K in enumerate(best_BK):
            for place, species in enumerate(chosen_K):
                start, end = self.start[species], self.end[species]
                own = scores_BN[window, start:end]
                order = np.argsort(-own, kind="stable")[: self.images_per_hit]
                images[window, place, : len(order)] = self.row[start + order]
                image_scores[window, place, : len(order)] = own[order]
        return Matches(best_BK, np.take_along_axis(species_BS, best_BK, axis=1), images, image_scores)

    def _mean_of_best(self, scores_BN: np.ndarray) -> np.ndarray:
        """The mean of each species' three highest cosines, float32 [windows, species].

        The best of all species are taken at once, round by round: sorting species by species would take Python's time
        for each.
        """
        left_BN = scores_BN.copy()
        places_N = np.arange(scores_BN.shape[1])
        counts_S = self.end - self.start
        total_BS = np.zeros((len(scores_BN), len(self.start)), np.float32)
        for taken in range(_AVERAGED):
            best_BS = np.maximum.reduceat(left_BN, self.start, axis=1)
            total_BS += np.where(counts_S > taken, best_BS, 0)
            if taken + 1 == _AVERAGED:
                break
            # Of equal photographs one alone is crossed out.
            is_best_BN = left_BN == np.repeat(best_BS, counts_S, axis=1)
            first_BS = np.minimum.reduceat(np.where(is_best_BN, places_N, len(places_N)), self.start, axis=1)
            np.put_along_axis(left_BN, first_BS, -np.inf, axis=1)
        return total_BS / np.minimum(counts_S, _AVERAGED)
