from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from jobs.shared import tracking
from songsight.errors import UserError


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    """MLflow keeps the last store that it was told of, for the tests behind these too."""
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("http://127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9"),
        ("http://127.0.0.1:port", "no MLflow server answers at http://127.0.0.1:port"),
        ("file:///tmp/runs", "MLFLOW_TRACKING_URI file:///tmp/runs: "),
        ("nosuch://runs", "MLFLOW_TRACKING_URI nosuch://runs: "),
        ("sqlite:////dev/null/m.db", "MLFLOW_TRACKING_URI sqlite:////dev/null/m.db: "),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_at_once(
    store: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    begin = time.monotonic()
    with pytest.raises(UserError) as error, tracking.run("distill", {}):
        raise AssertionError("no run can have begun")
    assert str(error.value).count("\n") == 0
    assert message in str(error.value)
    assert time.monotonic() - begin < 30


def test_a_store_that_goes_away_at_the_end_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with tracking.run("distill", {}):
            mlflow.set_tracking_uri("http://127.0.0.1:9")
    said = capsys.readouterr().err
    assert "MLflow did not take it that run" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["site #4", "what?", "50%20 off", "a;b&c=d", "ü ñ"])
def test_what_is_logged_lies_in_the_working_folder_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with tracking.run("distill", {}) as run:
        mlflow.log_text("heard", "note.txt")
    found = mlflow.MlflowClient(tracking_uri=tracking.store()).list_artifacts(run.info.run_id)
    assert [artifact.path for artifact in found] == ["note.txt"]
    assert (tmp_path / name / "mlflow.db").is_file()
    written = [path.relative_to(tmp_path / name).parts for path in tmp_path.rglob("note.txt")]
    assert written == [("mlartifacts", "songsight-distill", run.info.run_id, "artifacts", "note.txt")]


def test_a_deleted_experiment_is_said_with_what_brings_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'm.db'}")
    number = tracking.experiment("gallery")
    mlflow.MlflowClient().delete_experiment(number)
    with pytest.raises(UserError, match=f"songsight-gallery was deleted there.*restore --experiment-id {number}`"):
        tracking.experiment("gallery")
    mlflow.MlflowClient().restore_experiment(number)
    assert tracking.experiment("gallery") == number


def test_a_run_of_whoever_started_the_job_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'm.db'}")
    with tracking.run("distill", {}) as outer:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    with tracking.run("gallery", {}) as run:
        pass
    assert run.info.run_id != outer.info.run_id
    assert run.info.experiment_id == tracking.experiment("gallery")


@pytest.mark.parametrize("content", [b"no database" * 100, None], ids=["another file", "read-only"])
def test_a_database_that_cannot_be_written_is_said(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    if content is None:
        tracking.experiment("gallery")
        file.chmod(0o444)
        if os.access(file, os.W_OK):
            pytest.skip("this user may write everything")
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI sqlite:.*m\.db: .*database; set it to another store"):
        tracking.experiment("gallery")
