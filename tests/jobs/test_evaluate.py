from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from inference.evaluation import baselines, table
from inference.match import gallery
from jobs import cli, evaluate, report
from songsight.errors import UserError
from songsight.store import tables
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
    assert result["queries"] == result["test_recordings"] == 4
    # Tones of one species are alike to any encoder, and no step was trained: naming the test ones by neighbours works,
    # and the tower before and after is the same.
    assert result["knn_before"] == result["knn_after"] == 1
    rows = json.loads((out / "table.json").read_text())
    assert [row["method"] for row in rows] == METHODS
    for row in rows:
        for measure in table.MEASURES:
            # Four recordings of four species are too few for any interval; tests/inference has those of more.
            assert row[f"{measure}_low"] is row[f"{measure}_species_high"] is None
        assert (row["ridge"] in baselines.RIDGES) == (row["method"] in ("text_mapping", "text_mapping_uncentred"))
    assert {row["method"]: row["mAP"] for row in rows} == result["audio_to_image_mAP"]
    with open(out / "table.csv", newline="") as handle:
        assert [float(row["mAP"]) for row in csv.DictReader(handle)] == [row["mAP"] for row in rows]
    assert all(f"| {name} |" in (out / "table.md").read_text() for name in METHODS)
    directions = json.loads((out / "directions.json").read_text())
    assert len({(row["query"], row["gallery"], row["rank"]) for row in directions}) == 18
    encoders = json.loads((out / "encoder.json").read_text())
    assert [(row["encoder"], row["texts"]) for row in encoders] == [
        ("base", "mean of sci and com"),
        ("distilled", "taxon_com"),
    ]
    naming = json.loads((out / "naming.json").read_text())
    assert [(row["encoder"], row["text_type"]) for row in naming] == [
        (name, kind) for name in ("base", "distilled") for kind in ("sci", "com", "taxon", "sci_com", "taxon_com")
    ]


def test_each_method_comes_to_what_a_stranger_computes(
    evaluated: tuple[dict, Path, str], world: World, gallery_dir: Path
) -> None:
    """The ceiling from the gallery alone, and each row's measures from each query's own result."""
    result, out, _ = evaluated
    shown = gallery.read(str(gallery_dir))
    tested = ["Turdus merula", "Turdus philomelos", "Parus major", "Strix aluco"]
    names = shown.names["scientific_name"].to_pylist()
    own = [
        average_precision_score(shown.species == name, shown.vectors @ shown.name_vectors[names.index(name)])
        for name in tested
    ]
    assert result["audio_to_image_mAP"]["ceiling"] == pytest.approx(np.mean(own))
    kept = pq.read_table(out / "queries.parquet").to_pandas()
    for row in result["table"]:
        mine = kept[kept["method"] == row["method"]]
        rank = mine["first_rank"].to_numpy()
        assert row["mAP"] == pytest.approx(mine["average_precision"].mean())
        assert row["macro_mAP"] == pytest.approx(mine.groupby("scientific_name")["average_precision"].mean().mean())
        assert row["median_rank"] == np.median(rank)
        assert [row[f"recall_at_{k}"] for k in (1, 5, 10)] == [np.mean(rank <= k) for k in (1, 5, 10)]
    wide = pq.read_table(out / "by_recording.parquet").to_pandas()
    for row in result["encoder"]:
        for measure in ("zero_shot_top1", "zero_shot_top5", "knn", "linear_probe", "brier"):
            assert row[measure] == pytest.approx(wide[f"{measure}.{row['encoder']}"].mean())
    assert wide["recording_id"].tolist() == kept[kept["method"] == "ceiling"]["recording_id"].tolist()


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
    # Ranks by NumPy alone: of four queries the median is the mean of two.
    ranks = [
        1 + (row[shown != name] >= row[shown == name].max()).sum() for name, row in zip(asked, scores, strict=True)
    ]
    (distilled,) = (row for row in result["table"] if row["method"] == "distilled")
    assert distilled["median_rank"] == np.median(ranks)
    assert distilled["recall_at_1"] == np.mean(np.array(ranks) <= 1)


def test_the_run_holds_what_the_folder_holds(evaluated: tuple[dict, Path, str]) -> None:
    result, out, run_id = evaluated
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    assert run.data.metrics["audio_to_image_mAP.distilled"] == result["audio_to_image_mAP"]["distilled"]
    assert run.data.metrics["median_rank.ceiling"] == result["table"][-1]["median_rank"]
    assert run.data.metrics["zero_shot_top5.distilled.sci"] == 1  # of four species
    assert run.data.metrics["ridge.text_mapping"] in baselines.RIDGES
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
    assert all(row["difference"] == 0 for row in result["comparison"])
    assert {row["more_than_noise"] for row in result["comparison"]} == {"too few"}
    assert {row["measure"] for row in result["comparison"] if row["table"] == "encoder"} == {
        "zero_shot_top1",
        "zero_shot_top5",
        "knn",
        "linear_probe",
        "brier",
    }
    assert {row["table"] for row in result["comparison"]} == {"table", "directions", "encoder", "naming"}
    assert result["recordings"] == 4
    said = capsys.readouterr().out
    assert "the same in both: ceiling, distilled" in said
    assert "the same in both (encoder): base; distilled" in said
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["difference"] for row in kept] == [row["difference"] for row in result["comparison"]]


