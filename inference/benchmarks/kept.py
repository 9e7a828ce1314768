"""What `songsight evaluate --benchmark --out` keeps of each unit: scores and labels, as NumPy archives.

`scores.npz`, a benchmark part each (`numpy.load`, no pickle):

    scores.<method>   float32 [units, judged classes]
    place.<method>    int64 [units]: the place of a unit's own class among all, see `measure.Scored`
    present           bool [units, judged classes]
    classes           the judged classes' labels
    units, recordings what each unit is called, and what it was cut from
    all_classes       how many classes units are named among
    several, absent_counts   see `measure.Truth`

and `benchmark.json`: what was measured, and which of these files it lies in.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.benchmarks import scores as naming
from inference.benchmarks.measure import Scored, Truth
from inference.benchmarks.scores import Method, Units
from inference.benchmarks.task import Labelled
from songsight.errors import UserError
from songsight.store import urls

RECORD = "benchmark.json"


class Writer:
    """Adds arrays to an archive, one at a time."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def add(self, name: str, array: Any) -> None:
        """Adds an array."""
        array = np.asarray(array)
        self.blocks(name, array.shape, array.dtype, [array])

    def blocks(self, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterable[np.ndarray]) -> None:
        """Adds an array that is there a block at a time: it may be larger than the memory."""
        about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        with self.archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
            np.lib.format.write_array_header_2_0(handle, about)
            for block in blocks:
                handle.write(np.ascontiguousarray(block, dtype).tobytes())

    def units(self, task: Labelled, test: Units, classes: np.ndarray) -> None:
        """Adds who the units and classes are."""
        self.add("classes", np.array([task.classes[c]["label"] for c in classes], np.str_))
        self.add("units", test.names.astype(np.str_))
        self.add("recordings", test.recording.astype(np.str_))

    def method(self, name: str, scored: Scored) -> None:
        """Adds what a method says."""
        self.add(f"scores.{name}", scored.scores_UC)
        self.add(f"place.{name}", scored.place_U)


@contextmanager
def archive(path: str) -> Iterator[Writer]:
    """A NumPy archive to be written at a local path."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as opened:
        yield Writer(opened)


def begin(writer: Writer, task: Labelled, test: Units, truth: Truth) -> None:
    """Writes what all methods share."""
    writer.units(task, test, naming.judged(task, test))
    writer.add("present", truth.present_UC)
    writer.add("all_classes", truth.classes)
    writer.add("several", truth.several)
    writer.add("absent_counts", truth.absent_counts)


def save_scores(url: str, task: Labelled, test: Units, method: Method) -> None:
    """Writes a method's whole matrix for strangers.

    `scores` float32 and `present` bool [units, classes], `classes`, `units`, `recordings`.

    Args:
        url: of the `.npz` file.
        task, test: the benchmark and its test units.
        method: whose scores.
    """
    shape = (len(test.names), len(task.classes))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "scores.npz")
        with archive(path) as writer:
            writer.units(task, test, np.arange(len(task.classes)))
            scores = (block for _, block in method.blocks(test, shape[1]))
            writer.blocks("scores", shape, np.float32, scores)
            parts = (test.present[part].toarray() for part, _ in _parts(shape))
            writer.blocks("present", shape, np.bool_, parts)
        urls.put_file(path, url)


def _parts(shape: tuple[int, int]) -> Iterator[tuple[slice, int]]:
    size = max(1, (64 << 20) // max(1, shape[1]))
    for start in range(0, shape[0], size):
        yield slice(start, start + size), size


@dataclass(frozen=True)
class Part:
    """One part of a benchmark as a run kept it.

    Attributes:
        url: of the archive.
        arrays: the archive, which reads an array when it is asked for.
    """

    url: str
    arrays: Any

    @property
    def methods(self) -> list[str]:
        """The methods that it has, in the table's order."""
        return [name.removeprefix("scores.") for name in self.arrays.files if name.startswith("scores.")]

    def truth(self, units: np.ndarray) -> Truth:
        """What is true of some of the units, int64 [some]."""
        flags = {name: bool(self.arrays[name]) for name in ("several", "absent_counts")}
        return Truth(present_UC=self.arrays["present"][units], classes=int(self.arrays["all_classes"]), **flags)

    def scored(self, method: str, units: np.ndarray) -> Scored:
        """What a method says of some of the units, int64 [some]."""
        return Scored(self.arrays[f"scores.{method}"][units], self.arrays[f"place.{method}"][units])


def record(url: str, option: str = "--compare") -> dict[str, Any] | None:
    """`benchmark.json` of a run that was kept at a URL; None where there is none.

    Raises:
        UserError: it is one that keeps no scores.
    """
    at = urls.join(url, RECORD)
    if not urls.exists(at):
        return None
    found = json.loads(urls.read_bytes(at))
    if "parts" not in found:
        raise UserError(f"{option} {url}: keeps no scores of its units; measure it again")
    return found


def part(url: str, name: str, folder: str) -> Part:
    """Opens an archive that a run kept.

    Args:
        url: of the run's folder.
        name: of the archive in it.
        folder: a local one, for a copy of what is elsewhere.
    """
    at = urls.join(url, name)
    if not urls.exists(at):
        raise UserError(f"--compare {url}: has no {name}, the scores of its units")
    if urls.is_remote(at):
        fs, path = urls.filesystem(at)
        at = os.path.join(folder, name)
        fs.get_file(path, at)
    return Part(at, np.load(at))
