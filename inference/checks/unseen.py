"""Species that the model never heard in training, against those that it did, at the ranks where it may still be right.

A species that was never heard may be found by its kin: at the rank of genus or family an answer is whatever shares the
query's name there. `chance_mAP` is the exact expectation of a random ranking, `chance_top1` of a name drawn at random
among all that the gallery has.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from inference.checks.subject import Rows, Subject, figures
from songsight.metrics.retrieval import chance_average_precision, retrieve

RANKS = ("species", "genus", "family")


def tables(subject: Subject) -> dict[str, Rows]:
    """A row a group (`heard in training`, `never heard`) and rank."""
    assert subject.trained_on is not None
    heard = np.array([name in subject.trained_on for name in subject.species], bool)
    named_Q = (subject.vectors["student"] @ subject.name_vectors.T).argmax(axis=1)
    rows: Rows = []
    for group, asked in (("heard in training", heard), ("never heard", ~heard)):
        for rank in RANKS if asked.any() else ():
            label_S = _labels(subject, rank)
            known = asked & (label_S[subject.species_number] != "")
            if known.any():
                rows.append({"species": group, "rank": rank} | _row(subject, known, label_S, named_Q))
    return {"unseen": rows}


def _row(subject: Subject, asked: np.ndarray, label_S: np.ndarray, named_Q: np.ndarray) -> dict[str, float]:
    label_of = dict(zip(subject.name_species, label_S, strict=True))
    held_N = np.array([label_of[name] for name in subject.photographs.species], dtype=object)
    real = held_N != ""
    own = label_S[subject.species_number[asked]]
    ranked = retrieve(subject.vectors["student"][asked], subject.photographs.vectors[real], own, held_N[real])
    answers = _how_many(own, held_N[real])
    chance_Q = np.where(answers > 0, chance_average_precision(np.maximum(answers, 1), int(real.sum())), np.nan)
    columns = {"mAP": ranked.average_precision, "zero_shot_top1": label_S[named_Q[asked]] == own}
    row = figures(columns, subject.species[asked], subject.resamples, subject.seed)
    share = _how_many(own, label_S) / len(label_S)
    row |= {
        "chance_mAP": float(np.nanmean(chance_Q)) if (answers > 0).any() else float("nan"),
        "chance_top1": float(share.mean()),
    }
    return row | {"queries": int(asked.sum()), "of_species": len(np.unique(subject.species_number[asked]))}


def _how_many(asked: np.ndarray, there: np.ndarray) -> np.ndarray:
    """How many of the labels `there` each label asked for is: int [asked]."""
    counts = Counter(there)
    return np.array([counts[label] for label in asked])


def _labels(subject: Subject, rank: str) -> np.ndarray:
    """Each name's label at a rank, object [names]; empty where it is not known."""
    if rank == "species":
        return subject.name_species
    known = [row.get(rank) or "" for row in subject.names]
    if rank == "genus":
        known = [label or row["scientific_name"].split(" ")[0] for label, row in zip(known, subject.names, strict=True)]
    return np.array(known, dtype=object)
