"""What naming a benchmark as large as iNatSounds costs: random vectors, every measure with its intervals.

    python bench/naming.py     # 49,527 files among 5,569 species, averaged over 1,212, width 768

Prints seconds and the process's peak resident memory, vectors included, and the accuracy beside what chance comes to.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa

from inference.benchmarks import kept, measure, scores, task
from inference.benchmarks.redraw import Redrawn


def peak_gb() -> float:
    """The most memory that this process has held, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def benchmark(files: int, species: int, averaged: int) -> task.Labelled:
    """As many files as asked for, of species drawn at random."""
    names = [f"Genus{number} species{number}" for number in range(species)]
    drawn = np.random.default_rng(0).integers(0, species, files)
    units = [f"{number}.wav" for number in range(files)]
    clips = pa.table(
        {
            "path": units,
            "start_s": np.zeros(files),
            "end_s": np.ones(files),
            "unit": units,
            "recording": units,
            "labels": [[names[number]] for number in drawn],
            "split": ["test"] * files,
            "recordist": pa.nulls(files, pa.string()),
        }
    )
    classes = [task.class_row(name) | {"scientific_name": name} for name in names]
    return task.Labelled("random", clips.cast(task.CLIPS), classes, several=False, averaged=frozenset(names[:averaged]))


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=49_527)
    parser.add_argument("--species", type=int, default=5569)
    parser.add_argument("--averaged", type=int, default=1212)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    asked = benchmark(options.files, options.species, options.averaged)
    kinds = ("base_pooled", "base_joint", "student_pooled", "student")
    vectors = {kind: rng.standard_normal((options.files, options.width), dtype=np.float32) for kind in kinds}
    test = scores.units(asked, np.arange(options.files), vectors)
    del vectors

    def text(texts: list[str]) -> np.ndarray:
        return rng.standard_normal((len(texts), options.width)).astype(np.float32)

    truth = scores.truth(asked, test)
    redrawn = Redrawn(test.recording, options.resamples)
    chance = measure.chance(truth)
    print(f"{options.files:,} files among {options.species:,} species, width {options.width}")
    with tempfile.TemporaryDirectory() as folder, kept.archive(os.path.join(folder, "scores.npz")) as writer:
        for name, method in scores.methods(asked, test, text, text, None):
            begin = time.perf_counter()
            scored = method.scored(asked, test)
            named = time.perf_counter() - begin
            row = measure.row(measure.figures(truth, scored, redrawn))
            writer.method(name, scored)
            print(
                f"{name}: named in {named:.1f} s, measured in {time.perf_counter() - begin - named:.1f} s, peak "
                f"{peak_gb():.2f} GB; accuracy {row['accuracy']:.6f} [{row['accuracy_low']:.6f}, "
                f"{row['accuracy_high']:.6f}], chance {chance['accuracy']:.6f}"
            )


if __name__ == "__main__":
    main()
