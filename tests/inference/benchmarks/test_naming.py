"""Scores of units from vectors whose answers are known: no Ray, no model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from distill.metrics import unit
from inference.benchmarks import Labelled, naming, task
from inference.gallery import Gallery

NAMES = ("Turdus merula", "Parus major", "Strix aluco")
WIDTH = 8


def direction(word: str) -> np.ndarray:
    return unit(np.random.default_rng(list(word.encode())).standard_normal((1, WIDTH)))[0]


def by_name(texts: list[str]) -> np.ndarray:
    """A text tower that hears the epithet alone."""
    epithets = [next(word for name in NAMES for word in [name.split()[1]] if word in text) for text in texts]
    return np.array([direction(word) for word in epithets], np.float32)


@pytest.fixture
def benchmark() -> Labelled:
    clips = []
    for number, split in enumerate(["train"] * 6 + ["test"] * 6):
        # A test file is two windows, one of which is not heard right: see `vectors`.
        for start_s in (0.0, 5.0) if split == "test" else (0.0,):
            about = {"path": f"{number}.wav", "start_s": start_s, "end_s": start_s + 5, "unit": number}
            clips.append(about | {"labels": [NAMES[number % 3]], "split": split})
    classes = [task.class_row(name) | {"scientific_name": name} for name in NAMES]
    return Labelled("birds", task.clips(clips), classes, several=False)


def vectors(benchmark: Labelled, wrong: float) -> dict[str, np.ndarray]:
    """Each clip lies at its species; the second window of a file leans to another one's."""
    rows = benchmark.clips.to_pylist()
    own = np.array([direction(row["labels"][0].split()[1]) for row in rows])
    other = np.roll(np.array([direction(name.split()[1]) for name in NAMES]), 1, axis=0)
    astray = np.array([other[NAMES.index(row["labels"][0])] for row in rows])
    late = np.array([row["start_s"] > 0 for row in rows])
    heard = unit(np.where(late[:, None], own + wrong * astray, own)).astype(np.float32)
    return dict.fromkeys(("base_pooled", "base_joint", "student_pooled", "student"), heard)


def test_a_file_is_named_by_the_mean_of_its_windows(benchmark: Labelled) -> None:
    found = naming.units(benchmark, np.arange(len(benchmark.clips)), vectors(benchmark, 1.5))
    test = found.of("test")
    assert test.present.shape == (6, 3)
    assert test.present.argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]
    rows = {row["method"]: row for row in naming.rows(benchmark, found, by_name, by_name, None)}
    assert list(rows) == ["chance", "base", "distilled", "probe_before", "probe_after"]
    assert rows["distilled"]["top1"] == rows["base"]["accuracy"] == rows["probe_after"]["top1"] == 1
    assert rows["chance"]["top1"] == pytest.approx(1 / 3)
    late = np.flatnonzero([row["start_s"] > 0 or row["split"] == "train" for row in benchmark.clips.to_pylist()])
    astray = naming.units(benchmark, late, {k: v[late] for k, v in vectors(benchmark, 1.5).items()})
    assert {row["method"]: row for row in naming.rows(benchmark, astray, by_name, by_name, None)}["distilled"][
        "top1"
    ] < 1


def test_undecodable_clips_leave_their_unit_to_the_others(benchmark: Labelled) -> None:
    whole = vectors(benchmark, 0)
    rows = np.delete(np.arange(len(benchmark.clips)), [6, 8, 9])  # a window of one file, both of the next
    found = naming.units(benchmark, rows, {kind: some[rows] for kind, some in whole.items()})
    assert len(found.of("test").split) == 5


def test_a_class_without_a_name_is_below_all_others_and_photographs_answer_for_the_rest(benchmark: Labelled) -> None:
    classes = [*benchmark.classes[:2], task.class_row("Strix aluco")]
    assert classes[2]["scientific_name"] is None
    nameless = replace(benchmark, classes=classes)
    found = naming.units(nameless, np.arange(len(benchmark.clips)), vectors(benchmark, 0))
    shown = np.array([direction("merula"), direction("major"), direction("nobody")], np.float32)
    images = pa.table({"scientific_name": [*NAMES[:2], "Corvus corax"], "split": ["test"] * 3})
    gallery = Gallery({}, images, shown, pa.table({"scientific_name": list(NAMES)}), shown)
    rows = {row["method"]: row for row in naming.rows(nameless, found, by_name, by_name, gallery)}
    for method in ("distilled", "distilled_images"):
        assert rows[method]["top1"] == pytest.approx(2 / 3)
    # Both blackbird files find the only blackbird first; the owl has no photograph, and is no query.
    assert rows["distilled"]["audio_to_image_mAP"] == 1
    assert rows["probe_after"]["top1"] == 1
