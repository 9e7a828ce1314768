from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from distill.data.order import Order
from distill.train.log import LONGEST_PAUSE_S, Tracking, TrainingLog

ORDER = Order(rows=32, batch_size=8, epochs=2, seed=0)


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    return Tracking(uri, client.create_run(experiment).info.run_id)


def curve(tracking: Tracking, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(tracking_uri=tracking.uri).get_metric_history(tracking.run_id, name)
    return [(point.step, point.value) for point in history]


def test_a_store_that_is_away_gets_everything_later(tracking: Tracking) -> None:
    log = TrainingLog(tracking, ORDER, rank=0)
    there = log.client
    log.client = mlflow.MlflowClient(tracking_uri="http://127.0.0.1:9")
    begin = time.monotonic()
    for step in range(1, 1501):  # more than MLflow takes in a request
        log.add(step, {"loss": 1 / step})
    log.image(Image.new("RGB", (4, 4)), "retrieval/epoch_001.png")
    assert not log.send()
    assert time.monotonic() - begin < 30
    assert len(log.pending) == 1500
    assert 2 < log.pause_s <= LONGEST_PAUSE_S  # it is not asked at every step

    log.client = there
    assert log.send()
    assert curve(tracking, "loss") == [(step, pytest.approx(1 / step)) for step in range(1, 1501)]
    files = there.list_artifacts(tracking.run_id, "retrieval")
    assert [file.path for file in files] == ["retrieval/epoch_001.png"]


def test_what_was_not_sent_survives_a_restart(tracking: Tracking) -> None:
    first = TrainingLog(tracking, ORDER, rank=0)
    first.client = mlflow.MlflowClient(tracking_uri="http://127.0.0.1:9")
    first.add(1, {"loss": 0.5})
    first.send()
    again = TrainingLog(tracking, ORDER, rank=0)
    again.resumed(1, first.pending)
    assert again.send()
    assert curve(tracking, "loss") == [(1, 0.5)]
    assert curve(tracking, "resumed_from_step") == [(1, 1.0)]


def test_rank_0_says_how_far_the_training_is(tracking: Tracking) -> None:
    said: list[tuple[int, dict[str, float]]] = []
    told = replace(tracking, say=lambda seen, measures: said.append((seen, measures)))
    for rank in (0, 1):
        log = TrainingLog(told, ORDER, rank)
        for step in range(1, ORDER.steps + 1):
            log.step(step, 0.0, loss=1.0)
        log.look(ORDER.steps, {"val_text_mAP": 0.5})
    assert said[-2:] == [(64, {}), (64, {"val_text_mAP": 0.5})]
    assert len(said) < ORDER.steps  # not at every step
