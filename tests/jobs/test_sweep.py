from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest

from jobs import cli, sweep
from jobs.shared import tracking
from songsight.errors import UserError
from songsight.models import student
from tests.conftest import World
from tests.servers import kill_all_of

PAIR = ["text_types=sci:1,com:1|taxon:1", "lr=1e-4,3e-4"]


def options(world: World, clap: Path, teacher_dir: Path, out: Path, **more: object) -> sweep.Options:
    return sweep.Options(
        recordings=str(world.recordings),
        teacher=str(teacher_dir),
        student=str(clap),
        out=str(out),
        batch_size=8,
        register_as="songsight-sweep",
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_a_sweep_is_one_table_of_runs(
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    ray_started: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A trial that fails and one that trains behind it; relative paths, as people type them."""
    monkeypatch.chdir(tmp_path)
    tries = (f"student=/no/such/student,{clap}", "epochs=2,0")
    swept = sweep.main(options(world, clap, teacher_dir, Path("swept"), set=tries, concurrent=1, seed=1))
    best, worse, failed, _ = swept
    assert not best["error"]
    assert not worse["error"]
    assert best["val_text_mAP"] >= worse["val_text_mAP"]
    assert failed["error"] == "--student /no/such/student: no such folder"
    assert "val_text_mAP" not in failed
    student.load(str(tmp_path / "swept" / best["out"]))

    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    experiment = client.get_experiment_by_name("songsight-sweep")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert parents[0].data.metrics["failed"] == 2
    # Each trial registered a version; not the last but the best is the candidate.
    registered = client.get_registered_model("songsight-sweep")
    assert client.get_model_version("songsight-sweep", registered.aliases["candidate"]).run_id == best["run_id"]
    child = client.get_run(best["run_id"])
    assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert child.info.status == "FINISHED"
    assert child.data.params["seed"] == "1"
    assert child.data.metrics["val_text_mAP"] == best["val_text_mAP"]
    said = capsys.readouterr().out
    logged = Path(client.download_artifacts(parents[0].info.run_id, "table.md", str(tmp_path))).read_text()
    assert logged in said
    assert "failed: --student /no/such/student" in logged


@pytest.mark.slow
def test_a_killed_sweep_goes_on_under_its_run(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    """Killed in its second trial: the first is not trained again, and the table is that of one sweep.

    What goes on is a version with another default.
    """

    @dataclass(frozen=True)
    class Later(sweep.Options):
        objective: Any = "masked"

    out = tmp_path / "swept"
    planned = options(world, clap, teacher_dir, out, set=("lr=1e-4,3e-4",), concurrent=1, epochs=4)
    words = ["--recordings", planned.recordings, "--teacher", planned.teacher, "--student", planned.student]
    words += ["--out", planned.out, "--batch-size", "8", "--register-as", planned.register_as, "--set", *planned.set]
    words += ["--concurrent", "1", "--epochs", "4"]
    driver = subprocess.Popen([sys.executable, "-m", "jobs.sweep", *words], start_new_session=True)
    try:
        end = time.monotonic() + 240
        while not (out / "trial-001" / ".train" / "training.json").exists():
            assert time.monotonic() < end, "the second trial did not begin"
            assert driver.poll() is None
            time.sleep(0.2)
    finally:
        kill_all_of(driver)
    first = json.loads((out / "trial-000" / "training.json").read_text())
    with pytest.raises(UserError, match=r"--epochs 3: the sweep in .*swept has 4"):
        sweep.main(dataclasses.replace(planned, epochs=3))
    rows = sweep.main(Later(**vars(planned) | {"objective": "masked"}))
    assert [row["error"] for row in rows] == ["", ""]
    told = [json.loads((out / trial / "training.json").read_text()) for trial in ("trial-000", "trial-001")]
    assert [record["options"]["objective"] for record in told] == ["infonce", "infonce"]
    assert first["mlflow_run"] in {row["run_id"] for row in rows}
    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    parent = client.get_run(client.get_run(first["mlflow_run"]).data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials"] == 2
    below = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], below)
    assert {run.info.run_id for run in runs} == {row["run_id"] for row in rows}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_every_combination_is_tried(world: World, clap: Path, teacher_dir: Path, tmp_path: Path) -> None:
    planned = sweep.trials(options(world, clap, teacher_dir, tmp_path, set=(*PAIR, "freeze-encoder=true,false")))
    tried = [(trial.options.text_types, trial.options.lr, trial.options.freeze_encoder) for trial in planned]
    assert len(set(tried)) == 8
    assert tried[0] == ("sci:1,com:1", 1e-4, True)
    assert tried[-1] == ("taxon:1", 3e-4, False)
    assert len({trial.options.out for trial in planned}) == 8
    assert all(trial.options.batch_size == 8 for trial in planned)


def test_every_path_means_the_same_in_a_trials_own_folder(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    (one, other) = sweep.trials(options(world, clap, teacher_dir, Path("swept"), set=("noise=archive,s3://b/noise",)))
    assert one.options.noise == str(world.archive)
    assert other.options.noise == "s3://b/noise"
    assert one.options.out == str(world.folder / "swept" / "trial-000")


def test_the_room_is_that_of_the_largest_trial(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 8.0})
    few = sweep.trials(options(world, clap, teacher_dir, tmp_path, set=("gpus_per_worker=1",)))
    more = sweep.trials(options(world, clap, teacher_dir, tmp_path, set=("workers=1|4",), gpus_per_worker=1.0))
    assert (sweep._room(few), sweep._room(more)) == (8, 2)


def test_samples_are_drawn_by_the_seed(world: World, clap: Path, teacher_dir: Path, tmp_path: Path) -> None:
    def titles(seed: int) -> list[str]:
        chosen = options(world, clap, teacher_dir, tmp_path, set=("lr=1,2,3,4,5,6", "epochs=1,2"), samples=3, seed=seed)
        return [trial.title for trial in sweep.trials(chosen)]

    assert len(set(titles(0))) == 3
    assert titles(0) == titles(0) != titles(1)


def test_the_papers_ablation_keeps_its_order(world: World, clap: Path, teacher_dir: Path, tmp_path: Path) -> None:
    planned = sweep.trials(options(world, clap, teacher_dir, tmp_path, preset="text-types"))
    assert [trial.settings["texts"] for trial in planned] == [
        "common only",
        "scientific only",
        "taxonomic only",
        "mixed",
    ]
    assert [trial.options.text_types for trial in planned[:3]] == ["com:1", "sci:1", "taxon:1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to try: give --set lr=1e-4,3e-4 or --preset text-types"),
        (["--set", "lr"], "--set lr: should be an option and its values"),
        (["--set", "lr=1e-4,"], "--set lr=1e-4,: should be an option and its values"),
        (["--set", "rate=1"], "--set rate=1: no option 'rate' to try values of (options: teacher, "),
        (["--set", "lr=fast"], "--set: --lr should be a number (got fast)"),
        (["--set", "lr=1,0"], "--lr should be greater than 0 (got 0)"),
        (["--set", "lr=1", "--set", "lr=2"], "--set lr: is given twice"),
        (["--set", "batch_size=8,1000"], "--batch-size 1000 is more than the 32 rows"),
        (["--set", "freeze_encoder=perhaps"], "--set freeze_encoder=perhaps: should be true or false"),
        (["--set", "lr=1", "--metric", "loss"], "--metric: no measure 'loss'"),
        (["--set", "lr=1", "--metric", "audio_to_image_mAP"], "is measured only with a --gallery"),
        (["--set", "lr=1", "--samples", "0"], "--samples should be greater than 0 (got 0)"),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    words: list[str],
    message: str,
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fixed = {"--recordings": world.recordings, "--teacher": teacher_dir, "--student": clap, "--out": tmp_path / "s"}
    given = [str(word) for pair in (fixed | {"--batch-size": 8}).items() for word in pair]
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", *given, *words])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_the_table_shows_what_failed() -> None:
    rows = [
        {"settings": {"lr": "1"}, "val_text_mAP": 0.5, "val_naming_top1": 0.25, "run_id": "ab", "error": ""},
        {"settings": {"lr": "2"}, "run_id": None, "error": "no such folder"},
    ]
    assert sweep.table(rows, "val_text_mAP").splitlines() == [
        "| lr | val_text_mAP | val_naming_top1 | run |",
        "|---|---|---|---|",
        "| 1 | 0.500 | 0.250 | ab |",
        "| 2 | – | – | failed: no such folder |",
    ]
    assert json.dumps(rows)  # what MLflow logs
