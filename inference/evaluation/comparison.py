"""Two evaluations of the same recordings: which differences are more than noise.

The two are compared recording by recording (paired bootstrap: Efron & Tibshirani 1993; Koehn 2004, Statistical
significance tests for machine translation evaluation): what is hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from inference.evaluation import table
from inference.evaluation.files import Kept
from songsight.errors import UserError
from songsight.metrics.bootstrap import Bootstrap, Over, Statistic, interval, p_value

SHOWN = {
    "method": "method",
    "measure": "measure",
    "a": "A",
    "b": "B",
    "difference": "B − A [over recordings] [over species]",
    "p": "p",
    "species_p": "p over species",
    "more_than_noise": "more than noise",
}
ALPHA = 0.05
OVERS: tuple[Over, Over] = ("recordings", "species")


@dataclass(frozen=True)
class Question:
    """One thing that both evaluations measured.

    Attributes:
        table: which of the evaluation's tables has it.
        method, measure: its row and column there.
        statistic: what is made of the recordings' values.
        column: where each side keeps those values, see `_columns`.
    """

    table: str
    method: str
    measure: str
    statistic: Statistic
    column: str


def compare(a: Kept, b: Kept, resamples: int = 1000, seed: int = 0) -> tuple[list[table.Row], dict[str, int]]:
    """The differences of two evaluations over the recordings and methods that both have.

    Of the tables beside the first one those rows are compared whose question both were asked: naming where both had
    the same texts, kNN and the probe where both had the same training recordings and k.

    Args:
        a, b: of the same photographs.
        resamples, seed: of the bootstrap.

    Returns:
        (a row a method and measure: `table`, `method`, `measure`, `a`, `b`, `difference` b − a with the intervals and p
        of both bootstraps, and `more_than_noise`, see `verdict`; counts: `recordings` in both, `only_a`, `only_b`).
        p are not corrected for their number.

    Raises:
        UserError: other photographs, or no recording or method in common.
    """
    if a.record["fingerprints"]["photographs"] != b.record["fingerprints"]["photographs"]:
        raise UserError(
            f"--compare: {a.url} and {b.url} were measured on different photographs: evaluate both models on one set"
        )
    species_a, species_b = _species(a), _species(b)
    common = [name for name in species_a if name in species_b]
    of_a, of_b = _columns(a, common), _columns(b, common)
    questions = _questions(of_a, of_b, _unlike(a, b))
    methods = [question for question in questions if question.table == "table"]
    if not common or not methods:
        raise UserError(f"--compare: {a.url} and {b.url} have no {'method' if common else 'recording'} in common")
    for name in common:
        if species_a[name] != species_b[name]:
            raise UserError(
                f"--compare: recording {name} is of {species_a[name]} in {a.url} and of {species_b[name]} in {b.url}"
            )
    boot = Bootstrap(np.array([species_a[name] for name in common]), resamples, seed)
    rows: list[table.Row | None] = [None] * len(questions)
    # Those of one statistic are drawn together: the resamples of many recordings take long to draw.
    for statistic in ("mean", "macro", "median"):
        numbers = [number for number, question in enumerate(questions) if question.statistic == statistic]
        if not numbers:
            continue
        sides = [np.stack([of[questions[n].column] for n in numbers], axis=1) for of in (of_a, of_b)]
        # What one of the two could not be asked is asked of neither.
        lost = np.isnan(sides[0]) | np.isnan(sides[1])
        sides = [np.where(lost, np.nan, side) for side in sides]
        for number, row in zip(numbers, _differences(boot, sides, statistic), strict=True):
            about = questions[number]
            rows[number] = {"table": about.table, "method": about.method, "measure": about.measure} | row
    counts = {"recordings": len(common), "only_a": len(species_a) - len(common), "only_b": len(species_b) - len(common)}
    return [row for row in rows if row is not None], counts


def _differences(boot: Bootstrap, sides: list[np.ndarray], statistic: Statistic) -> list[table.Row]:
    """A row a column of the two sides, each float [recordings, columns]."""
    a_M, b_M = (boot.point(side, statistic) for side in sides)
    made: list[table.Row] = [
        {"a": float(a), "b": float(b), "difference": float(b - a)} for a, b in zip(a_M, b_M, strict=True)
    ]
    for over, prefix in zip(OVERS, ("", "species_"), strict=True):
        drawn_a, drawn_b = (boot.draws(side, statistic, over) for side in sides)
        units_M = boot.units(sides[0], statistic, over)
        ends = interval(drawn_b - drawn_a, units_M)
        for row, low, high, p in zip(made, *ends, p_value(drawn_b - drawn_a, units_M), strict=True):
            row[f"difference_{prefix}low"], row[f"difference_{prefix}high"] = float(low), float(high)
            row[f"{prefix}p"] = float(p)
    for row in made:
        row["more_than_noise"] = verdict(row["difference"], row["p"], row["species_p"])
    return made


def verdict(difference: float, p: float, species_p: float) -> str | None:
    """Whether a difference is more than noise.

    Returns:
        `yes` where both p are below 0.05; `for these species` where the one over recordings is and the one over species
        is not, or there are too few species for one; `no` where the one over recordings is not; `too few` where there
        are too few recordings (`bootstrap.FEWEST`); None where there is no difference to speak of, of no answers.
    """
    if np.isnan(difference):
        return None
    if np.isnan(p):
        return "too few"
    if p >= ALPHA:
        return "no"
    return "yes" if species_p < ALPHA else "for these species"


def _species(side: Kept) -> dict[str, str]:
    """The species of each recording, in the order of the table."""
    names = (side.queries[column].to_pylist() for column in ("recording_id", "scientific_name"))
    return dict(zip(*names, strict=True))


def _columns(side: Kept, common: list[str]) -> dict[str, np.ndarray]:
    """What each of the recordings came to, float64 [recordings] by measure and row; NaN where it has no value.

    `average_precision.distilled` and so on of `queries.parquet`, then the columns of `by_recording.parquet`.
    """
    place = {name: number for number, name in enumerate(common)}
    found: dict[str, np.ndarray] = {}

    def take(column: str, rows: pa.Table, values: str) -> None:
        found[column] = np.full(len(common), np.nan)
        where = np.array([place.get(name, -1) for name in rows["recording_id"].to_pylist()], np.int64)
        found[column][where[where >= 0]] = rows[values].to_numpy()[where >= 0]

    which = np.array(side.queries["method"].to_pylist(), dtype=object)
    for method in dict.fromkeys(which):
        rows = side.queries.filter(pa.array(which == method))
        for values in ("average_precision", "first_rank"):
            take(f"{values}.{method}", rows, values)
    if side.by_recording is not None:
        for column in side.by_recording.column_names[2:]:
            take(column, side.by_recording, column)
    for column in [name for name in found if name.startswith("first_rank.")]:
        rank, where = found[column], column.removeprefix("first_rank.")
        for measure in table.MEASURES:
            if measure.startswith("recall_at_"):
                found[f"{measure}.{where}"] = table.values_of(measure, rank, rank)
    return found


def _questions(of_a: Mapping[str, np.ndarray], of_b: Mapping[str, np.ndarray], unlike: set[str]) -> list[Question]:
    """What both sides have, in the order of the evaluation's tables."""
    found: list[Question] = []
    kept = {"mAP": "average_precision", "macro_mAP": "average_precision", "median_rank": "first_rank"}
    for column in of_a:
        if column not in of_b:
            continue
        measure, _, row = column.partition(".")
        words = row.split(".")
        if measure == "average_precision":
            name = "table"
            if len(words) == 3:
                name, row = "directions", f"{words[0]} finds {words[1]}, {words[2]}"
                if words[1] == "text" and "texts" in unlike:
                    continue
            for one, statistic in table.MEASURES.items():
                found.append(Question(name, row, one, statistic, f"{kept.get(one, one)}.{'.'.join(words)}"))
        elif measure.startswith(("zero_shot", "brier")) and "texts" not in unlike:
            name, row = ("naming", f"{words[0]}, {words[1]}") if len(words) == 2 else ("encoder", row)
            found.append(Question(name, row, measure, "mean", column))
        elif (measure == "linear_probe" or (measure.startswith("knn") and "k" not in unlike)) and (
            "training" not in unlike
        ):
            found.append(Question("encoder", row, measure, "mean", column))
    order = ("table", "directions", "encoder", "naming")
    return sorted(found, key=lambda question: order.index(question.table))


def _unlike(a: Kept, b: Kept) -> set[str]:
    """What the two were asked differently: `texts`, `training` recordings, `k`."""
    prints = {
        name
        for name in ("texts", "training")
        if a.record["fingerprints"].get(name) != b.record["fingerprints"].get(name)
    }
    return prints | ({"k"} if a.record["options"].get("k") != b.record["options"].get("k") else set())
