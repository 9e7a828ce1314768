"""Benchmarks, each in the layout that it was published in, as the tables that songsight evaluates.

In: a benchmark's folder. Out: either the recordings and images tables (`Pair`: sound is to find photographs), or clips
with labels (`Labelled`: sound is to be named).

Read `task` first, then any adapter: `ssw60`, `inatsounds`, `birdset`, `beans`, `raven`; `windows` cuts recordings and
says what sounds in a cut. Then `naming`, the ways from a sound to a score (`probe` is one of them), `measure` what the
scores come to, `redraw` how certain that is, `retrieval` what sounds with one label find, `kept` and `comparison` two
runs side by side, `curves` and `look` the pictures. `photographs` takes some of a gallery's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inference.benchmarks.sets import beans, birdset, inatsounds, raven, ssw60
from inference.benchmarks.task import Ask, Labelled, Pair


@dataclass(frozen=True)
class Benchmark:
    """An adapter and the options of `songsight evaluate` that it heeds, besides those that all do."""

    read: Callable[[Ask], list[Labelled] | Pair]
    heeds: tuple[str, ...] = ()


BENCHMARKS = {
    "ssw60": Benchmark(ssw60.read, ("parts",)),
    "inatsounds": Benchmark(inatsounds.read, ("window_s", "hop_s")),
    "birdset": Benchmark(birdset.read, ("parts", "taxonomy")),
    "beans": Benchmark(beans.read, ("parts", "taxonomy")),
    "raven": Benchmark(raven.read, ("annotations", "species_column", "taxonomy", "window_s", "hop_s")),
}

__all__ = ["BENCHMARKS", "Ask", "Benchmark", "Labelled", "Pair"]
