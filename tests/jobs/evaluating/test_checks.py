"""`songsight evaluate --checks`, as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference.checks import CHECKS
from jobs import cli, evaluate
from jobs.evaluating import checks
from tests.conftest import World


def test_all_checks_leave_their_tables(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    out = tmp_path / "out"
    (tmp_path / "synonyms.csv").write_text("scientific_name,synonym\nParus major,Cyanistes major\n")
    (tmp_path / "trained.csv").write_text("scientific_name\nTurdus merula\nStrix aluco\n")
    options = evaluate.Options(
        model=str(model_dir),
        gallery=str(gallery_dir),
        recordings=str(world.recordings),
        out=str(out),
        k=3,
        resamples=20,
        checks=("all",),
        synonyms=str(tmp_path / "synonyms.csv"),
        trained_on=str(tmp_path / "trained.csv"),
    )
    result = evaluate.main(options)
    said = capsys.readouterr().out
    assert list(result["checks"]) == [*checks.HEADINGS]
    for name, heading in checks.HEADINGS.items():
        kept = json.loads((out / f"{name}.json").read_text())
        assert len(kept) == len(result["checks"][name])
        assert (out / f"{name}.csv").is_file()
        assert heading in said
    clean, *damaged = result["checks"]["robustness"]
    assert len(damaged) == 9
    assert clean["mAP"] == result["audio_to_image_mAP"]["distilled"]
    # 16 kHz is the encoder's own rate: nothing is lost, and embedding again gives the same vectors.
    (own_rate,) = (row for row in damaged if row["recordings"] == "sampled at 16 kHz")
    assert own_rate["mAP_lost"] == own_rate["top1_lost"] == 0
    groups = {(row["species"], row["rank"]): row["queries"] for row in result["checks"]["unseen"]}
    assert groups["heard in training", "species"] == groups["never heard", "species"] == 2
    renamed = {row["vocabulary"]: row["renamed_species"] for row in result["checks"]["renamed"]}
    assert renamed == {"as it is": 0, "synonyms": 1, "swapped genera": 4}
    (last,) = mlflow.search_runs(
        search_all_experiments=True, order_by=["start_time DESC"], max_results=1, output_format="list"
    )
    assert "robustness.mAP.MP3 32 kbit/s" in last.data.metrics
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(last.info.run_id)}
    assert {"unseen.json", "text_types.md", "confusable_pairs.csv", "evaluation.html"} <= files


def test_every_check_is_offered() -> None:
    assert tuple(CHECKS) == checks.NAMES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--checks", "robust"), "no check 'robust' (checks: text-types, confusable,"),
        (("--synonyms", "s.csv"), "--synonyms is for --checks renamed"),
        (("--checks", "unseen,renamed", "--trained-on", "nowhere.csv"), "--trained-on: no such file: nowhere.csv"),
        (("--checks", "unseen"), "has no rows whose split is train; --trained-on names the table"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "r.csv"
    table.write_text("path,scientific_name,split\na.wav,Parus major,test\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "--model", "m", "--gallery", "g", "--recordings", str(table), *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
