"""The trials of a sweep, run by Ray Tune."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import ray
from ray import tune

from jobs.shared.options import note


def run(titles: list[str], train: Callable[[int], dict[str, Any]], side_by_side: int) -> list[dict[str, Any]]:
    """Runs trials. One that fails stops no other.

    Args:
        titles: of the trials, for the line that is said when one ends.
        train: runs the trial with a number, in a process on this node, and returns `run_id`, `version` and the held-out
            measures.
        side_by_side: how many at a time.

    Returns:
        of each trial what `train` returned, and `error`: empty, or why it failed.
    """
    # Tune's own tables and tips are for notebooks: our lines say what the user asked for.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    # A trial only watches over its workers, so that it needs no CPU of its own. It stays on this node, where the
    # folders and a local MLflow store are.
    here = f"node:{ray.util.get_node_ip_address()}"
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, train=train), {"CPU": 0, here: 1e-3}),
            param_space={"number": tune.grid_search(list(range(len(titles))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=side_by_side),
            run_config=tune.RunConfig(name="sweep", storage_path=folder, verbose=0, callbacks=[_Say(titles)]),
        ).fit()
    found = {}
    for result in (results[i] for i in range(len(results))):
        values = result.metrics or {}
        number = (result.config or values["config"])["number"]
        returned = {k: v for k, v in values.items() if k.startswith("val_") or k in ("run_id", "version")}
        found[number] = returned | {"error": _last_line(result.error)}
    return [found[number] for number in range(len(titles))]


def _trial(config: dict[str, Any], train: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    return train(config["number"])


class _Say(tune.Callback):
    """A line when a trial ends."""

    def __init__(self, titles: list[str]) -> None:
        self.titles = titles

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        measures = {k: v for k, v in trial.last_result.items() if k.startswith("val_")}
        said = ", ".join(f"{name} {value:.3f}" for name, value in measures.items())
        note(f"{self.titles[trial.config['number']]}: {said}")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        note(f"{self.titles[trial.config['number']]}: failed")


def _last_line(error: BaseException | None) -> str:
    """Why a trial failed: the last line of what Ray wraps it in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] if error else [""]
    return lines[-1].removeprefix("songsight.errors.UserError: ")[:300]