def test_recordings_without_photographs_ask_all_that_can_be_answered(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two test recordings are of a blackbird's congener that the gallery has never heard of, one row has no split."""
    rows = pq.read_table(world.recordings).to_pylist()
    tests = [row for row in rows if row["split"] == "test"]
    for number, row in enumerate(tests[:2]):
        rows.append(
            dict(row)
            | {"recording_id": f"new-{number}", "scientific_name": "Turdus novus", "common_name": "New Thrush"}
        )
    rows.append(dict(rows[0]) | {"recording_id": "nowhere", "split": None})
    for row in rows:
        row["path"] = str(world.folder / row["path"])
    tables.write_table(str(tmp_path / "recordings.parquet"), pa.Table.from_pylist(rows))
    taxa = tmp_path / "taxa.csv"
    taxa.write_text(
        "scientific_name,family\nTurdus merula,Turdidae\nTurdus philomelos,Turdidae\nTurdus novus,Turdidae\n"
    )
    result = evaluate.main(
        evaluate.Options(
            model=str(model_dir),
            gallery=str(gallery_dir),
            recordings=str(tmp_path / "recordings.parquet"),
            taxonomy=str(taxa),
            out=str(tmp_path / "out"),
            save_scores=str(tmp_path / "scores.npz"),
            resamples=20,
            checks=("confusable,unseen,text-types",),
        )
    )
    said = capsys.readouterr()
    assert "2 of 6 recordings are of species that no photograph shows" in said.out
    assert "1 rows without a split, beside rows that have one, left out" in said.out
    assert "2 species are not in" in said.err  # of Parus and Strix the taxonomy knows nothing
    assert result["without_split"] == 1
    assert result["test_recordings"] == 6
    assert result["queries"] == 4
    assert result["queries_without_species_in_gallery"] == 2
    assert {row["queries"] for row in result["table"]} == {4}
    found = {(row["query"], row["gallery"], row["rank"]): row for row in result["directions"]}
    assert found["sound", "picture", "species"]["queries"] == 4
    assert found["sound", "picture", "genus"]["queries"] == 6
    assert found["sound", "picture", "family"]["queries"] == 5  # four thrushes by the taxonomy, the tit by its own row
    assert found["sound", "text", "species"]["queries"] == 6
    assert found["sound", "text", "species"]["items"] == 5
    assert found["text", "sound", "species"]["queries"] == 5
    assert found["picture", "sound", "species"]["items"] == 6
    with np.load(tmp_path / "scores.npz") as kept:
        assert kept["scores"].shape == (4, 12)
        assert "Turdus novus" not in kept["query_species"]
    wide = pq.read_table(tmp_path / "out" / "by_recording.parquet").to_pandas().set_index("recording_id")
    assert len(wide) == 6
    assert wide.loc["new-0", "knn.base"] == 0  # no training recording is of it
    assert np.isnan(wide.loc["new-0", "average_precision.sound.picture.species"])
    assert wide.loc["new-0", "average_precision.sound.picture.genus"] > 0
    # The same texts, asked in the evaluation and in the check.
    by_type = {(row["text_type"], row["encoder"]): row["zero_shot_top1"] for row in result["naming"]}
    assert by_type == {
        (row["text_type"], row["model"]): row["zero_shot_top1"] for row in result["checks"]["text_types"]
    }
    # With the checks behind them, the files that hold everything.
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(whole["checks"]) == list(result["checks"])
    assert whole["checks"]["unseen"][0]["mAP"] == result["checks"]["unseen"][0]["mAP"]
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Check: species that are taken for each other" in page
    assert "2 of the recordings are of species that no photograph shows" in page
    folder = Path(mlflow.artifacts.download_artifacts(run_id=whole["run_id"]))
    assert (folder / "evaluation.html").read_text() == page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "x"), "--data is not for --recordings: it is for --benchmark or --annotations"),
        (("--parts", "x"), "--parts is not for --recordings"),
        (("--species-column", "x"), "--species-column is not for --recordings"),
        (("--window-s", "3"), "--window-s is not for --recordings"),
        (("--hop-s", "3"), "--hop-s is not for --recordings"),
        (("--taxonomy", "nowhere.csv"), "nowhere.csv"),
        (("--taxonomy", "OTHER"), "has none of the species of the recordings and the gallery"),
        (("--checks", "renamed", "--synonyms", "OTHER"), "--synonyms: "),
        (("--out", "FILE/x"), "is a file; give a folder"),
        (("--save-scores", "FILE/x.npz"), "is a file; give a folder"),
        (("--save-scores", "FOLDER"), "is a folder; give a file"),
    ],
)
def test_what_would_be_ignored_or_fail_late_is_refused_at_once(
    words: tuple[str, ...],
    message: str,
    world: World,
    gallery_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other.csv").write_text("scientific_name,family,synonym\nCorvus corax,Corvidae,Corax corax\n")
    places = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path), "OTHER": str(tmp_path / "other.csv")}
    for name, place in places.items():
        words = tuple(word.replace(name, place) for word in words)
    begin = ["evaluate", "--model", "none", "--gallery", str(gallery_dir), "--recordings", str(world.recordings)]
    with pytest.raises(SystemExit) as stop:
        cli.main([*begin, *words])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("error:") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "option", ["model", "gallery", "recordings", "checks", "k", "bridge", "save_scores", "taxonomy"]
)
def test_compare_refuses_what_it_would_ignore(option: str) -> None:
    values = {"checks": ("all",), "k": 3, "bridge": 0.5}
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} is not for --compare"):
        evaluate.main(evaluate.Options(compare=("a", "b"), **{option: values.get(option, "x")}))


