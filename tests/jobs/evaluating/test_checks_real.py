"""The checks and a soundscape on real recordings, with a random encoder: all is at chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import evaluate, gallery
from songsight.metrics.retrieval import average_precision, chance_average_precision
from songsight.models import student, teacher
from tests import checkpoints
from tests.jobs.evaluating.test_evaluate_real import table_of

PERMUTATIONS = 20000


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_random_models_are_at_chance_in_every_check(shared: Path, tmp_path: Path, ray_started: None) -> None:
    names = {"scientific_name": "scientific_name", "common_name": "common_name"}
    table_of(shared / "images.csv", tmp_path / "images.parquet", names | {"image_id": "image_id"}, False)
    table_of(shared / "recordings.csv", tmp_path / "recordings.parquet", names | {"recording_id": "recording_id"}, True)
    base = checkpoints.clap(tmp_path / "base")
    teaches = checkpoints.open_clip_dir(tmp_path / "teacher")
    gallery.main(
        gallery.Options(
            images=str(tmp_path / "images.parquet"), teacher=str(teaches), out=str(tmp_path / "gallery"), actors=1
        )
    )
    taught_by = teacher.load(str(teaches))
    facts = {"teacher": str(teaches), "teacher_fingerprint": taught_by.fingerprint, "base_model": str(base)}
    torch.manual_seed(0)
    student.save(student.from_base(str(base), taught_by.width, **facts), str(tmp_path / "model"), card="")

    result = evaluate.main(
        evaluate.Options(
            model=str(tmp_path / "model"),
            gallery=str(tmp_path / "gallery"),
            recordings=str(tmp_path / "recordings.parquet"),
            save_scores=str(tmp_path / "scores.npz"),
            checks=("all",),
            actors=1,
        )
    )
    kept = np.load(tmp_path / "scores.npz")
    within_permutations(kept["scores"], kept["query_species"], kept["image_species"], result)

    checked = result["checks"]
    for row in checked["unseen"]:
        assert row["queries"] > 5
        within(row, "mAP", row["chance_mAP"])
    for table in ("text_types", "renamed"):
        for row in checked[table]:
            within_binomial(row["zero_shot_top1"], 1 / 44, 44)
            within_binomial(row["zero_shot_top5"], 5 / 44, 44)
    for row in checked["confusable"]:
        within_binomial(row["accuracy"], row["chance"], row["queries"])
    assert len(checked["robustness"]) == 10
    for row in checked["robustness"]:
        assert row["mAP"] == pytest.approx(result["chance_mAP"], abs=0.06), row["recordings"]

    out = tmp_path / "soundscape"
    taxa = tmp_path / "taxa.csv"
    taxa.write_text("scientific_name,species_code\nSynallaxis spixi,SP\nCranioleuca erythrops,CRER\n")
    folder = shared / "soundscapes" / "scikit-maad"
    evaluate.main(
        evaluate.Options(
            model=str(tmp_path / "model"),
            data=str(folder),
            annotations=str(folder / "spinetail.txt"),
            taxonomy=str(taxa),
            window_s=1,
            out=str(out),
            actors=1,
        )
    )
    rows = json.loads((out / "table.json").read_text())
    assert [row["method"] for row in rows] == ["chance", "base", "distilled"]
    assert rows[0]["classes"] == 2
    assert rows[0]["units"] == 20


def within_permutations(scores_QN: np.ndarray, asked: np.ndarray, shown: np.ndarray, result: dict) -> None:
    """The mAP lies where it would with the recordings' names dealt out anew, whose mean is the formula's."""
    names = np.unique(asked)
    precision_QS = np.stack(
        [average_precision(scores_QN, np.broadcast_to(shown == name, scores_QN.shape)) for name in names], axis=1
    )
    own = np.searchsorted(names, asked)
    rng = np.random.default_rng(0)
    dealt = np.array([precision_QS[np.arange(len(own)), rng.permutation(own)].mean() for _ in range(PERMUTATIONS)])
    low, high = np.percentile(dealt, [0.05, 99.95])
    observed = precision_QS[np.arange(len(own)), own].mean()
    assert observed == pytest.approx(result["audio_to_image_mAP"]["distilled"])
    assert low < observed < high
    answers = np.array([(shown == name).sum() for name in asked])
    expected = float(np.mean(chance_average_precision(answers, len(shown))))
    assert result["chance_mAP"] == pytest.approx(expected)
    # Any scores at all, with the names dealt out, are near to the formula: all that is left is which photographs win.
    assert dealt.mean() == pytest.approx(expected, abs=0.02)


def within(row: dict, measure: str, chance: float) -> None:
    """Four standard errors, taken from the interval over species, which spans 3.92 of them."""
    error = (row[f"{measure}_species_high"] - row[f"{measure}_species_low"]) / 3.92
    assert row[measure] == pytest.approx(chance, abs=4 * error), row


def within_binomial(share: float, chance: float, queries: int) -> None:
    """Four standard errors of so many guesses, and one guess more: few guesses are no bell curve."""
    assert share == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / queries) + 1 / queries)
