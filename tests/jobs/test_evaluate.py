from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from distill.errors import UserError
from inference.evaluation import table
from jobs import cli, evaluate, report
from tests.conftest import World

METHODS = [
    "random_projection",
    "text_mapping",
    "text_mapping_uncentred",
    "text_mapping_orthogonal",
    "text_mapping_orthogonal_uncentred",
    "zero_shot_chain",
    "frozen_head",
    "distilled",
    "distilled_bridged",
    "ceiling",
]


@pytest.fixture(scope="module")
def evaluated(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict, Path, str]:
    """What the job returned, where it wrote to, and its MLflow run."""
    out = tmp_path_factory.mktemp("evaluation")
    result = evaluate.main(
        evaluate.Options(
            model=str(model_dir),
            gallery=str(gallery_dir),
            recordings=str(world.recordings),
            out=str(out),
            save_scores=str(out / "scores.npz"),
            k=3,
            resamples=200,
        )
    )
    return result, out, json.loads((out / "evaluation.json").read_text())["run_id"]


def test_the_tables_have_every_baseline_direction_and_interval(evaluated: tuple[dict, Path, str]) -> None:
    result, out, _ = evaluated
    assert list(result["audio_to_image_mAP"]) == METHODS
    assert all(0 < value <= 1 for value in result["audio_to_image_mAP"].values())
    assert result["queries"] == 4
    # Tones of one species are alike to any encoder, and no step was trained: naming the test ones by neighbours works,
    # and the tower before and after is the same.
    assert result["knn_before"] == result["knn_after"] == 1
    rows = json.loads((out / "table.json").read_text())
    assert [row["method"] for row in rows] == METHODS
    for row in rows:
        for measure in table.MEASURES:
            for prefix in ("", "species_"):
                assert row[f"{measure}_{prefix}low"] <= row[measure] <= row[f"{measure}_{prefix}high"]
    assert {row["method"]: row["mAP"] for row in rows} == result["audio_to_image_mAP"]
    with open(out / "table.csv", newline="") as handle:
        assert [float(row["mAP"]) for row in csv.DictReader(handle)] == [row["mAP"] for row in rows]
    assert all(f"| {name} |" in (out / "table.md").read_text() for name in METHODS)
    directions = json.loads((out / "directions.json").read_text())
    assert len({(row["query"], row["gallery"], row["rank"]) for row in directions}) == 18
    assert [row["encoder"] for row in json.loads((out / "encoder.json").read_text())] == ["base", "distilled"]


def test_a_stranger_finds_the_same_figures_in_the_scores(evaluated: tuple[dict, Path, str]) -> None:
    result, out, _ = evaluated
    with np.load(out / "scores.npz") as kept:
        scores, asked, shown = kept["scores"], kept["query_species"], kept["image_species"]
        ids = kept["query_id"]
    assert scores.dtype == np.float32
    assert scores.shape == (len(asked), len(shown)) == (4, 12)
    own = [average_precision_score(shown == name, row) for name, row in zip(asked, scores, strict=True)]
    assert np.mean(own) == pytest.approx(result["audio_to_image_mAP"]["distilled"])
    kept_rows = [row for row in pq.read_table(out / "queries.parquet").to_pylist() if row["method"] == "distilled"]
    assert [row["recording_id"] for row in kept_rows] == ids.tolist()
    assert [row["average_precision"] for row in kept_rows] == pytest.approx(own)


def test_the_run_holds_what_the_folder_holds(evaluated: tuple[dict, Path, str]) -> None:
    result, out, run_id = evaluated
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    assert run.data.metrics["audio_to_image_mAP.distilled"] == result["audio_to_image_mAP"]["distilled"]
    assert run.data.metrics["mAP_low.ceiling"] == result["table"][-1]["mAP_low"]
    assert "mAP.picture.sound.genus" in run.data.metrics
    assert {f"fingerprint.{name}" for name in ("recordings", "photographs", "model", "base", "teacher")} <= set(
        run.data.tags
    )
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run_id))
    kept = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name != "scores.npz")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == kept
    assert {path.name for path in (out / "pictures").iterdir()} >= {"precision_recall.png", "similarity.png"}
    page = (out / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((out / "pictures").iterdir()))
    assert "http" not in page.split("How this was made")[0]  # nothing is fetched


