"""All that is measured of one model on one set of recordings and photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distill.metrics import unit
from distill.metrics.bootstrap import Bootstrap
from distill.metrics.retrieval import Ranked, chance_average_precision, retrieve
from distill.tables import RANKS
from inference.evaluation import directions, encoder, figures, methods, table
from inference.evaluation.table import Row
from inference.gallery import Gallery

NEAREST = 5
SHOWN = {
    "method": "method",
    "mAP": "audio→image mAP",
    "macro_mAP": "macro mAP",
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "median_rank": "median rank",
    f"mAP_minus_{methods.STUDENT}": f"mAP − {methods.STUDENT}",
    f"mAP_minus_{methods.STUDENT}_species_p": "p over species",
}


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        photographs: that were asked for.
        species: of the queries, [queries].
        queries: the student's vectors, float32 [queries, width], unit rows.
        ranked: how each method ranked the photographs.
        table, directions, encoder: rows.
        rank_of: what is known of each species: a row with the seven ranks.
    """

    photographs: Gallery
    species: np.ndarray
    queries: np.ndarray
    ranked: dict[str, Ranked]
    table: list[Row]
    directions: list[Row]
    encoder: list[Row]
    rank_of: dict[str, dict[str, Any]]

    @cached_property
    def chance(self) -> float:
        """The mAP that random rankings come to."""
        many = Counter(self.photographs.species)
        answers = np.array([many[name] for name in self.species])
        return float(np.mean(chance_average_precision(answers, len(self.photographs.species))))

    def pictures(self) -> dict[str, tuple[str, bytes]]:
        """PNG by file name, each with what it shows."""
        drawn = {
            "precision_recall.png": (
                "Precision and recall: interpolated precision at each recall, mean over the queries, by method",
                figures.png(figures.precision_recall(self.ranked)),
            ),
            "similarity.png": (
                "Similarity: mean cosine of each species' sounds and photographs, relatives side by side; lines part "
                "families. A green diagonal is what distillation is for; green blocks around it are relatives",
                figures.png(
                    figures.similarity(
                        self.queries, self.photographs.vectors, self.species, self.photographs.species, self.rank_of
                    )
                ),
            ),
        }
        family = directions.names_at("family", list(self.rank_of), list(self.rank_of.values()))
        if family:
            nearest = self.photographs.species[self.ranked[methods.STUDENT].nearest[:, 0]]
            found, own = (np.array([family.get(name, "") for name in some]) for some in (nearest, self.species))
            order = [family[name] for name in figures.taxonomic_order(list(family), self.rank_of)]
            if len({name for name in [*own, *found] if name}) > 1:
                drawn["families.png"] = (
                    "Families: which family the nearest photograph is of, as shares of each family's recordings",
                    figures.png(figures.family_confusion(found, own, list(dict.fromkeys(order)))),
                )
        return drawn


def measure(
    material: methods.Material,
    labels: encoder.Labels,
    photographs: Gallery,
    base_log_scale: float,
    rank_rows: list[dict[str, Any]],
    bridge: float,
    k: int,
    resamples: int,
    seed: int,
) -> Evaluation:
    """Measures everything.

    Args:
        material: of the queries.
        labels: of the same recordings.
        photographs: to be found.
        base_log_scale: the base model's log inverse temperature for sounds.
        rank_rows: rows with `scientific_name` and ranks, of photographs and recordings.
        bridge: see `methods.queries`.
        k: neighbours of kNN.
        resamples, seed: of the intervals; the seed also of random baselines.
    """
    species = labels.asked
    ranked = {
        name: retrieve(
            queries, photographs.vectors, species, photographs.species, NEAREST if name == methods.STUDENT else 0
        )
        for name, queries in methods.queries(material, bridge, seed)
    }
    own = material.vectors["student"][material.asked]
    boot = Bootstrap(species, resamples, seed)
    rows = table.rows(ranked, boot, against=methods.STUDENT)
    for row in rows:
        row |= {"queries": len(species), "photographs": len(photographs.species)}
    rank_of = _ranks([*photographs.names.to_pylist(), *rank_rows])
    return Evaluation(
        photographs,
        species,
        own,
        ranked,
        rows,
        _directions(own, labels, material, photographs, rank_of, resamples, seed),
        encoder.rows(_encoders(material, base_log_scale), labels, boot, k),
        rank_of,
    )


def _ranks(known: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each species' ranks, each as the first row that knows it has it."""
    found: dict[str, dict[str, Any]] = {}
    for row in known:
        own = found.setdefault(row["scientific_name"], {"scientific_name": row["scientific_name"]})
        for rank in RANKS:
            if row.get(rank):
                own.setdefault(rank, row[rank])
    return found


def _directions(
    queries_QD: np.ndarray,
    labels: encoder.Labels,
    material: methods.Material,
    photographs: Gallery,
    rank_of: Mapping[str, dict[str, Any]],
    resamples: int,
    seed: int,
) -> list[Row]:
    sides = {
        "sound": directions.Side(queries_QD, labels.asked),
        "picture": directions.Side(photographs.vectors, photographs.species),
        "text": directions.Side(material.teacher_names_SD, labels.names),
    }
    names = sorted({str(name) for side in sides.values() for name in side.species})
    named = {rank: directions.names_at(rank, names, list(rank_of.values())) for rank in directions.RANKS}
    return directions.rows(sides, {rank: found for rank, found in named.items() if found}, resamples, seed)


def _encoders(material: methods.Material, base_log_scale: float) -> dict[str, encoder.Encoder]:
    vectors, train, asked = material.vectors, material.train, material.asked
    return {
        "base": encoder.Encoder(
            vectors["base_pooled"][train],
            vectors["base_pooled"][asked],
            unit(vectors["base_joint"][asked]),
            material.base_names_SB,
            base_log_scale,
        ),
        methods.STUDENT: encoder.Encoder(
            vectors["student_pooled"][train],
            vectors["student_pooled"][asked],
            vectors["student"][asked],
            material.teacher_names_SD,
            material.log_scale,
        ),
    }
