from __future__ import annotations

import time
from collections.abc import Iterator

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
