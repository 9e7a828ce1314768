"""Rows of measures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distill.metrics.bootstrap import Bootstrap, Over, Statistic, interval, p_value
from distill.metrics.retrieval import Ranked

MEASURES: dict[str, Statistic] = {
    "mAP": "mean",
    "macro_mAP": "macro",
    "recall_at_1": "mean",
    "recall_at_5": "mean",
    "recall_at_10": "mean",
    "median_rank": "median",
}
"""mAP is the mean over queries, macro_mAP the mean over species of the mean over each one's queries; recall_at_k and
median_rank are of the first answer (`Ranked.first_rank`)."""

Row = dict[str, Any]


def point(boot: Bootstrap, average_precision_QM: np.ndarray, first_rank_QM: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure of several methods, float64 [methods]."""
    return {
        name: boot.point(_values(name, average_precision_QM, first_rank_QM), kind) for name, kind in MEASURES.items()
    }


def draws(
    boot: Bootstrap, average_precision_QM: np.ndarray, first_rank_QM: np.ndarray, over: Over
) -> dict[str, np.ndarray]:
    """Each measure of several methods in each resample, float64 [resamples, methods]: the same resamples for all."""
    return {
        name: boot.draws(_values(name, average_precision_QM, first_rank_QM), kind, over)
        for name, kind in MEASURES.items()
    }


def _values(measure: str, average_precision_QM: np.ndarray, first_rank_QM: np.ndarray) -> np.ndarray:
    if measure.startswith("recall_at_"):
        k = int(measure.rpartition("_")[2])
        return np.where(np.isnan(first_rank_QM), np.nan, first_rank_QM <= k)
    return first_rank_QM if measure == "median_rank" else average_precision_QM


def rows(ranked: Mapping[str, Ranked], boot: Bootstrap, against: str | None = None) -> list[Row]:
    """A row a method: each measure by name, with 95 % intervals.

    Args:
        ranked: how each method ranked the same queries.
        boot: of these queries.
        against: a method that the others' mAP is compared with, paired.

    Returns:
        `method`, and for each measure its value, `_low` and `_high` (over recordings), `_species_low` and
        `_species_high` (over species); with `against` also `mAP_minus_<against>` with the same four and `_p` and
        `_species_p`.
    """
    average = np.stack([one.average_precision for one in ranked.values()], axis=1)
    first = np.stack([one.first_rank for one in ranked.values()], axis=1)
    made: list[Row] = [{"method": name} for name in ranked]
    for name, values_M in point(boot, average, first).items():
        for row, value in zip(made, values_M, strict=True):
            row[name] = float(value)
            row |= dict.fromkeys([f"{name}_{end}" for end in _ENDS])
    differences: dict[str, np.ndarray] = {}
    for over in ("recordings", "species"):
        prefix = "" if over == "recordings" else "species_"
        drawn = draws(boot, average, first, over)
        for name, draws_RM in drawn.items():
            _put(made, name, prefix, draws_RM)
        if against:
            base = list(ranked).index(against)
            differences[prefix] = drawn["mAP"] - drawn["mAP"][:, [base]]
    for prefix, difference_RM in differences.items():
        name = f"mAP_minus_{against}"
        base = made[list(ranked).index(str(against))]["mAP"]
        for row, p in zip(made, p_value(difference_RM), strict=True):
            row[name] = row["mAP"] - base
            row[f"{name}_{prefix}p"] = float(p)
        _put(made, name, prefix, difference_RM)
    return made


_ENDS = ("low", "high", "species_low", "species_high")


def _put(made: list[Row], name: str, prefix: str, draws_RM: np.ndarray) -> None:
    low_M, high_M = interval(draws_RM)
    for row, low, high in zip(made, low_M, high_M, strict=True):
        row[f"{name}_{prefix}low"], row[f"{name}_{prefix}high"] = float(low), float(high)


def markdown(rows: list[Row], shown: Mapping[str, str], species: bool = False) -> str:
    """Rows as a Markdown table.

    Args:
        rows: of `rows` or alike.
        shown: the columns and their headings; one with an interval shows it.
        species: whether the interval over species is shown too.
    """
    lines = ["| " + " | ".join(shown.values()) + " |", "|" + "---|" * len(shown)]
    for row in rows:
        cells = []
        for name in shown:
            column = row.get("measure", name)  # of a comparison, whose rows have measures of their own
            cell = text_of(row.get(name), column if name in ("a", "b", "difference") else name)
            for prefix in ("", "species_") if species else ("",):
                ends = [row.get(f"{name}_{prefix}{end}") for end in ("low", "high")]
                if ends[0] is not None:
                    cell += " [" + ", ".join(text_of(end, column) for end in ends) + "]"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def text_of(value: Any, column: str = "") -> str:
    """A figure as it is printed: three digits behind the point, ranks in whole numbers, a dash for none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if column.startswith("median_rank") else f"{value:.3f}"
    return str(value)
