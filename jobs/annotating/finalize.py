"""How an annotation ends: detections, `run.json`, and the MLflow run, which is one run however often it was started."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from inference.annotate import record
from inference.annotate.ledger import Ledger
from jobs.shared import options as opts
from jobs.shared import tracking
from songsight.reasons import one_line
from songsight.store import urls
from songsight.store.retry import persistently


class Ending:
    """What is left to do when all tables but the detections are written.

    Attributes:
        mlflow_run: id of the job's MLflow run.
        complete: whether the results are, so that nothing may be called a failure any more.
    """

    def __init__(self, state: Ledger, mlflow_run: str) -> None:
        self.mlflow_run = mlflow_run
        self.complete = False
        self._state = state

    def conclude(self, told: dict[str, Any]) -> None:
        """Merges detections, writes `run.json`, removes the state and logs the run's figures.

        Args:
            told: what `run.json` is to say.
        """
        write(self._state, told)
        self._state.remove()
        self.complete = True
        _log(told)


@contextlib.contextmanager
def logged(state: Ledger, options: dict[str, Any], fingerprints: dict[str, str]) -> Iterator[Ending]:
    """An MLflow run around the work on a state: of the next start too, if this one is stopped.

    Once the results are complete a store that fails costs the run's log, which a line says, and not the job.
    """
    ending = None
    try:
        with tracking.run("annotate", options, fingerprints, going_on=_stopped(state)) as run:
            state.begin()
            persistently(lambda: urls.write_bytes(_url(state), run.info.run_id.encode()))
            ending = Ending(state, run.info.run_id)
            yield ending
    except Exception as error:
        if ending is None or not ending.complete:
            raise
        opts.note(f"the results are complete, but MLflow did not take their figures: {one_line(str(error))}")


def again(state: Ledger, options: dict[str, Any], told: dict[str, Any], mark: str) -> None:
    """What is left to do for a run that is finished: other detections, its log, and the mark of this command.

    Args:
        state: of the run.
        options: of the command.
        told: the run's `run.json`.
        mark: see `rerun.stamp`.
    """
    gap_s = options["merge_gap_s"]
    before_s = told["options"].get("merge_gap_s")
    if gap_s != before_s:
        told = told | {"options": told["options"] | {"merge_gap_s": gap_s}, "stamp": mark}
        write(state, told)
        made = (
            "no detections"
            if gap_s is None
            else f"{told['detections']} detections, merged with --merge-gap-s {gap_s:g}"
        )
        print(f"{made}; hits are as they were")
    elif told.get("stamp") != mark:
        # For the next time. A folder that may only be read is asked closely each time.
        with contextlib.suppress(OSError):
            urls.write_bytes(record.url_of(state.out), _text(told | {"stamp": mark}))
    if _stopped(state):  # killed between `run.json` and the end
        with logged(state, options, told["fingerprints"]) as ending:
            ending.complete = True
            _log(told)
    if persistently(lambda: urls.exists(urls.join(state.out, ".state"))):
        state.remove()


def write(state: Ledger, told: dict[str, Any]) -> None:
    """Writes detections as `--merge-gap-s` asks for them, then `run.json`, which says that the tables are complete."""
    gap_s = told["options"]["merge_gap_s"]
    target = urls.join(state.out, "detections", f"{state.run_id}.parquet")
    told.pop("detections", None)
    if gap_s is None:
        persistently(lambda: urls.remove_file(target))
    else:
        from inference.annotate import detections  # imports DuckDB

        told["detections"] = persistently(lambda: detections.write(urls.join(state.out, "hits"), target, gap_s))
    persistently(lambda: urls.write_bytes(record.url_of(state.out), _text(told)))


def _text(told: dict[str, Any]) -> bytes:
    return json.dumps(told, indent=2).encode()


def _url(state: Ledger) -> str:
    return urls.join(state.url, "mlflow_run")


def _stopped(state: Ledger) -> str | None:
    """The MLflow run of a start that was stopped."""
    if not persistently(lambda: urls.exists(_url(state))):
        return None
    return persistently(lambda: urls.read_bytes(_url(state))).decode()


def _log(told: dict[str, Any]) -> None:
    import mlflow

    numbers = {key: value for key, value in told.items() if isinstance(value, int | float)}
    mlflow.log_metrics({key: float(value) for key, value in numbers.items()})
    mlflow.log_dict(told, "run.json")
