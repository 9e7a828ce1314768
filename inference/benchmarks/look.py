"""The page and pictures of a labelled benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference.benchmarks import curves
from inference.benchmarks.measure import Scored, Truth
from inference.evaluation import figures, page

_TOLD = {
    "macro": "interpolated precision at each recall, mean over the classes that are in a test unit, by method",
    "micro": "all units and classes as one list, so that frequent classes and the scale of scores count, by method",
}


class Curves:
    """Gathers the precision–recall curves of a part's methods."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.by_kind: dict[str, dict[str, np.ndarray]] = {"macro": {}, "micro": {}}

    def add(self, method: str, scored: Scored) -> None:
        """A method's; micro where units have several labels."""
        self.by_kind["macro"][method] = curves.macro(scored.scores_UC, self.truth.present_UC)
        if self.truth.several:
            curve = curves.micro(scored.scores_UC, self.truth.present_UC)
            if curve is not None:
                self.by_kind["micro"][method] = curve

    def pictures(self, name: str) -> dict[str, tuple[str, bytes]]:
        """PNG by file name, each with what it shows.

        Args:
            name: of the part.
        """
        return {
            f"{name}_precision_recall_{kind}.png": (
                f"Precision and recall of {name}, {kind}: {_TOLD[kind]}",
                figures.png(curves.drawn(by_method)),
            )
            for kind, by_method in self.by_kind.items()
            if by_method
        }


def html(
    heading: str,
    sections: list[tuple[str, list[dict[str, Any]]]],
    pictures: Mapping[str, tuple[str, bytes]],
    record: Mapping[str, Any],
) -> str:
    """The page: a table for each part, and the pictures.

    Args:
        heading: of the page.
        sections: (what a table tells, its rows).
        pictures: see `Curves.pictures`.
        record: `benchmark.json`.
    """
    whole: list[tuple[str, list[dict[str, Any]], Mapping[str, str]]] = []
    for told, rows in sections:
        columns = dict.fromkeys(key for row in rows for key in row)
        shown = {key: key for key in columns if not key.endswith(("_low", "_high"))}
        whole.append((told, [dict.fromkeys(columns) | row for row in rows], shown))
    return page.page(heading, [f"model {record['options']['model']}"], whole, pictures, record)
