"""Sound, picture and text, each asked for with each other: six directions, for species, genus and family.

BioVITA's table (arXiv 2603.23883): at a rank an answer is whatever shares the query's name at that rank. What has no
name at a rank neither asks nor is asked for there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.evaluation import table
from songsight.metrics.bootstrap import Bootstrap
from songsight.metrics.retrieval import Ranked, chance_average_precision, retrieve

RANKS = ("species", "genus", "family")
SHOWN = {
    "query": "query",
    "gallery": "finds",
    "rank": "same",
    "mAP": "mAP",
    "chance_mAP": "chance",
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "median_rank": "median rank",
}


@dataclass(frozen=True)
class Side:
    """Vectors of one kind.

    Attributes:
        vectors: unit vectors in the teacher's space, float32 [n, width].
        species: scientific name of each, [n].
    """

    vectors: np.ndarray
    species: np.ndarray


def names_at(rank: str, species: Sequence[str], known: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each species' name at a rank; without those for which it is not known.

    Args:
        rank: one of `RANKS`.
        species: scientific names.
        known: rows with `scientific_name` and ranks, the first that knows a name counts. A genus that no row knows
            is the first word of the scientific name.
    """
    found: dict[str, str] = {name: name for name in species} if rank == "species" else {}
    if rank == "species":
        return found
    for row in known:
        if row.get(rank):
            found.setdefault(row["scientific_name"], row[rank])
    wanted = set(species)
    if rank == "genus":
        for name in wanted:
            found.setdefault(name, name.split(" ")[0])
    return {name: value for name, value in found.items() if name in wanted}


@dataclass(frozen=True)
class Found:
    """How one direction did.

    Attributes:
        ranked: by query; NaN for one that could not be asked.
        chance: the mAP that a random ranking comes to.
        items: of the gallery.
    """

    ranked: Ranked
    chance: float
    items: int


Asked = dict[tuple[str, str, str], Found]


def ask(sides: Mapping[str, Side], labels: Mapping[str, Mapping[str, str]]) -> Asked:
    """Asks in each of the six directions at each rank.

    Args:
        sides: `sound`, `picture` and `text`.
        labels: by rank, the name of each species at it, see `names_at`.

    Returns:
        by who asks, who is asked for, and the rank.
    """
    return {
        (asks, holds, rank): _direction(query, gallery, labels[rank])
        for asks, query in sides.items()
        for holds, gallery in sides.items()
        for rank in (labels if holds != asks else ())
    }


def rows(found: Asked, sides: Mapping[str, Side], resamples: int, seed: int) -> list[table.Row]:
    """A row a direction and rank.

    Args:
        found: of `ask`.
        sides: that it was asked of.
        resamples, seed: of the intervals.

    Returns:
        `query`, `gallery`, `rank`, the measures of `table.rows`, `chance_mAP`, `queries` that have an answer and
        `items` of the gallery.
    """
    made: list[table.Row] = []
    for asks, side in sides.items():
        own = {key: one for key, one in found.items() if key[0] == asks}
        ranked = {f"{holds} {rank}": one.ranked for (_, holds, rank), one in own.items()}
        measured = table.rows(ranked, Bootstrap(side.species, resamples, seed)) if ranked else []
        for (key, one), row in zip(own.items(), measured, strict=True):
            del row["method"]
            answered = int(np.isfinite(one.ranked.average_precision).sum())
            counts = {"chance_mAP": one.chance, "queries": answered, "items": one.items}
            made.append(dict(zip(("query", "gallery", "rank"), key, strict=True)) | row | counts)
    return made


def _direction(query: Side, gallery: Side, name_of: Mapping[str, str]) -> Found:
    asks = np.array([name_of.get(name, "") for name in query.species])
    holds = np.array([name_of.get(name, "") for name in gallery.species])
    can_ask, held = asks != "", holds != ""
    found = retrieve(query.vectors[can_ask], gallery.vectors[held], asks[can_ask], holds[held])
    average, first = np.full(len(asks), np.nan), np.full(len(asks), np.nan)
    average[can_ask], first[can_ask] = found.average_precision, found.first_rank
    many = dict(zip(*np.unique(holds[held], return_counts=True), strict=True))
    answers = np.array([many[name] for name in asks[can_ask] if name in many])
    chance = float(np.mean(chance_average_precision(answers, int(held.sum())))) if len(answers) else float("nan")
    return Found(Ranked(average, first, found.precision, found.nearest), chance, int(held.sum()))
