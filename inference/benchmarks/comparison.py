"""Two runs of a benchmark: which differences are more than noise.

Both models are measured on the units that both runs have, in the same resamples of recordings and of species (paired
cluster bootstrap, see `redraw`): what is hard for both cancels out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inference.benchmarks import measure
from inference.benchmarks.kept import Part
from inference.benchmarks.redraw import Redrawn
from inference.evaluation.comparison import ALPHA
from songsight.errors import UserError
from songsight.metrics import bootstrap


def compare(a: Part, b: Part, resamples: int = 1000, seed: int = 0) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The differences of two runs of one part.

    Args:
        a, b: with the same classes.
        resamples, seed: of the bootstrap.

    Returns:
        (a row a method and measure, as `evaluation.comparison.compare` has them; counts: `recordings` and `units` in
        both, `only_a`, `only_b`). p over recordings or species is NaN where there is but one.

    Raises:
        UserError: other classes or labels, or no unit or method in common.
    """
    if a.arrays["classes"].tolist() != b.arrays["classes"].tolist():
        raise UserError(f"--compare: {a.url} and {b.url} are measured over other classes")
    if int(a.arrays["all_classes"]) != int(b.arrays["all_classes"]):
        raise UserError(f"--compare: {a.url} and {b.url} name among another number of classes")
    names_a, names_b = a.arrays["units"], b.arrays["units"]
    common, in_a, in_b = np.intersect1d(names_a, names_b, return_indices=True)
    methods = [name for name in a.methods if name in b.methods]
    if not len(common) or not methods:
        raise UserError(f"--compare: {a.url} and {b.url} have no {'unit' if methods else 'method'} in common")
    truth = a.truth(in_a)
    other = (truth.present_UC != b.truth(in_b).present_UC).any(axis=1)
    if other.any():
        raise UserError(f"--compare: {common[other][0]} has other labels in {a.url} than in {b.url}")
    redrawn = Redrawn(a.arrays["recordings"][in_a], resamples, seed)
    rows = []
    for method in methods:
        ours, theirs = (
            measure.figures(truth, part.scored(method, units), redrawn) for part, units in ((a, in_a), (b, in_b))
        )
        rows += [{"method": method, "measure": name} | _difference(ours[name], theirs[name]) for name in ours]
    counts = {"recordings": redrawn.recordings, "units": len(common)}
    return rows, counts | {"only_a": len(names_a) - len(common), "only_b": len(names_b) - len(common)}


def _difference(a: measure.Figure, b: measure.Figure) -> dict[str, Any]:
    row: dict[str, Any] = {"a": a.value, "b": b.value, "difference": b.value - a.value}
    for prefix, draws_R in (("", b.recordings - a.recordings), ("species_", b.species - a.species)):
        real_R1 = draws_R[np.isfinite(draws_R)][:, None]
        low, high = bootstrap.interval(real_R1)
        row |= {f"difference_{prefix}low": float(low[0]), f"difference_{prefix}high": float(high[0])}
        row[f"{prefix}p"] = float(bootstrap.p_value(real_R1)[0]) if len(real_R1) else float("nan")
    # Nothing is said of other recordings, or species, where there is but one: it does not count as more than noise.
    sure, everywhere = row["p"] < ALPHA, row["species_p"] < ALPHA
    row["more_than_noise"] = "yes" if sure and everywhere else "for these species" if sure else "no"
    return row
