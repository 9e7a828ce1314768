"""All that is measured of one model on one set of recordings and photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from inference.evaluation import directions, figures, methods, naming, table
from inference.evaluation import probes as encoder
from inference.evaluation.table import Row
from inference.match.gallery import Gallery
from songsight.metrics import unit
from songsight.metrics.bootstrap import Bootstrap
from songsight.metrics.retrieval import Ranked, chance_average_precision, retrieve
from songsight.store.tables import RANKS

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
class Settings:
    """How an evaluation measures.

    Attributes:
        bridge: weight of the species' texts in the bridged query, 0 to 1; see `inference.match.bridge`.
        k: neighbours of kNN.
        resamples: of the bootstrap.
        seed: of the bootstrap, the random projection and the frozen head.
    """

    bridge: float
    k: int
    resamples: int
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        photographs: that were asked for.
        material, labels, settings: what it was measured on, and how.
        ranked: how each method ranked the photographs; NaN for queries of species that none of them shows.
        table, directions, encoder, naming: rows.
        by_recording: what each query came to in all but `table`: float64 [queries] by measure and row, such as
            `knn.base`, `zero_shot_top1.distilled.sci` or `average_precision.sound.picture.genus`.
        rank_of: what is known of each species: a row with the seven ranks.
    """

    photographs: Gallery
    material: methods.Material
    labels: encoder.Labels
    settings: Settings
    ranked: dict[str, Ranked]
    table: list[Row]
    directions: list[Row]
    encoder: list[Row]
    naming: list[Row]
    by_recording: dict[str, np.ndarray]
    rank_of: dict[str, dict[str, Any]]

    @property
    def species(self) -> np.ndarray:
        """Scientific name of each query, object [queries]."""
        return self.labels.queries

    @cached_property
    def queries(self) -> np.ndarray:
        """The student's vectors, float32 [queries, width], unit rows."""
        return self.material.vectors["student"][self.material.queries]

    @cached_property
    def answered(self) -> np.ndarray:
        """Whether a photograph shows each query's species, bool [queries]."""
        return np.isin(self.species.astype(str), self.photographs.species.astype(str))

    @cached_property
    def chance(self) -> float:
        """The mAP that random rankings come to, over the queries that have an answer."""
        many = Counter(self.photographs.species)
        answers = np.array([many[name] for name in self.species[self.answered]])
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
    recordings: methods.Recordings,
    names: Sequence[Mapping[str, Any]],
    gallery: Gallery,
    models: methods.Models,
    rank_rows: Sequence[Mapping[str, Any]],
    settings: Settings,
) -> Evaluation:
    """Measures everything.

    Args:
        recordings: the queries and the training recordings.
        names: see `methods.material`.
        gallery: its `test` photographs are to be found, all where it knows no such split.
        models: of `recordings` and `gallery`.
        rank_rows: rows with `scientific_name` and ranks, of photographs and recordings.
        settings: see there.
    """
    photographs, seed = gallery.of_split("test"), settings.seed
    material = methods.material(recordings, names, gallery, models)
    labels = _labels(recordings, names)
    species = labels.queries
    ridge = methods.ridges(material)
    ranked = {
        name: retrieve(
            queries, photographs.vectors, species, photographs.species, NEAREST if name == methods.STUDENT else 0
        )
        for name, queries in methods.queries(material, settings.bridge, seed, ridge)
    }
    boot = Bootstrap(species, settings.resamples, seed)
    rows = table.rows(ranked, boot, against=methods.STUDENT)
    answered = int(np.isfinite(ranked[methods.STUDENT].first_rank).sum())
    for row in rows:
        row |= {"queries": answered, "photographs": len(photographs.species), "ridge": ridge.get(row["method"])}
    rank_of = _ranks([*photographs.names.to_pylist(), *rank_rows])
    sides, named = _sides(labels, material, photographs, rank_of)
    asked = directions.ask(sides, named)
    encoders = _encoders(material, models.base_log_scale)
    heard = {name: encoder.query_results(one, labels, settings.k) for name, one in encoders.items()}
    by_type = naming.columns(_spaces(material), species, labels.names)
    return Evaluation(
        photographs,
        material,
        labels,
        settings,
        ranked,
        rows,
        directions.rows(asked, sides, settings.resamples, seed),
        encoder.rows(heard, boot),
        naming.rows(by_type, boot),
        _by_recording(asked, heard, by_type),
        rank_of,
    )


def _labels(recordings: methods.Recordings, names: Sequence[Mapping[str, Any]]) -> encoder.Labels:
    train, asked, species, recordists = recordings.train, recordings.queries, recordings.species, recordings.recordists
    every = np.array([row["scientific_name"] for row in names], dtype=object)
    return encoder.Labels(species[train], species[asked], every, recordists[train], recordists[asked])


def _by_recording(
    asked: directions.Asked, heard: Mapping[str, encoder.QueryResults], by_type: naming.Columns
) -> dict[str, np.ndarray]:
    """What each query came to, by measure and row; of the directions those in which sound asks."""
    found = {f"{name}.{which}": some for which, one in heard.items() for name, some in one.columns.items()}
    for (which, kind), columns in by_type.items():
        found |= {f"{name}.{which}.{kind}": some for name, some in columns.items()}
    for (asks, holds, rank), one in asked.items():
        if asks == "sound":
            found[f"average_precision.{asks}.{holds}.{rank}"] = one.ranked.average_precision
            found[f"first_rank.{asks}.{holds}.{rank}"] = one.ranked.first_rank
    return found


def _ranks(known: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each species' ranks, each as the first row that knows it has it."""
    found: dict[str, dict[str, Any]] = {}
    for row in known:
        own = found.setdefault(row["scientific_name"], {"scientific_name": row["scientific_name"]})
        for rank in RANKS:
            if row.get(rank):
                own.setdefault(rank, row[rank])
    return found


def _sides(
    labels: encoder.Labels, material: methods.Material, photographs: Gallery, rank_of: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, directions.Side], dict[str, dict[str, str]]]:
    """(what asks and is asked for; by rank, each species' name at it)."""
    sides = {
        "sound": directions.Side(material.vectors["student"][material.queries], labels.queries),
        "picture": directions.Side(photographs.vectors, photographs.species),
        "text": directions.Side(material.teacher_names_SD, labels.names),
    }
    names = sorted({str(name) for side in sides.values() for name in side.species})
    named = {rank: directions.names_at(rank, names, list(rank_of.values())) for rank in directions.RANKS}
    return sides, {rank: found for rank, found in named.items() if found}


def _spaces(material: methods.Material) -> dict[str, naming.Space]:
    vectors, asked = material.vectors, material.queries
    return {
        "base": naming.Space(unit(vectors["base_joint"][asked]), material.base_texts),
        methods.STUDENT: naming.Space(vectors["student"][asked], material.teacher_texts),
    }


def _encoders(material: methods.Material, base_log_scale: float) -> dict[str, encoder.Encoder]:
    vectors, train, asked = material.vectors, material.train, material.queries
    return {
        "base": encoder.Encoder(
            vectors["base_pooled"][train],
            vectors["base_pooled"][asked],
            unit(vectors["base_joint"][asked]),
            material.base_names_SB,
            base_log_scale,
            "mean of sci and com",
        ),
        methods.STUDENT: encoder.Encoder(
            vectors["student_pooled"][train],
            vectors["student_pooled"][asked],
            vectors["student"][asked],
            material.teacher_names_SD,
            material.log_scale,
            "taxon_com",
        ),
    }