@pytest.mark.parametrize("text", ["", '{"fingerprints": {"phot', "[]", "{}", '{"fingerprints": {"photographs": "p"}}'])
def test_a_broken_evaluation_is_refused_in_one_line(
    text: str, evaluated: tuple[dict, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    (tmp_path / "queries.parquet").write_bytes((evaluated[1] / "queries.parquet").read_bytes())
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "--compare", str(evaluated[1]), str(tmp_path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "evaluation.json" in said
    assert len(said.strip().splitlines()) == 1


def test_a_truncated_table_of_an_evaluation_is_refused(evaluated: tuple[dict, Path, str], tmp_path: Path) -> None:
    for name in ("evaluation.json", "queries.parquet", "by_recording.parquet"):
        (tmp_path / name).write_bytes((evaluated[1] / name).read_bytes())
    for name in ("by_recording.parquet", "queries.parquet"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
        with pytest.raises(UserError, match=f"{name} is not a readable"):
            evaluate.main(evaluate.Options(compare=(str(evaluated[1]), str(tmp_path))))


def test_the_reports_page_takes_the_table_and_nothing_else(evaluated: tuple[dict, Path, str]) -> None:
    result, out, _ = evaluated
    found = report._evaluation(str(out / "table.json"))
    assert [row["mAP"] for row in found] == [row["mAP"] for row in result["table"]]
    for name in ("evaluation.json", "encoder.json"):
        with pytest.raises(UserError, match=r"should be the table.json"):
            report._evaluation(str(out / name))
    with pytest.raises(UserError, match="not JSON"):
        report._evaluation(str(out / "table.md"))


def test_a_model_that_gives_no_numbers_is_refused(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    from songsight.models import student

    broken = student.load(str(model_dir))
    broken.head.bias.data[0] = float("nan")  # type: ignore[union-attr, index, operator]
    student.save(broken, str(tmp_path / "broken"), card="")
    with pytest.raises(UserError, match=r"--model .*broken: gives vectors that are no finite numbers for 36 of 36 rec"):
        evaluate.main(
            evaluate.Options(model=str(tmp_path / "broken"), gallery=str(gallery_dir), recordings=str(world.recordings))
        )


@pytest.mark.parametrize("split", [["test"], ["test", "train"]])
def test_recordings_that_cannot_be_decoded_are_said(
    split: list[str],
    world: World,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row for row in pq.read_table(world.recordings).to_pylist() if row["split"] in split]
    (tmp_path / "notes.wav").write_text("batteries changed")
    for row in rows:
        row["path"] = str(tmp_path / "notes.wav" if row["split"] == "test" else world.folder / row["path"])
    at = tmp_path / "recordings.parquet"
    tables.write_table(str(at), pa.Table.from_pylist(rows))
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "--model", str(model_dir), "--gallery", str(gallery_dir), "--recordings", str(at)])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"songsight evaluate: error: --recordings: none of the test recordings of {at} can be decoded"


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
    from songsight.models import student

    for width, message in ((16, "vectors of width 48"), (48, "belongs to a teacher with weights other")):
        made = student.from_base(str(clap), width, base_model=str(clap), teacher_fingerprint="other")
        student.save(made, str(tmp_path / str(width)), card="")
        words = ["--model", str(tmp_path / str(width)), "--gallery", str(gallery_dir)]
        with pytest.raises(SystemExit) as stop:
            cli.main(["evaluate", *words, "--recordings", str(world.recordings)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
