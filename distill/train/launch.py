"""Starts the training on Ray; imports little, for the process that only watches over the workers reads this too.

Ray Train's controller unpickles the workers' function and its configuration. Were they the trainer's own, it would
import torch and transformers for nothing, and the workers start only behind it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.train.work import Data, WorkerInput
from songsight.errors import JobError, UserError
from songsight.reasons import one_line
from songsight.store import urls

if TYPE_CHECKING:
    from distill.train.log import Tracking
    from distill.train.recipe import Outcome, Recipe

KEPT_CHECKPOINTS = 2  # the latest, and the one before it should the latest have been cut off
# Where Ray's exceptions keep the one that they are about.
_WRAPPINGS = ("cause", "_base_exc", "health_check_failure")


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        outcome: which recordings were bad; where they were too many, there is no model.
        model_url: the folder with the student's files.
        measures: the last held-out measures.
    """

    outcome: Outcome
    model_url: str = ""
    measures: dict[str, float] | None = None


def cpus_per_worker(cluster_cpus: float, workers: int) -> float:
    """CPUs that each worker of a training run keeps.

    Workers and the tasks that decode for them share the CPUs: half at most are the workers' own, else on a small
    machine the workers would wait for tasks that can never start.
    """
    return min(1.0, cluster_cpus / 2 / workers) or 1.0  # none where the nodes are still to be started


@dataclass(frozen=True)
class Cluster:
    """Where a training runs.

    Attributes:
        storage_url: where checkpoints go; a folder that every worker reaches, or a URL.
        name: of the run's folder below it. A run of the same name is resumed.
        workers: fewest and most; between them the run grows and shrinks with the cluster.
        gpus_per_worker: 0 for CPUs.
        max_failures: how often workers may fail and be replaced; -1 for any number.
    """

    storage_url: str
    name: str
    workers: tuple[int, int]
    gpus_per_worker: float = 0.0
    max_failures: int = 3


def fit(recipe: Recipe, data: Data, tracking: Tracking, on: Cluster) -> Trained:
    """Trains on Ray.

    Raises:
        UserError: the workers found something wrong with what they were given.
        JobError: they failed, again and again, of something else.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    resources: dict[str, float] = {"CPU": cpus_per_worker(ray.cluster_resources().get("CPU", 0), on.workers[1])}
    if on.gpus_per_worker:
        resources["GPU"] = on.gpus_per_worker
    filesystem = None
    path = on.storage_url
    if urls.is_remote(path):
        filesystem, path = urls.arrow_filesystem(path)
    least, most = on.workers
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type]  # what it returns is the result's return_value
        train_loop_config={"work": ray.put(WorkerInput.of(recipe, data, tracking))},
        scaling_config=ScalingConfig(
            num_workers=most if least == most else on.workers,  # type: ignore[arg-type]  # a range is elastic
            use_gpu=on.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=on.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=on.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise _in_one_line(error) from error
    outcome: Outcome = result.return_value  # type: ignore[attr-defined]
    if outcome.too_many:
        return Trained(outcome)
    assert result.checkpoint is not None  # the last step always reports one
    folder = result.checkpoint.path
    if urls.is_remote(on.storage_url):
        folder = urls.filesystem(on.storage_url)[0].unstrip_protocol(folder)  # Ray's paths have no scheme
    measures = {name: value for name, value in (result.metrics or {}).items() if name.startswith("val_")}
    return Trained(outcome, os.path.join(folder, "model"), measures)


def _work(config: dict[str, Any]) -> Outcome:
    import ray

    from distill.train import worker

    return worker.train_worker(ray.get(config["work"]))


def _in_one_line(error: Exception) -> Exception:
    """Why the workers failed, without Ray's wrappings: the first rank's own error, or that of Ray's controller."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    rank, cause = min(failures.items())
    wrapped = True
    while wrapped:
        inner = [getattr(cause, name, None) for name in _WRAPPINGS]
        cause = next((one for one in inner if isinstance(one, Exception)), cause)
        wrapped = any(isinstance(one, Exception) for one in inner)
    if isinstance(cause, UserError):
        return cause
    said = one_line(str(cause)) or "no reason given"
    return JobError(
        f"worker {rank} failed once more than --max-failures allows: {type(cause).__name__}: {said}; the same command "
        "goes on from the last checkpoint"
    )