def test_an_evaluation_does_not_differ_from_itself(
    evaluated: tuple[dict, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, run_id = evaluated
    result = evaluate.main(evaluate.Options(compare=(str(out), f"runs:/{run_id}"), out=str(tmp_path), resamples=50))
    assert all(row["difference"] == 0 and row["more_than_noise"] == "no" for row in result["comparison"])
    assert result["recordings"] == 4
    assert "the same in both: ceiling, distilled" in capsys.readouterr().out
    assert json.loads((tmp_path / "comparison.json").read_text()) == result["comparison"]


def test_the_reports_page_takes_the_table_and_nothing_else(evaluated: tuple[dict, Path, str]) -> None:
    result, out, _ = evaluated
    assert report._evaluation(str(out / "table.json")) == result["table"]
    for name in ("evaluation.json", "encoder.json"):
        with pytest.raises(UserError, match=r"should be the table.json"):
            report._evaluation(str(out / name))
    with pytest.raises(UserError, match="not JSON"):
        report._evaluation(str(out / "table.md"))


def test_a_model_that_gives_no_numbers_is_refused(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    from distill import student

    broken = student.load(str(model_dir))
    broken.head.bias.data[0] = float("nan")  # type: ignore[union-attr, index, operator]
    student.save(broken, str(tmp_path / "broken"), card="")
    with pytest.raises(UserError, match=r"--model .*broken: gives vectors that are no finite numbers for 36 of 36 rec"):
        evaluate.main(
            evaluate.Options(model=str(tmp_path / "broken"), gallery=str(gallery_dir), recordings=str(world.recordings))
        )


def test_what_is_missing_or_cannot_be_compared_is_said(
    tmp_path: Path, evaluated: tuple[dict, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="missing --gallery, --recordings"):
        evaluate.main(evaluate.Options(model="m"))
    with pytest.raises(UserError, match="two folders"):
        evaluate.main(evaluate.Options(compare=("a",)))
    with pytest.raises(UserError, match="no evaluation is there"):
        evaluate.main(evaluate.Options(compare=(str(evaluated[1]), str(tmp_path))))
    with pytest.raises(UserError, match="--compare runs:/none: "):
        evaluate.main(evaluate.Options(compare=(str(evaluated[1]), "runs:/none")))
    with pytest.raises(UserError, match="--bridge should be at most 1"):
        evaluate.main(evaluate.Options(bridge=2))
    other = json.loads((evaluated[1] / "evaluation.json").read_text())
    other["fingerprints"]["photographs"] = "others"
    (tmp_path / "evaluation.json").write_text(json.dumps(other))
    (tmp_path / "queries.parquet").write_bytes((evaluated[1] / "queries.parquet").read_bytes())
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "--compare", str(evaluated[1]), str(tmp_path)])
    assert stop.value.code == 2
    assert "different photographs" in capsys.readouterr().err


def test_a_model_of_another_teacher_is_refused(
    world: World, gallery_dir: Path, clap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distill import student

    for width, message in ((16, "vectors of width 48"), (48, "belongs to a teacher with weights other")):
        made = student.from_base(str(clap), width, base_model=str(clap), teacher_fingerprint="other")
        student.save(made, str(tmp_path / str(width)), card="")
        words = ["--model", str(tmp_path / str(width)), "--gallery", str(gallery_dir)]
        with pytest.raises(SystemExit) as stop:
            cli.main(["evaluate", *words, "--recordings", str(world.recordings)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
