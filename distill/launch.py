"""Starts the training on Ray; imports little, for the process that only watches over the workers reads this too.

Ray Train's controller unpickles the workers' function and its configuration. Were they the trainer's own, it would
import torch and transformers for nothing, and the workers start only behind it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from distill import storage
from distill.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from distill.dataset import Clips
    from distill.trainer import HeldOut, Recipe, Tracking


def _work(reference: dict[str, Any]) -> None:
    import ray

    from distill import trainer

    trainer.train_worker(ray.get(reference["config"]))


def cpus_per_worker(cluster_cpus: float, workers: int) -> float:
    """CPUs that each worker of a training run keeps.

    Workers and the tasks that decode for them share the CPUs: half at most are the workers' own, else on a small
    machine the workers would wait for tasks that can never start.
    """
    return min(1.0, cluster_cpus / 2 / workers)


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
) -> tuple[str, dict[str, float]]:
    """Trains on Ray and returns the folder of the trained student.

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

    Returns:
        (a URL of the folder with the student's files, the last held-out measures).

    Raises:
        UserError: more recordings cannot be decoded than the recipe allows.
        ray.train.TrainingFailedError: a worker failed, again and again.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources: dict[str, float] = {"CPU": cpus_per_worker(ray.cluster_resources().get("CPU", 1), workers[1])}
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
    }
    least, most = workers
    scaling = ScalingConfig(
        num_workers=most if least == most else workers,  # type: ignore[arg-type]  # a range is elastic
        use_gpu=gpus_per_worker > 0,
        resources_per_worker=resources,
    )
    trainer = TorchTrainer(
        _work,
        train_loop_config={"config": ray.put(config)},
        scaling_config=scaling,
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    result = trainer.fit()
    if bad := (result.metrics or {}).get("bad_recordings"):
        raise UserError(
            f"--recordings: {bad} of {recipe.order.rows} recordings cannot be decoded, more than the share of "
            f"{recipe.max_bad_fraction:g} that --max-bad-fraction allows; the MLflow run lists them in "
            "undecodable_recordings.csv"
        )
    assert result.checkpoint is not None  # the last step always reports one
    folder = result.checkpoint.path
    if storage.is_remote(storage_url):
        folder = storage.filesystem(storage_url)[0].unstrip_protocol(folder)  # Ray's paths have no scheme
    model_url = os.path.join(folder, "model")
    return model_url, {k: v for k, v in (result.metrics or {}).items() if k.startswith("val_")}
