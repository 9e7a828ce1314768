"""MLflow: one run a job, with its options, the versions that made it and what went in.

The store is `sqlite:///mlflow.db` in the working folder unless `MLFLOW_TRACKING_URI` names another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from songsight.errors import UserError
from songsight.reasons import one_line
from songsight.store import urls
from songsight.store.registry import database, require_answer, store

if TYPE_CHECKING:
    import mlflow

_PACKAGES = ("songsight", "torch", "transformers", "open_clip_torch", "ray", "mlflow", "pyarrow", "soundfile", "soxr")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def git_commit() -> str:
    """The commit that songsight runs from, with `-dirty` behind it if files differ; empty outside a checkout.

    `SONGSIGHT_GIT_COMMIT` says it where the files are a copy without their history, as `ray job submit` makes one.
    """
    if said := os.environ.get("SONGSIGHT_GIT_COMMIT"):
        return said
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

    Raises:
        UserError: the store does not answer, cannot be written, is none that MLflow still writes to, or the experiment
            was deleted there.
    """
    require_answer()
    uri = store()
    file = database(uri)
    if file:
        _require_writable(uri, file)
    # MLflow asks the network who it is talking to, and says how it makes its tables, unless told not to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    name = f"songsight-{job}"
    location = Path(file).with_name("mlartifacts").joinpath(name).as_uri() if file else None
    try:
        mlflow.set_tracking_uri(uri)
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            return mlflow.create_experiment(name, artifact_location=location)
    except Exception as error:  # MLflow's own, the database's, or of a URI that it does not know
        raise UserError(f"MLFLOW_TRACKING_URI {uri}: {one_line(str(error))}") from None
    if found.lifecycle_stage != "active":
        raise UserError(
            f"MLFLOW_TRACKING_URI {uri}: the experiment {name} was deleted there; `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}` brings it back, `mlflow gc` makes room for a new one"
        )
    if file and found.artifact_location.startswith("file:"):
        urls.require_writable(unquote(urlsplit(found.artifact_location).path), f"MLFLOW_TRACKING_URI {uri}:")
    return found.experiment_id


def _require_writable(uri: str, file: str) -> None:
    """Raises UserError where nothing can be noted down in a database's file, or it is none."""
    if not os.path.exists(file):
        urls.require_writable(os.path.dirname(file), f"MLFLOW_TRACKING_URI {uri}:")
        return
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=60)) as held:
            held.execute("BEGIN IMMEDIATE")
            held.execute("CREATE TABLE songsight_tries (tried)")
            held.rollback()
    except sqlite3.Error as error:
        raise UserError(
            f"MLFLOW_TRACKING_URI {uri}: {error}; set it to another store, such as sqlite:////path/mlflow.db"
        ) from None


@contextlib.contextmanager
def run(
    job: str,
    options: dict[str, Any],
    fingerprints: dict[str, str] | None = None,
    parent: str | None = None,
    going_on: str | None = None,
    system_metrics: bool = False,
    rows: dict[str, int] | None = None,
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
        rows: how many of what went in, logged as tags `rows.<name>`.

    Raises:
        UserError: see `experiment`.
    """
    experiment_id = experiment(job)
    # Whatever started the job may have one of its own there; the job's is found in the job's experiment.
    os.environ.pop("MLFLOW_RUN_ID", None)
    import mlflow

    if parent:
        experiment_id = mlflow.get_run(parent).info.experiment_id
    wanted = None if "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING" in os.environ else system_metrics
    known = going_on is not None and bool(
        mlflow.search_runs([experiment_id], f"attributes.run_id = '{going_on}'", output_format="list")
    )
    with _ended(
        mlflow.start_run(
            going_on if known else None,
            experiment_id=experiment_id,
            parent_run_id=parent,
            nested=parent is not None,
            log_system_metrics=wanted,
        )
    ) as active:
        if not known:
            mlflow.log_params({key: value for key, value in options.items() if value is not None})
        mlflow.set_tags(
            {f"version.{name}": version for name, version in versions().items()}
            | {f"fingerprint.{name}": digest for name, digest in (fingerprints or {}).items()}
            | {f"rows.{name}": count for name, count in (rows or {}).items()}
            | {"git_commit": git_commit()}
        )
        yield active


@contextlib.contextmanager
def _ended(active: mlflow.ActiveRun) -> Iterator[mlflow.ActiveRun]:
    """Ends a run as FINISHED or FAILED. A store that does not hear of it is no reason for what is done to fail."""
    import mlflow

    status = "FAILED"
    try:
        yield active
        status = "FINISHED"
    finally:
        try:
            mlflow.end_run(status)
        except Exception as error:
            said = one_line(str(error))
            print(f"MLflow did not take it that run {active.info.run_id} is {status}: {said}", file=sys.stderr)


def log_text(text: str, name: str) -> None:
    """Logs a file of the active run; a store that does not take it is no reason for what is done to fail."""
    import mlflow

    try:
        mlflow.log_text(text, name)
    except Exception as error:
        print(f"MLflow did not take {name}: {one_line(str(error))}", file=sys.stderr)
