"""Names a benchmark's clips in every way there is: one score a unit and class.

    base                what the base model's text tower says, the mean of its scientific and common names' embeddings
    distilled           the teacher's text of each class (`taxon_com`)
    distilled_images    the most similar photograph of each class, where there is a gallery
    probe_before, probe_after   a linear probe on the base model's pooled embedding, and on the student's

A unit's vector is the mean of its clips' unit vectors: its score for a text is then the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill import prompts
from distill.metrics import detection, retrieval, unit
from inference.benchmarks import measure, probe
from inference.benchmarks.task import Labelled
from inference.gallery import Gallery

_BELOW = -2.0  # any cosine
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Units:
    """The units of a benchmark that could be decoded.

    Attributes:
        split: of each, [units].
        present: bool [units, classes].
        vectors: by `embedding.KINDS`, float32 [units, width].
    """

    split: np.ndarray
    present: np.ndarray
    vectors: dict[str, np.ndarray]

    def of(self, split: str) -> Units:
        """Those of a split."""
        keep = self.split == split
        return Units(self.split[keep], self.present[keep], {kind: some[keep] for kind, some in self.vectors.items()})


def units(task: Labelled, rows: np.ndarray, vectors: Mapping[str, np.ndarray]) -> Units:
    """Gathers clips into units.

    Args:
        task: the benchmark.
        rows: rows of `task.clips` that could be decoded, int64 [clips].
        vectors: by `embedding.KINDS`, float32 [clips, width].
    """
    taken = task.clips.take(rows)
    numbers, first_U, unit_of_clip = np.unique(
        np.array(taken["unit"].to_pylist()), return_index=True, return_inverse=True
    )
    many_U1 = np.bincount(unit_of_clip, minlength=len(numbers))[:, None]
    gathered = {}
    for kind, own in vectors.items():
        sums = np.zeros((len(numbers), own.shape[1]), np.float64)
        np.add.at(sums, unit_of_clip, unit(own) if kind in ("base_joint", "student") else own)
        gathered[kind] = (sums / many_U1).astype(np.float32)
    place = {row["label"]: number for number, row in enumerate(task.classes)}
    present = np.zeros((len(numbers), len(task.classes)), bool)
    splits, labels = taken["split"].to_pylist(), taken["labels"].to_pylist()
    for number, clip in enumerate(first_U):
        present[number, [place[label] for label in labels[clip] if label in place]] = True
    return Units(np.array([splits[clip] for clip in first_U], dtype=object), present, gathered)


def rows(
    task: Labelled, found: Units, base_text: Embed, teacher_text: Embed, gallery: Gallery | None, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a method: `method`, the measures of `measure` with intervals, `units` and `classes`.

    Args:
        task: the benchmark.
        found: its units.
        base_text, teacher_text: texts to float32 [texts, width].
        gallery: of the teacher's; its `test` photographs are asked for, all where it knows no such split.
        seed: of the bootstrap.
    """
    test = found.of("test")
    averaged_C = np.array([task.averaged is None or row["label"] in task.averaged for row in task.classes])
    averaged_C &= test.present.any(axis=0) | task.several

    def measured(scores_UC: np.ndarray) -> dict[str, Any]:
        if task.several:
            return measure.several(scores_UC, test.present, task.absent_counts, seed)
        return measure.single(scores_UC, test.present.argmax(axis=1), averaged_C, seed)

    made = [{"method": "chance"} | measure.chance(test.present, task.several, averaged_C, task.absent_counts)]
    made += [
        {"method": name} | measured(scores_UC)
        for name, scores_UC in (_asked(task, test, base_text, teacher_text, gallery) | _probed(task, found)).items()
    ]
    if gallery is not None and not task.several:
        by_row = {row["method"]: row for row in made}
        by_row["distilled"] |= _retrieval(task, test, gallery, seed)
    counts = {"units": len(test.split), "classes": int(test.present.any(axis=0).sum())}
    return [row | counts for row in made]


def _asked(
    task: Labelled, test: Units, base_text: Embed, teacher_text: Embed, gallery: Gallery | None
) -> dict[str, np.ndarray]:
    """Scores by text and by photograph; a class that cannot be asked for scores below all that can."""
    named = np.flatnonzero([row["scientific_name"] is not None for row in task.classes])
    if not len(named):
        return {}
    rows = [task.classes[c] for c in named]
    texts = {kind: [prompts.text(row, kind) for row in rows] for kind in ("sci", "com", "taxon_com")}
    base_CB = unit(unit(base_text(texts["sci"])) + unit(base_text(texts["com"])))
    scores = {
        "base": test.vectors["base_joint"] @ base_CB.T,
        "distilled": test.vectors["student"] @ teacher_text(texts["taxon_com"]).T,
    }
    if gallery is not None:
        photographs = gallery.of_split("test")
        heard_UD = test.vectors["student"]
        shown = [photographs.vectors[photographs.species == row["scientific_name"]] for row in rows]
        # A class at a time: all units × all photographs would not fit.
        best = [(heard_UD @ own.T).max(axis=1) if len(own) else np.full(len(heard_UD), _BELOW) for own in shown]
        if any(len(own) for own in shown):
            scores["distilled_images"] = np.stack(best, axis=1)
    whole = {}
    for name, some in scores.items():
        whole[name] = np.full((len(some), len(task.classes)), _BELOW, np.float32)
        whole[name][:, named] = some
    return whole


def _probed(task: Labelled, found: Units) -> dict[str, np.ndarray]:
    """Scores of linear probes fitted on train, their penalty chosen on val; none where there is no train."""
    train, val, test = (found.of(split) for split in ("train", "val", "test"))
    usable = train.present.any(axis=1) | task.several
    if not usable.any() or not train.present.any():
        return {}

    def how_good(logits_VC: np.ndarray) -> float:
        if task.several:
            return detection.cmap(logits_VC, val.present)
        return float(np.take_along_axis(val.present, logits_VC.argmax(axis=1)[:, None], axis=1).mean())

    scores = {}
    for name, kind in (("probe_before", "base_pooled"), ("probe_after", "student_pooled")):
        vectors, present = train.vectors[kind][usable], train.present[usable]
        strength = probe.chosen(vectors, present, val.vectors[kind], task.several, how_good)
        scores[name] = probe.logits(vectors, present, test.vectors[kind], task.several, strength)
    return scores


def _retrieval(task: Labelled, test: Units, gallery: Gallery, seed: int) -> dict[str, Any]:
    """How well a unit's sound finds its species' photographs: mAP, the mean over species of each one's mean."""
    photographs = gallery.of_split("test")
    names = np.array([row["scientific_name"] or "" for row in task.classes], dtype=object)
    species = names[test.present.argmax(axis=1)]
    found = retrieval.retrieve(unit(test.vectors["student"]), photographs.vectors, species, photographs.species)
    return measure.with_interval("audio_to_image_mAP", found.average_precision, species, "macro", seed)
