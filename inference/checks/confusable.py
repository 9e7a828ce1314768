"""Species that are easily taken for each other: is a sound told from those alone?

Among congeners, the answers are the species of the query's own genus, where the gallery has at least two of it. Among
look-alikes they are two: the own species and the one whose photographs' mean vector is the most similar by the
teacher; among sound-alikes the one whose recordings' mean vector is the most similar by the base model's pooled
embedding (training recordings where there are any, so that a query does not choose its own rival). Where photographs
are asked for, species that none shows are no answers. Accuracy is the share of queries whose own species scores higher
than all other answers; chance is the mean of 1 / answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inference.checks.subject import Rows, Subject, figures
from songsight.metrics import unit

_LISTED = 20


def tables(subject: Subject) -> dict[str, Rows]:
    """`confusable`: a row a group and method; `confusable_pairs`: the worst pairs, by the student's text answers."""
    scores = {
        "base": subject.vectors["base_joint"] @ subject.base_names.T,
        "distilled": subject.vectors["student"] @ subject.name_vectors.T,
        "distilled_images": subject.photograph_scores,
    }
    rivals = {
        "look-alike": _nearest(_means(subject.photographs.vectors, subject.photographs.species, subject.name_species)),
        "sound-alike": _nearest(_sounds(subject)),
    }
    genera = np.array([row.get("genus") or row["scientific_name"].split(" ")[0] for row in subject.names])
    answers_QS = {"congeners": genera[subject.species_number][:, None] == genera[None, :]}
    numbers = np.arange(len(subject.names))
    for group, rival_S in rivals.items():
        rival_Q = rival_S[subject.species_number]
        answers_QS[group] = (numbers == subject.species_number[:, None]) | (numbers == rival_Q[:, None])
    shown_S = np.isin(subject.name_species.astype(str), subject.photographs.species.astype(str))
    rows: Rows = []
    for group, allowed_QS in answers_QS.items():
        for method, scores_QS in scores.items():
            answers = allowed_QS & shown_S if method == "distilled_images" else allowed_QS
            many_Q = answers.sum(axis=1)
            asked = (many_Q > 1) & answers[np.arange(len(answers)), subject.species_number]
            if not asked.any():
                continue
            right_Q = _right(scores_QS, answers, subject.species_number)[asked]
            row: dict[str, Any] = {"among": group, "method": method}
            row |= figures({"accuracy": right_Q}, subject.species[asked], subject.resamples, subject.seed)
            row |= {"chance": float((1 / many_Q[asked]).mean()), "queries": int(asked.sum())}
            rows.append(row | {"species": len(np.unique(subject.species_number[asked]))})
    return {"confusable": rows, "confusable_pairs": _pairs(subject, scores["distilled"], rivals)}


def _right(scores_QS: np.ndarray, allowed_QS: np.ndarray, own_Q: np.ndarray) -> np.ndarray:
    """Whether the own species scores higher than all others that are allowed; a tie is no right answer."""
    own_Q1 = np.take_along_axis(scores_QS, own_Q[:, None], axis=1)
    return ((scores_QS >= own_Q1) & allowed_QS).sum(axis=1) == 1


def _pairs(subject: Subject, scores_QS: np.ndarray, rivals: dict[str, np.ndarray]) -> Rows:
    rows: Rows = []
    for group, rival_S in rivals.items():
        for number in np.unique(subject.species_number):
            rival = rival_S[number]
            if rival < 0:
                continue
            asked = subject.species_number == number
            right = scores_QS[asked, number] > scores_QS[asked, rival]
            names = {"species": subject.name_species[number], "taken_for": subject.name_species[rival]}
            rows.append({"among": group} | names | {"accuracy": float(right.mean()), "queries": int(asked.sum())})
    wrong = [row for row in rows if row["accuracy"] < 1]
    return sorted(wrong, key=lambda row: (row["accuracy"], -row["queries"], row["species"]))[:_LISTED]


def _sounds(subject: Subject) -> np.ndarray:
    """Mean pooled embedding of each species' recordings; those of training if any species has some."""
    if len(subject.train_species):
        return _means(unit(subject.train_pooled), subject.train_species, subject.name_species)
    return _means(unit(subject.vectors["base_pooled"]), subject.species, subject.name_species)


def _means(vectors_ND: np.ndarray, species_N: np.ndarray, names_S: np.ndarray) -> np.ndarray:
    """Mean vector of each name, unit length; NaN for one without vectors. float [names, width]."""
    found = np.full((len(names_S), vectors_ND.shape[1]), np.nan)
    for number, name in enumerate(names_S):
        own = species_N == name
        if own.any():
            found[number] = vectors_ND[own].mean(axis=0)
    # Taken from what all have in common, or in a narrow cone all would be alike.
    return unit(found - np.nanmean(found, axis=0)) if np.isfinite(found).any() else found


def _nearest(means_SD: np.ndarray) -> np.ndarray:
    """The most similar other species of each: int [names]; −1 where it or all others have no vector."""
    real = np.isfinite(means_SD).all(axis=1)
    similar_SS = np.nan_to_num(means_SD) @ np.nan_to_num(means_SD).T
    similar_SS[:, ~real] = -np.inf
    np.fill_diagonal(similar_SS, -np.inf)
    nearest_S = similar_SS.argmax(axis=1)
    return np.where(real & (real.sum() > 1), nearest_S, -1)
