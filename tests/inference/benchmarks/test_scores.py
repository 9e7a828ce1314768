"""Scores of units from vectors whose answers are known: no Ray, no model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score

from inference.benchmarks import Labelled, comparison, kept, measure, retrieval, task
from inference.benchmarks import scores as naming
from inference.benchmarks.redraw import Redrawn
from inference.evaluation.measured import Settings
from inference.match.gallery import Gallery
from songsight.metrics import unit
from songsight.store import tables

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
            about = {"path": f"{number}.wav", "start_s": start_s, "end_s": start_s + 5, "unit": f"{number}.wav"}
            about |= {"recording": f"{number}.wav", "recordist": "Ada" if number < 6 else "Bo"}
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


def named(task: Labelled, found: naming.Units, gallery: Gallery | None = None) -> dict[str, dict[str, float]]:
    """The measures of every method."""
    test = found.of("test")
    truth = naming.truth(task, test)
    redrawn = Redrawn(test.recording, 10)
    return {
        name: measure.row(measure.figures(truth, method.scored(task, test), redrawn))
        for name, method in naming.methods(task, found, by_name, by_name, gallery)
    }


def shown_by(names: list[str]) -> Gallery:
    vectors = np.array([direction(name.split()[1]) for name in names], np.float32)
    ranks = dict.fromkeys(tables.RANKS, pa.nulls(len(NAMES), pa.string()))
    about = pa.table({"scientific_name": list(NAMES), "common_name": pa.nulls(len(NAMES), pa.string())} | ranks)
    own = np.array([direction(name.split()[1]) for name in NAMES], np.float32)
    return Gallery({}, pa.table({"scientific_name": names, "split": ["test"] * len(names)}), vectors, about, own)


def test_a_file_is_named_by_the_mean_of_its_windows(benchmark: Labelled) -> None:
    found = naming.units(benchmark, np.arange(len(benchmark.clips)), vectors(benchmark, 1.5))
    test = found.of("test")
    assert test.present.shape == (6, 3)
    assert test.classes().tolist() == [0, 1, 2, 0, 1, 2]
    assert test.names.tolist() == [f"{number}.wav" for number in range(6, 12)]  # in their order, not by name
    clips = vectors(benchmark, 1.5)["student"]
    assert np.allclose(test.vectors["student"][0], (clips[6] + clips[7]) / 2)
    rows = named(benchmark, found)
    assert list(rows) == ["base", "distilled", "probe_before", "probe_after"]
    assert rows["distilled"]["top1"] == rows["base"]["accuracy"] == rows["probe_after"]["top1"] == 1
    late = np.flatnonzero([row["start_s"] > 0 or row["split"] == "train" for row in benchmark.clips.to_pylist()])
    astray = naming.units(benchmark, late, {k: v[late] for k, v in vectors(benchmark, 1.5).items()})
    # A file's second window alone leans to another species.
    scores = astray.of("test").vectors["student"] @ np.array([direction(name.split()[1]) for name in NAMES]).T
    expected = np.mean([np.mean(scores[c::3].argmax(axis=1) == c) for c in range(3)])
    assert named(benchmark, astray)["distilled"]["top1"] == pytest.approx(expected)
    assert expected < 1


def test_undecodable_clips_leave_their_unit_to_the_others(benchmark: Labelled) -> None:
    whole = vectors(benchmark, 0)
    rows = np.delete(np.arange(len(benchmark.clips)), [6, 8, 9])  # a window of one file, both of the next
    found = naming.units(benchmark, rows, {kind: some[rows] for kind, some in whole.items()})
    assert found.of("test").names.tolist() == ["6.wav", "8.wav", "9.wav", "10.wav", "11.wav"]


def test_a_class_without_a_name_is_below_all_others_and_photographs_answer_for_the_rest(benchmark: Labelled) -> None:
    classes = [*benchmark.classes[:2], task.class_row("Strix aluco")]
    assert classes[2]["scientific_name"] is None
    nameless = replace(benchmark, classes=classes)
    found = naming.units(nameless, np.arange(len(benchmark.clips)), vectors(benchmark, 0))
    rows = named(nameless, found, shown_by([*NAMES[:2], "Corvus corax"]))
    for method in ("distilled", "distilled_images"):
        assert rows[method]["top1"] == pytest.approx(2 / 3)
    assert rows["probe_after"]["top1"] == 1


def test_a_class_is_as_near_as_its_nearest_photograph(benchmark: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    found = naming.units(benchmark, np.arange(len(benchmark.clips)), vectors(benchmark, 1.5))
    test = found.of("test")
    rng = np.random.default_rng(0)
    gallery = shown_by([NAMES[i] for i in (2, 0, 0, 2, 1, 0)])
    gallery = replace(gallery, vectors=unit(rng.standard_normal((6, WIDTH))).astype(np.float32))
    method = dict(naming.methods(benchmark, found, by_name, by_name, gallery))["distilled_images"]
    monkeypatch.setattr(naming, "_SCORES_PER_BLOCK", 7)  # blocks of two units, of which photographs take one
    scores = method.scored(benchmark, test).scores_UC
    similarity = test.vectors["student"] @ gallery.vectors.T
    for c, name in enumerate(NAMES):
        assert np.allclose(scores[:, c], similarity[:, gallery.species == name].max(axis=1))


def test_files_find_photographs_in_the_tables_of_any_evaluation(benchmark: Labelled) -> None:
    found = naming.units(benchmark, np.arange(len(benchmark.clips)), vectors(benchmark, 1.5))
    gallery = shown_by([*NAMES[:2], NAMES[0], "Corvus corax"])  # no owl: its two files are no queries
    gallery = replace(gallery, vectors=np.array([direction(w) for w in ("merula", "x", "y", "z")], np.float32))
    assert retrieval.is_query(benchmark, found, gallery).sum() == 4
    models = retrieval.Models(by_name, by_name, 2.0, 2.0)
    evaluation = retrieval.evaluation(benchmark, found, gallery, models, Settings(0.25, 1, 10, 0))
    rows = {row["method"]: row for row in evaluation.table}
    assert {"random_projection", "text_mapping", "zero_shot_chain", "frozen_head", "ceiling"} < set(rows)
    test = found.of("test")
    queries = unit(test.vectors["student"][test.classes() < 2])
    species = np.array(NAMES)[[0, 1, 0, 1]]
    own = [
        average_precision_score(gallery.species == name, row)
        for name, row in zip(species, queries @ gallery.vectors.T, strict=True)
    ]
    assert rows["distilled"]["mAP"] == pytest.approx(np.mean(own))
    assert rows["distilled"]["macro_mAP"] == pytest.approx((np.mean(own[::2]) + np.mean(own[1::2])) / 2)
    assert evaluation.encoder[1]["knn"] == 1


def test_two_runs_are_compared_on_the_units_that_both_have(benchmark: Labelled, tmp_path: Path) -> None:
    runs = []
    for run, (wrong, kept_rows) in enumerate([(3.0, slice(None)), (0.0, slice(0, -2))]):  # the last file is in A alone
        rows = np.arange(len(benchmark.clips))[kept_rows]
        late = rows[[row["start_s"] > 0 or row["split"] == "train" for row in benchmark.clips.take(rows).to_pylist()]]
        found = naming.units(benchmark, late, {kind: some[late] for kind, some in vectors(benchmark, wrong).items()})
        test = found.of("test")
        with kept.archive(str(tmp_path / str(run) / "scores.npz")) as writer:
            kept.begin(writer, benchmark, test, naming.truth(benchmark, test))
            for name, method in naming.methods(benchmark, found, by_name, by_name, None):
                writer.method(name, method.scored(benchmark, test))
        runs.append(kept.part(str(tmp_path / str(run)), "scores.npz", str(tmp_path)))
    rows, counts = comparison.compare(*runs, resamples=50)
    assert counts == {"recordings": 5, "units": 5, "only_a": 1, "only_b": 0}
    by = {(row["method"], row["measure"]): row for row in rows}
    top1 = by["distilled", "accuracy"]
    heard = vectors(benchmark, 3.0)["student"][[7, 9, 11, 13, 15]]
    texts = np.array([direction(name.split()[1]) for name in NAMES])
    right = (heard @ texts.T).argmax(axis=1) == np.array([0, 1, 2, 0, 1])
    assert (top1["a"], top1["b"]) == (pytest.approx(right.mean()), 1)
    assert top1["difference"] == pytest.approx(1 - right.mean())
    same, _ = comparison.compare(runs[0], runs[0], resamples=50)
    for row in same:
        assert row["difference"] == row["difference_low"] == row["difference_high"] == 0
        assert row["more_than_noise"] == "no"
