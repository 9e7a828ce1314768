"""The whole evaluation on real recordings and photographs, with random models of the published sizes.

Such models know nothing, so every way from a sound to a picture has to come out at chance, for which there is a
formula: a measure that favours anything, the gallery's order, ties or large species, is found out here.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from distill import student, tables, teacher
from jobs import evaluate, gallery
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
def test_random_models_of_full_size_are_at_chance(shared: Path, tmp_path: Path, ray_started: None) -> None:
    names = {"scientific_name": "scientific_name", "common_name": "common_name"}
    table_of(shared / "images.csv", tmp_path / "images.parquet", names | {"image_id": "image_id"}, False)
    recording = {"recording_id": "recording_id", "rights_holder": "rights_holder"}
    table_of(shared / "recordings.csv", tmp_path / "recordings.parquet", names | recording, True)

    base = checkpoints.clap(tmp_path / "base", small=False)
    teaches = checkpoints.open_clip_dir(tmp_path / "teacher", "ViT-L-14")
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
    for row in result["table"]:
        assert row["mAP"] == pytest.approx(result["chance_mAP"], abs=four_errors(row)), row["method"]
    for row in result["directions"]:
        where = (row["query"], row["gallery"], row["rank"])
        assert row["mAP"] == pytest.approx(row["chance_mAP"], abs=four_errors(row)), where
    page = tmp_path / "evaluation" / "evaluation.html"
    assert page.stat().st_size > 100_000
    assert [row["method"] for row in json.loads((tmp_path / "evaluation" / "table.json").read_text())] == list(
        result["audio_to_image_mAP"]
    )


def four_errors(row: dict) -> float:
    """Four standard errors, taken from the 95 % interval over species, which spans 3.92 of them."""
    return 4 * (row["mAP_species_high"] - row["mAP_species_low"]) / 3.92
