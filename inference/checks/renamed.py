"""A text vocabulary in which species have other names: how much of naming hangs on the very words?

With a table of synonyms (`--synonyms`: scientific_name, synonym) each species in it is asked for by its synonym: what a
taxonomic revision does, Accipiter cooperii → Astur cooperii. `swapped genera` renames all: each genus takes the name of
another one of the gallery (a permutation without a fixed point, drawn by the seed), the epithet stays. Common names and
the ranks above stay, too. A model that knows names by heart falls to chance with the bare names; one that is pulled by
the rest of the text does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference.checks.subject import Rows, Subject, figures, top
from songsight.metrics import unit
from songsight.models import prompts

TEXT_TYPES = ("sci", "taxon", "sci_com", "taxon_com")


def tables(subject: Subject) -> dict[str, Rows]:
    """A row a vocabulary, text type and model."""
    vocabularies = {"as it is": subject.names}
    if subject.synonyms:
        vocabularies["synonyms"] = [renamed(row, subject.synonyms.get(row["scientific_name"])) for row in subject.names]
    vocabularies["swapped genera"] = swapped_genera(subject.names, subject.seed)
    rows: Rows = []
    for vocabulary, names in vocabularies.items():
        changed = [a["scientific_name"] != b["scientific_name"] for a, b in zip(names, subject.names, strict=True)]
        for kind in TEXT_TYPES:
            texts = [prompts.text(row, kind) for row in names]
            first = {
                "base": subject.name_rank(unit(subject.vectors["base_joint"]), unit(subject.base_text(texts))),
                "distilled": subject.name_rank(subject.vectors["student"], subject.teacher_text(texts)),
            }
            for model, first_Q in first.items():
                columns = {"zero_shot_top1": top(first_Q, 1), "zero_shot_top5": top(first_Q, 5)}
                row: dict[str, Any] = {"vocabulary": vocabulary, "text_type": kind, "model": model}
                row |= figures(columns, subject.species, subject.resamples, subject.seed)
                rows.append(row | {"renamed_species": int(np.sum(changed))})
    return {"renamed": rows}


def renamed(row: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """A species' row under another scientific name; as it is without one."""
    if not name:
        return dict(row)
    genus, _, epithet = name.partition(" ")
    return dict(row) | {"scientific_name": name, "genus": genus, "species": epithet}


def swapped_genera(names: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Each species with the genus of another: a genus' species move together, no genus keeps its name.

    With fewer than two genera nothing can be swapped, and the rows come back as they are.
    """
    genera = sorted({row["scientific_name"].split(" ")[0] for row in names})
    if len(genera) < 2:
        return [dict(row) for row in names]
    # A random cycle through all genera: each goes to its follower.
    order = np.random.default_rng(seed).permutation(len(genera))
    follower = {genera[a]: genera[b] for a, b in zip(order, np.roll(order, -1), strict=True)}
    found = []
    for row in names:
        genus, _, epithet = row["scientific_name"].partition(" ")
        found.append(renamed(row, f"{follower[genus]} {epithet}".strip()))
    return found
