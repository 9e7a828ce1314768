"""The whole evaluation on real recordings and photographs, with a random encoder of BioLingual's size.

Such models know nothing, so every way from a sound to a picture has to come out at chance, for which there is a
formula: a measure that favours anything, the gallery's order, ties or large species, is found out here.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import evaluate, gallery
from songsight.models import student, teacher
from songsight.store import tables
from tests import checkpoints


def table_of(source: Path, target: Path, columns: dict[str, str], split_rows: bool) -> None:
    """A table of songsight's from one of the shared folder's; of each species the last row is `test`, if they split."""
    with open(source, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    last = {row["scientific_name"]: i for i, row in enumerate(rows)}
    made = []
    for i, row in enumerate(rows):
        one = {ours: row[theirs] or None for ours, theirs in columns.items()}
        one["path"] = str(source.parent / row["path"])
        one["split"] = "train" if split_rows and last[row["scientific_name"]] != i else "test"
        made.append(one)
    tables.write_table(str(target), pa.Table.from_pylist(made))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_random_model_of_full_size_is_at_chance(shared: Path, tmp_path: Path, ray_started: None) -> None:
    names = {"scientific_name": "scientific_name", "common_name": "common_name"}
    table_of(shared / "images.csv", tmp_path / "images.parquet", names | {"image_id": "image_id"}, False)
    recording = {"recording_id": "recording_id", "rights_holder": "rights_holder"}
    table_of(shared / "recordings.csv", tmp_path / "recordings.parquet", names | recording, True)

    base = checkpoints.clap(tmp_path / "base", small=False)
    teaches = checkpoints.open_clip_dir(tmp_path / "teacher")
    gallery.main(
        gallery.Options(
            images=str(tmp_path / "images.parquet"),
            teacher=str(teaches),
            out=str(tmp_path / "gallery"),
            actors=1,
        )
    )
    taught_by = teacher.load(str(teaches))
    facts = {"teacher": str(teaches), "teacher_fingerprint": taught_by.fingerprint, "base_model": str(base)}
    student.save(student.from_base(str(base), taught_by.width, **facts), str(tmp_path / "model"), card="")
    del taught_by

    result = evaluate.main(
        evaluate.Options(
            model=str(tmp_path / "model"),
            gallery=str(tmp_path / "gallery"),
            recordings=str(tmp_path / "recordings.parquet"),
            out=str(tmp_path / "evaluation"),
            actors=1,
        )
    )
    assert result["undecodable"] == 0
    assert result["queries"] == 44
    # The formula once more, from the table itself.
    with open(shared / "images.csv", newline="", encoding="utf-8") as handle:
        many = Counter(row["scientific_name"] for row in csv.DictReader(handle))
    size = sum(many.values())
    harmonic = sum(1 / k for k in range(1, size + 1))
    expected = [(p - 1) / (size - 1) + (size - p) / (size - 1) * harmonic / size for p in many.values()]
    assert result["chance_mAP"] == pytest.approx(sum(expected) / len(expected))
    shown = [name for name, count in many.items() for _ in range(count)]
    tested = sorted({row["scientific_name"] for row in pq.read_table(tmp_path / "recordings.parquet").to_pylist()})
    allowed = chance(tested, tested, shown, shown)
    for row in result["table"]:
        for measure, (low, high) in allowed.items():
            assert low <= row[measure] <= high, (row["method"], measure, row[measure], low, high)
    species = {"sound": tested, "picture": shown, "text": sorted(many)}
    for row in result["directions"]:
        label = str.split if row["rank"] == "genus" else str.splitlines
        asks, holds = ([label(name)[0] for name in species[row[side]]] for side in ("query", "gallery"))
        for measure, (low, high) in chance(asks, species[row["query"]], holds, species[row["gallery"]]).items():
            where = (row["query"], row["gallery"], row["rank"], measure)
            assert low <= row[measure] <= high, (where, row[measure], low, high)
    # One of 44 names is right. Four standard errors of so many guesses, and one guess more: few are no bell curve.
    for row in result["encoder"] + result["naming"]:
        for k in (1, 5):
            error = 4 * math.sqrt(k / 44 * (1 - k / 44) / 44) + 1 / 44
            assert row[f"zero_shot_top{k}"] == pytest.approx(k / 44, abs=error), row
    page = tmp_path / "evaluation" / "evaluation.html"
    assert page.stat().st_size > 100_000
    assert [row["method"] for row in json.loads((tmp_path / "evaluation" / "table.json").read_text())] == list(
        result["audio_to_image_mAP"]
    )


def chance(
    asks: list[str], species: list[str], holds: list[str], blocks: list[str], worlds: int = 1000
) -> dict[str, tuple[float, float]]:
    """What each measure comes to by chance, and how far it strays: (low, high) of four standard deviations.

    Rankings are drawn at random in the four ways that models who know nothing can rank: each query its own way or all
    of them alike (vectors of a narrow cone), and the pictures of a species anywhere or side by side (they are of one
    bird). The widest of the four counts.

    Args:
        asks, species: of each query, what it asks for and of which species it is.
        holds, blocks: the same of each item.
        worlds: how many evaluations are drawn.
    """
    rng = np.random.default_rng(0)
    asked, held = np.array(asks), np.array(holds)
    block = np.unique(blocks, return_inverse=True)[1]
    group = np.unique(species, return_inverse=True)[1]
    answers = (held[None, :] == asked[:, None]).sum(axis=1)
    lows, highs = [], []
    for together in (False, True):
        for alike in (False, True):
            found = []
            for _ in range(worlds):
                rows = 1 if alike else len(asked)
                keys = rng.random((rows, len(held)))
                if together:
                    keys = rng.random((rows, block.max() + 1))[:, block] + 1e-9 * keys
                right = held[np.argsort(keys, axis=1)] == asked[:, None]
                places = np.arange(1, len(held) + 1)
                precision = (np.cumsum(right, axis=1) / places * right).sum(axis=1)[answers > 0] / answers[answers > 0]
                first = 1 + right.argmax(axis=1)[answers > 0]
                own = group[answers > 0]
                by_species = np.bincount(own, precision)[np.unique(own)] / np.bincount(own)[np.unique(own)]
                within = [np.mean(first <= k) for k in (1, 5, 10)]
                found.append([precision.mean(), by_species.mean(), *within, np.median(first)])
            middle, error = np.mean(found, axis=0), np.std(found, axis=0)
            lows.append(middle - 4 * error - 1e-9)
            highs.append(middle + 4 * error + 1e-9)
    names = ("mAP", "macro_mAP", "recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
    return dict(zip(names, zip(np.min(lows, axis=0), np.max(highs, axis=0), strict=True), strict=True))
