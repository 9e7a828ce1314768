"""MLflow: one run a job, with its options, the versions that made it and what went in.

The store is `sqlite:///mlflow.db` in the working folder unless `MLFLOW_TRACKING_URI` names another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

from distill.registry import store

if TYPE_CHECKING:
    import mlflow

_PACKAGES = ("songsight", "torch", "transformers", "open_clip_torch", "ray", "mlflow", "pyarrow", "soundfile", "soxr")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def git_commit() -> str:
    """The commit that songsight runs from, with `-dirty` behind it if files differ; empty outside a checkout."""
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        found = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def experiment(job: str) -> str:
    """The MLflow experiment of a job, made when it is missing.

    A local store keeps its artifacts in `mlartifacts` beside the database rather than wherever the job was started.
    """
    # MLflow asks the network who it is talking to, and says how it makes its tables, unless told not to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    uri = store()
    mlflow.set_tracking_uri(uri)
    name = f"songsight-{job}"
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None
    if uri.startswith("sqlite:///"):
        location = "file://" + os.path.join(os.path.dirname(uri.removeprefix("sqlite:///")), "mlartifacts", name)
    return mlflow.create_experiment(name, artifact_location=location)


@contextlib.contextmanager
def run(
    job: str,
    options: dict[str, Any],
    fingerprints: dict[str, str] | None = None,
    parent: str | None = None,
    going_on: str | None = None,
    system_metrics: bool = False,
) -> Iterator[mlflow.ActiveRun]:
    """An MLflow run around a job: RUNNING inside, FINISHED or FAILED behind it.

    Args:
        job: the job's name; the experiment is `songsight-<job>`.
        options: logged as parameters.
        fingerprints: hashes of what went in (data, models), logged as tags.
        parent: the run that this one is shown below, in that run's experiment.
        going_on: a run that was stopped, to go on with; a new one where this store does not know it.
        system_metrics: whether this node's CPU, memory, disk, network and (with the package nvidia-ml-py) GPUs are
            logged: a sample every 10 s, or as `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` says.
            `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false` turns it off.
    """
    experiment_id = experiment(job)
    import mlflow

    if parent:
        experiment_id = mlflow.get_run(parent).info.experiment_id
    wanted = None if "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING" in os.environ else system_metrics
    known = going_on is not None and bool(
        mlflow.search_runs([experiment_id], f"attributes.run_id = '{going_on}'", output_format="list")
    )
    with mlflow.start_run(
        going_on if known else None,
        experiment_id=experiment_id,
        parent_run_id=parent,
        nested=parent is not None,
        log_system_metrics=wanted,
    ) as active:
        if not known:
            mlflow.log_params({key: value for key, value in options.items() if value is not None})
        mlflow.set_tags(
            {f"version.{name}": version for name, version in versions().items()}
            | {f"fingerprint.{name}": digest for name, digest in (fingerprints or {}).items()}
            | {"git_commit": git_commit()}
        )
        yield active
