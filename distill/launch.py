"""Starts the training on Ray; imports little, for the process that only watches over the workers reads this too.

Ray Train's controller unpickles the workers' function and its configuration. Were they the trainer's own, it would
import torch and transformers for nothing, and the workers start only behind it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill import memory, storage
from distill.audio_errors import one_line
from distill.errors import JobError, UserError

if TYPE_CHECKING:
    import numpy as np
    from ray.train.torch import TorchTrainer

    from distill.dataset import Clips
    from distill.trainer import HeldOut, Outcome, Recipe, Tracking

KEPT_CHECKPOINTS = 2  # the latest, and the one before it should the latest have been cut off
# The folder where each worker notes down which rows its steps took, for whoever wants to account for them.
ROWS_TO = "SONGSIGHT_ROWS_TO"
# Of Ray Train's callbacks: those that start the actors `PlacementGroupCleaner` and `DatasetManager`.
_FOR_LATER = ("PlacementGroupCleanerCallback", "DatasetsCallback")
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


def _work(reference: dict[str, Any]) -> Outcome:
    import ray

    from distill import trainer

    return trainer.train_worker(ray.get(reference["config"]))


def cpus_per_worker(cluster_cpus: float, workers: int) -> float:
    """CPUs that each worker of a training run keeps.

    Workers and the tasks that decode for them share the CPUs: half at most are the workers' own, else on a small
    machine the workers would wait for tasks that can never start.
    """
    return min(1.0, cluster_cpus / 2 / workers) or 1.0  # none where the nodes are still to be started


def fit(
    recipe: Recipe,
    bank_url: str,
    clips: Clips,
    held_out: HeldOut | None,
    tracking: Tracking,
    storage_url: str,
    name: str,
    workers: tuple[int, int],
    gpus_per_worker: float,
    names: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    max_failures: int = 3,
    own_ray: bool = False,
) -> Trained:
    """Trains on Ray.

    Args:
        recipe: what to do.
        bank_url: the teacher's embeddings of the texts, see `text_bank.stored`.
        clips: the training recordings.
        held_out: what to look at between epochs, or None.
        tracking: the MLflow run.
        storage_url: where checkpoints go; a folder that every worker reaches, or a URL.
        name: of the run's folder below it. A run of the same name is resumed.
        workers: fewest and most; between them the run grows and shrinks with the cluster.
        gpus_per_worker: 0 for CPUs.
        names: the teacher's unit text vector of each species, float32 [species, width], for objectives that ask for it.
        noise: backgrounds to mix into clips, float32 [clips, clip_samples].
        max_failures: how often workers may fail and be replaced; -1 for any number.
        own_ray: whether Ray runs on this machine alone and for this process: its helpers may be told to step aside.

    Raises:
        UserError: the workers found something wrong with what they were given.
        JobError: they failed, again and again, of something else.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

    resources: dict[str, float] = {"CPU": cpus_per_worker(ray.cluster_resources().get("CPU", 0), workers[1])}
    if gpus_per_worker:
        resources["GPU"] = gpus_per_worker
    filesystem = None
    path = storage_url
    if storage.is_remote(storage_url):
        filesystem, path = storage.arrow_filesystem(storage_url)
    config = {
        "recipe": recipe,
        "bank": bank_url,
        "clips": ray.put(clips),
        "clips_per_block": clips.per_block,
        "held_out": ray.put(held_out) if held_out is not None else None,
        "tracking": tracking,
        "names": ray.put(names) if names is not None else None,
        "noise": ray.put(noise) if noise is not None else None,
        "rows_to": os.environ.get(ROWS_TO),
        "own_ray": own_ray,
    }
    least, most = workers
    scaling = ScalingConfig(
        num_workers=most if least == most else workers,  # type: ignore[arg-type]  # a range is elastic
        use_gpu=gpus_per_worker > 0,
        resources_per_worker=resources,
    )
    trainer = _trainer(own_ray)(
        _work,  # type: ignore[arg-type]  # what it returns is the result's return_value
        train_loop_config={"config": ray.put(config)},
        scaling_config=scaling,
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray Train has more fields than Ray AIR, which its types name
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            worker_runtime_env=None if gpus_per_worker else memory.runtime_env(),
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
    if storage.is_remote(storage_url):
        folder = storage.filesystem(storage_url)[0].unstrip_protocol(folder)  # Ray's paths have no scheme
    measures = {name: value for name, value in (result.metrics or {}).items() if name.startswith("val_")}
    return Trained(outcome, os.path.join(folder, "model"), measures)


def _trainer(own_ray: bool) -> type[TorchTrainer]:
    """Ray's trainer, on a Ray of our own without the actors that only a Ray which outlives the run has a use for.

    One cleans up behind a controller that was killed, the other serves datasets, of which `fit` names none. Each wakes
    a hundred times a second. The method is not a public one: where Ray has another, the actors stay.
    """
    from ray.train.torch import TorchTrainer

    if not own_ray:
        return TorchTrainer

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            given = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in given if type(callback).__name__ not in _FOR_LATER]

    return Trainer


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
