"""Two evaluations of the same recordings: which differences are more than noise.

The two are compared recording by recording (paired bootstrap: Efron & Tibshirani 1993; Koehn 2004, Statistical
significance tests for machine translation evaluation): what is hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distill.errors import UserError
from distill.metrics.bootstrap import Bootstrap, interval, p_value
from inference.evaluation import table
from inference.evaluation.files import Kept

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


def compare(a: Kept, b: Kept, resamples: int = 1000, seed: int = 0) -> tuple[list[table.Row], dict[str, int]]:
    """The differences of two evaluations over the recordings and methods that both have.

    Args:
        a, b: of the same photographs.
        resamples, seed: of the bootstrap.

    Returns:
        (a row a method and measure: `a`, `b`, `difference` b − a with the intervals and p of both bootstraps, and
        `more_than_noise`: `yes` where both p are below 0.05, `for these species` where the one over recordings alone
        is, `no` otherwise; counts: `recordings` in both, `only_a`, `only_b`). p are not corrected for their number.

    Raises:
        UserError: other photographs, or no recording or method in common.
    """
    if a.record["fingerprints"]["photographs"] != b.record["fingerprints"]["photographs"]:
        raise UserError(
            f"--compare: {a.url} and {b.url} were measured on different photographs: evaluate both models on one set"
        )
    methods = [name for name in _distinct(a.queries["method"]) if name in set(_distinct(b.queries["method"]))]
    by_a, by_b = _by_recording(a.queries, methods), _by_recording(b.queries, methods)
    common = [name for name in by_a if name in by_b]
    if not common or not methods:
        raise UserError(f"--compare: {a.url} and {b.url} have no {'recording' if methods else 'method'} in common")
    for name in common:
        if by_a[name][0] != by_b[name][0]:
            raise UserError(
                f"--compare: recording {name} is of {by_a[name][0]} in {a.url} and of {by_b[name][0]} in {b.url}"
            )
    boot = Bootstrap(np.array([by_a[name][0] for name in common]), resamples, seed)
    average, first = ([np.array([side[name][which] for name in common]) for side in (by_a, by_b)] for which in (1, 2))
    points = [table.point(boot, average[side], first[side]) for side in (0, 1)]
    drawn = {
        over: [table.draws(boot, average[side], first[side], over) for side in (0, 1)]
        for over in ("recordings", "species")
    }
    rows: list[table.Row] = []
    for m, method in enumerate(methods):
        for measure in table.MEASURES:
            row: table.Row = {"method": method, "measure": measure}
            row |= {side: float(points[i][measure][m]) for i, side in enumerate("ab")}
            row["difference"] = row["b"] - row["a"]
            for over, prefix in (("recordings", ""), ("species", "species_")):
                apart_R1 = (drawn[over][1][measure] - drawn[over][0][measure])[:, [m]]
                low, high = interval(apart_R1)
                row[f"difference_{prefix}low"], row[f"difference_{prefix}high"] = float(low[0]), float(high[0])
                row[f"{prefix}p"] = float(p_value(apart_R1)[0])
            row["more_than_noise"] = _verdict(row["p"], row["species_p"])
            rows.append(row)
    counts = {"recordings": len(common), "only_a": len(by_a) - len(common), "only_b": len(by_b) - len(common)}
    return rows, counts


def _verdict(p: float, species_p: float) -> str:
    if p < ALPHA and species_p < ALPHA:
        return "yes"
    return "for these species" if p < ALPHA else "no"


def _distinct(column: pa.ChunkedArray) -> list[str]:
    return list(dict.fromkeys(column.to_pylist()))


def _by_recording(queries: pa.Table, methods: Sequence[str]) -> dict[str, tuple[str, list[Any], list[Any]]]:
    """By recording: its species, and its average precision and first rank by each method, NaN where it has none."""
    place = {name: i for i, name in enumerate(methods)}
    found: dict[str, tuple[str, list[Any], list[Any]]] = {}
    for row in queries.to_pylist():
        if row["method"] in place:
            empty = [float("nan")] * len(methods)
            own = found.setdefault(row["recording_id"], (row["scientific_name"], empty, list(empty)))
            own[1][place[row["method"]]] = row["average_precision"]
            own[2][place[row["method"]]] = row["first_rank"]
    return found
