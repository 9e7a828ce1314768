"""Rows of measures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from songsight.metrics.bootstrap import Bootstrap, Over, Statistic, interval, p_value
from songsight.metrics.retrieval import Ranked

MEASURES: dict[str, Statistic] = {
    "mAP": "mean",
    "macro_mAP": "macro",
    "recall_at_1": "mean",
    "recall_at_5": "mean",
    "recall_at_10": "mean",
    "median_rank": "median",
}
"""With AP(q) of `Ranked.average_precision` and r(q) of `Ranked.first_rank`, over the queries q that have an answer:

- mAP = Σ_q AP(q) / Q (Manning, Raghavan, Schütze, Introduction to Information Retrieval, section 8.4);
- macro_mAP = Σ_s (Σ_{q of s} AP(q) / Q_s) / S: each species counts alike, however many recordings it has
  (class-averaged as in iNatSounds, Chasmai et al., NeurIPS 2024);
- recall_at_k = #{r(q) ≤ k} / Q (arXiv 1707.05612, section 4);
- median_rank = median of r(q), the mean of the two middle ones of an even number (arXiv 1707.05612, Med r).

NaN where no query has an answer."""

Row = dict[str, Any]


def point(boot: Bootstrap, average_precision_QM: np.ndarray, first_rank_QM: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure of several methods, float64 [methods]."""
    return {
        name: boot.point(values_of(name, average_precision_QM, first_rank_QM), kind) for name, kind in MEASURES.items()
    }


def draws(
    boot: Bootstrap, average_precision_QM: np.ndarray, first_rank_QM: np.ndarray, over: Over
) -> dict[str, np.ndarray]:
    """Each measure of several methods in each resample, float64 [resamples, methods]: the same resamples for all."""
    return {
        name: boot.draws(values_of(name, average_precision_QM, first_rank_QM), kind, over)
        for name, kind in MEASURES.items()
    }


def units(
    boot: Bootstrap, average_precision_QM: np.ndarray, first_rank_QM: np.ndarray, over: Over
) -> dict[str, np.ndarray]:
    """How many things each measure of several methods rests on, float64 [methods]: see `Bootstrap.units`."""
    return {
        name: boot.units(values_of(name, average_precision_QM, first_rank_QM), kind, over)
        for name, kind in MEASURES.items()
    }


def values_of(measure: str, average_precision_QM: np.ndarray, first_rank_QM: np.ndarray) -> np.ndarray:
    """What each query adds to one of `MEASURES`, float64 of the same shape; NaN where it has no answer."""
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
    base = list(ranked).index(against) if against else -1
    for over in ("recordings", "species"):
        prefix = "" if over == "recordings" else "species_"
        drawn, counted = draws(boot, average, first, over), units(boot, average, first, over)
        for name, draws_RM in drawn.items():
            _put(made, name, prefix, draws_RM, counted[name])
        if not against:
            continue
        difference_RM = drawn["mAP"] - drawn["mAP"][:, [base]]
        name = f"mAP_minus_{against}"
        for row, p in zip(made, p_value(difference_RM, counted["mAP"]), strict=True):
            row[name] = row["mAP"] - made[base]["mAP"]
            row[f"{name}_{prefix}p"] = float(p)
        _put(made, name, prefix, difference_RM, counted["mAP"])
    return made


def figures(columns: Mapping[str, np.ndarray], boot: Bootstrap, species_too: bool = True) -> dict[str, float]:
    """The mean of each column with its 95 % intervals.

    Args:
        columns: what each query came to, float [queries] by measure; a NaN is left out.
        boot: of these queries; an equal one draws the same of them, so that differences are paired.
        species_too: whether species are drawn anew, too.

    Returns:
        each measure by name, with `_low` and `_high` over recordings, `_species_low` and `_species_high` over species.
    """
    values_QM = np.stack([np.asarray(column, np.float64) for column in columns.values()], axis=1)
    result: dict[str, float] = {}
    for name, value in zip(columns, boot.point(values_QM), strict=True):
        result |= {name: float(value), f"{name}_low": np.nan, f"{name}_high": np.nan}
    ways: dict[str, Over] = {"": "recordings", "species_": "species"} if species_too else {"": "recordings"}
    for prefix, over in ways.items():
        ends = interval(boot.draws(values_QM, over=over), boot.units(values_QM, over=over))
        for name, low, high in zip(columns, *ends, strict=True):
            result |= {f"{name}_{prefix}low": float(low), f"{name}_{prefix}high": float(high)}
    return result


_ENDS = ("low", "high", "species_low", "species_high")


def _put(made: list[Row], name: str, prefix: str, draws_RM: np.ndarray, units_M: np.ndarray) -> None:
    low_M, high_M = interval(draws_RM, units_M)
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
                if ends[0] is not None and ends[0] == ends[0]:
                    cell += " [" + ", ".join(text_of(end, column) for end in ends) + "]"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def text_of(value: Any, column: str = "") -> str:
    """A figure as it is printed: three digits behind the point, of a rank a tenth if it has one, a dash for none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0") if column.startswith("median_rank") else f"{value:.3f}"
    return str(value)
