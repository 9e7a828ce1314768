"""Names a benchmark's clips in every way there is: one score a unit and class.

    base                what the base model's text tower says, the mean of its scientific and common names' embeddings
    distilled           the teacher's text of each class (`taxon_com`)
    distilled_images    the most similar photograph of each class, where there is a gallery
    probe_before, probe_after   a linear probe on the base model's pooled embedding, and on the student's

A unit's vector is the mean of its clips' unit vectors: its score for a text is then the mean of theirs. Methods are
scored one at a time and block by block: all units × all classes of all methods would not fit into the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from inference.benchmarks import measure, probe
from inference.benchmarks.measure import Scored, Truth
from inference.benchmarks.task import Labelled
from inference.match.gallery import Gallery
from songsight.metrics import detection, unit
from songsight.models import prompts

STUDENT = "distilled"
_BELOW = -2.0  # any cosine
_SCORES_PER_BLOCK = 8 << 20
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Units:
    """The units of a benchmark that could be decoded, in the order of its clips.

    Attributes:
        names: what each is known by in another run, [units].
        recording: that each was cut from, [units].
        recordist: of each, None where not known, [units].
        split: of each, [units].
        first: row of the task's clips at which each begins, int64 [units].
        present: its labels, sparse bool [units, classes].
        vectors: by `embed.KINDS`, float32 [units, width].
    """

    names: np.ndarray
    recording: np.ndarray
    recordist: np.ndarray
    split: np.ndarray
    first: np.ndarray
    present: sparse.csr_array
    vectors: dict[str, np.ndarray]

    def where(self, keep: np.ndarray) -> Units:
        """Those for which a bool mask [units] holds."""
        return Units(
            self.names[keep],
            self.recording[keep],
            self.recordist[keep],
            self.split[keep],
            self.first[keep],
            self.present[np.flatnonzero(keep)],
            {kind: some[keep] for kind, some in self.vectors.items()},
        )

    def of(self, split: str) -> Units:
        """Those of a split."""
        return self.where(self.split == split)

    def classes(self) -> np.ndarray:
        """The class of each unit, which has one: int64 [units]."""
        return self.present.indices[self.present.indptr[:-1]].astype(np.int64)


def units(task: Labelled, rows: np.ndarray, vectors: Mapping[str, np.ndarray]) -> Units:
    """Gathers clips into units.

    Args:
        task: the benchmark.
        rows: rows of `task.clips` that could be decoded, int64 [clips], in order.
        vectors: by `embed.KINDS`, float32 [clips, width].
    """
    taken = task.clips.take(rows)
    some, at, unit_of_clip = np.unique(
        np.array(taken["unit"].to_pylist(), dtype=str), return_index=True, return_inverse=True
    )
    order = np.argsort(at)  # numpy sorts by name
    first_U, place = at[order], np.empty(len(some), np.int64)
    place[order] = np.arange(len(some))
    unit_of_clip = place[unit_of_clip]
    gather = sparse.csr_array(
        (np.ones(len(unit_of_clip)), (unit_of_clip, np.arange(len(unit_of_clip)))), (len(some), len(unit_of_clip))
    )
    many_U1 = np.bincount(unit_of_clip, minlength=len(some))[:, None]
    gathered = {}
    for kind, own in vectors.items():
        sums = gather @ (unit(own) if kind in ("base_joint", "student") else own)
        gathered[kind] = (sums / many_U1).astype(np.float32)
    number = {row["label"]: c for c, row in enumerate(task.classes)}
    labels = taken["labels"].to_pylist()
    pairs = [(u, number[label]) for u, clip in enumerate(first_U) for label in set(labels[clip]) if label in number]
    where = tuple(np.array(pairs, np.int64).reshape(-1, 2).T)
    present = sparse.csr_array((np.ones(len(pairs), bool), where), (len(some), len(task.classes)))

    def column(name: str) -> np.ndarray:
        return np.array(taken[name].to_pylist(), dtype=object)[first_U]

    return Units(
        column("unit"),
        column("recording"),
        column("recordist"),
        column("split"),
        np.asarray(rows)[first_U],
        present,
        gathered,
    )


def judged(task: Labelled, test: Units) -> np.ndarray:
    """The classes that measures are taken over: numbers, int64 [judged].

    Of several labels all; of one those that the benchmark averages over and that a test unit is of.
    """
    if task.several:
        return np.arange(len(task.classes))
    found_C = np.asarray(test.present.sum(axis=0)).ravel() > 0
    averaged_C = np.array([task.averaged is None or row["label"] in task.averaged for row in task.classes])
    return np.flatnonzero(found_C & averaged_C)


def truth(task: Labelled, test: Units) -> Truth:
    """What is true of the test units, for the judged classes."""
    present_UC = test.present[:, judged(task, test)].toarray()
    return Truth(task.several, present_UC, len(task.classes), task.absent_counts)


@dataclass(frozen=True)
class Method:
    """A way of naming.

    Attributes:
        kind: of the vectors that it looks at, of `embed.KINDS`.
        score: float32 [units, width] → float32 [units, classes].
    """

    kind: str
    score: Callable[[np.ndarray], np.ndarray]

    def blocks(self, test: Units, classes: int) -> Iterator[tuple[slice, np.ndarray]]:
        """The units' scores, some units at a time."""
        vectors = test.vectors[self.kind]
        size = max(1, _SCORES_PER_BLOCK // max(1, classes))
        for start in range(0, len(vectors), size):
            part = slice(start, start + size)
            yield part, self.score(vectors[part]).astype(np.float32, copy=False)

    def scored(self, task: Labelled, test: Units) -> Scored:
        """What it says of the test units."""
        kept_C = judged(task, test)
        scores_UC = np.empty((len(test.names), len(kept_C)), np.float32)
        place_U = np.empty(len(test.names), np.int64)
        for part, all_BC in self.blocks(test, len(task.classes)):
            scores_UC[part] = all_BC[:, kept_C]
            place_U[part] = measure.places(all_BC, test.present[part].toarray())
        return Scored(scores_UC, place_U)


def methods(
    task: Labelled, found: Units, base_text: Embed, teacher_text: Embed, gallery: Gallery | None
) -> Iterator[tuple[str, Method]]:
    """Every way of naming that there is, one at a time.

    Args:
        task: the benchmark.
        found: its units.
        base_text, teacher_text: texts to float32 [texts, width].
        gallery: of the teacher's; its `test` photographs are asked for, all where it knows no such split.
    """
    named = np.flatnonzero([row["scientific_name"] is not None for row in task.classes])
    if len(named):
        rows = [task.classes[c] for c in named]
        texts = {kind: [prompts.text(row, kind) for row in rows] for kind in ("sci", "com", "taxon_com")}
        base_CB = unit(unit(base_text(texts["sci"])) + unit(base_text(texts["com"])))
        yield "base", Method("base_joint", _Named(named, len(task.classes), base_CB))
        yield STUDENT, Method("student", _Named(named, len(task.classes), teacher_text(texts["taxon_com"])))
        if gallery is not None:
            shown = _Shown(gallery.of_split("test"), [row["scientific_name"] for row in task.classes])
            if len(shown.classes):
                yield "distilled_images", Method("student", shown)
    yield from _probed(task, found)


class _Named:
    """Cosine with each class's text; a class that cannot be asked for scores below all that can."""

    def __init__(self, named: np.ndarray, classes: int, texts_ND: np.ndarray) -> None:
        self.named, self.classes, self.texts_ND = named, classes, texts_ND

    def __call__(self, heard_BD: np.ndarray) -> np.ndarray:
        whole_BC = np.full((len(heard_BD), self.classes), _BELOW, np.float32)
        whole_BC[:, self.named] = heard_BD @ self.texts_ND.T
        return whole_BC


class _Shown:
    """Cosine with the most similar photograph of each class; a class without photographs scores below the others."""

    def __init__(self, photographs: Gallery, names: list[str | None]) -> None:
        number = {name: c for c, name in enumerate(names) if name is not None}
        of_photograph = np.array([number.get(name, -1) for name in photographs.species])
        order = np.argsort(of_photograph, kind="stable")[(of_photograph < 0).sum() :]
        self.vectors, self.all = photographs.vectors[order], len(names)
        self.classes, self.first = np.unique(of_photograph[order], return_index=True)

    def __call__(self, heard_BD: np.ndarray) -> np.ndarray:
        whole_BC = np.full((len(heard_BD), self.all), _BELOW, np.float32)
        size = max(1, _SCORES_PER_BLOCK // len(self.vectors))
        for start in range(0, len(heard_BD), size):
            similarity_BN = heard_BD[start : start + size] @ self.vectors.T
            whole_BC[start : start + size, self.classes] = np.maximum.reduceat(similarity_BN, self.first, axis=1)
        return whole_BC


def _probed(task: Labelled, found: Units) -> Iterator[tuple[str, Method]]:
    """Linear probes fitted on train, their penalty chosen on val; none where there is no train."""
    train, val = found.of("train"), found.of("val")
    labelled = np.asarray(train.present.sum(axis=1)).ravel() > 0
    if not labelled.any():
        return
    if not task.several:
        train = train.where(labelled)
    labels = train.present.toarray() if task.several else train.classes()

    def how_good(logits_VC: np.ndarray) -> float:
        present_VC = val.present.toarray()
        if task.several:
            return detection.cmap(logits_VC, present_VC)
        return float(np.take_along_axis(present_VC, logits_VC.argmax(axis=1)[:, None], axis=1).mean())

    for name, kind in (("probe_before", "base_pooled"), ("probe_after", "student_pooled")):
        fitted = probe.chosen(train.vectors[kind], labels, len(task.classes), val.vectors[kind], how_good)
        yield name, Method(kind, fitted)
