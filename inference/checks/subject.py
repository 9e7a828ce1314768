"""What the checks look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from inference.checks.distortions import Distortion
from inference.evaluation import table
from inference.match.gallery import Gallery
from songsight.metrics import unit
from songsight.metrics.bootstrap import Bootstrap
from songsight.metrics.retrieval import retrieve
from songsight.models import prompts

Rows = list[dict[str, Any]]
Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """An evaluation's queries, and what they are asked.

    Attributes:
        species: of each query, [queries]; each is among `names`.
        vectors: the queries' vectors by `embed.KINDS`, float32 [queries, width].
        names: rows with `scientific_name`, `common_name` and ranks: the species of the gallery and of the queries.
        name_vectors: the teacher's embedding of each one's text, float32 [names, width], unit rows.
        photographs: what is retrieved from.
        base_text, teacher_text: texts to float32 [texts, width].
        trained_on: the species that the model heard in training; None where that is not known.
        train_species, train_pooled: of the training recordings, [n], and the base model's pooled embedding, [n, width].
        embed_distorted: embeds the queries after distortions: for each `vectors` anew, with NaN rows where it failed.
        synonyms: other names of species, by scientific name.
        resamples, seed: of the bootstrap and of all that is drawn.
    """

    species: np.ndarray
    vectors: Vectors
    names: list[dict[str, Any]]
    name_vectors: np.ndarray
    photographs: Gallery
    base_text: Callable[[list[str]], np.ndarray]
    teacher_text: Callable[[list[str]], np.ndarray]
    trained_on: frozenset[str] | None = None
    train_species: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object))
    train_pooled: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    embed_distorted: Callable[[tuple[Distortion, ...]], Iterator[Vectors]] | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    resamples: int = 1000
    seed: int = 0

    @cached_property
    def name_species(self) -> np.ndarray:
        """Scientific name of each of `names`, object [names]."""
        return np.array([row["scientific_name"] for row in self.names], dtype=object)

    @cached_property
    def species_number(self) -> np.ndarray:
        """Number of each query's species in `names`, int [queries]."""
        place = {name: number for number, name in enumerate(self.name_species)}
        return np.array([place[name] for name in self.species], dtype=np.int64)

    @cached_property
    def base_names(self) -> np.ndarray:
        """The base model's embedding of each species: the mean of its scientific and its common name's, unit rows."""
        both = [self.base_text([prompts.text(row, kind) for row in self.names]) for kind in ("sci", "com")]
        return unit(unit(both[0]) + unit(both[1]))

    @cached_property
    def photograph_scores(self) -> np.ndarray:
        """Each query's most similar photograph of each species: float32 [queries, names]; −2 where there is none."""
        audio_QD = self.vectors["student"]
        best_QS = np.full((len(audio_QD), len(self.names)), -2.0, np.float32)
        for number, name in enumerate(self.name_species):
            shown_ND = self.photographs.vectors[self.photographs.species == name]
            if len(shown_ND):
                best_QS[:, number] = (audio_QD @ shown_ND.T).max(axis=1)
        return best_QS

    def retrieval(self, queries_QD: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        """Average precision of finding each query's species among the photographs: float64 [queries].

        NaN where the query's vector is NaN, or it is not among those to `keep`.
        """
        asked = np.isfinite(queries_QD).all(axis=1) & (True if keep is None else keep)
        found = np.full(len(queries_QD), np.nan)
        ranked = retrieve(queries_QD[asked], self.photographs.vectors, self.species[asked], self.photographs.species)
        found[asked] = ranked.average_precision
        return found

    def name_rank(self, queries_QD: np.ndarray, names_SD: np.ndarray) -> np.ndarray:
        """The place of each query's own name among all names, 1 for the nearest: float64 [queries], NaN as above."""
        asked = np.isfinite(queries_QD).all(axis=1)
        found = np.full(len(queries_QD), np.nan)
        found[asked] = retrieve(queries_QD[asked], names_SD, self.species[asked], self.name_species).first_rank
        return found


def top(first_rank_Q: np.ndarray, k: int) -> np.ndarray:
    """Whether the answer is among the k nearest: float64 [queries] of 0 and 1, NaN where it was not asked."""
    return np.where(np.isnan(first_rank_Q), np.nan, first_rank_Q <= k)


def figures(
    columns: Mapping[str, np.ndarray], species: np.ndarray, resamples: int, seed: int, species_too: bool = True
) -> dict[str, float]:
    """`table.figures` of queries by their species: equal `resamples` and `seed` draw the same of them."""
    return table.figures(columns, Bootstrap(species, resamples, seed), species_too)
