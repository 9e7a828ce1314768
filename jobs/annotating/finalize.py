"""How an annotation ends: detections, `run.json`, and the MLflow run, which is one run however often it was started."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from inference.annotate import record
from inference.annotate.ledger import Ledger
from inference.annotate.record import Record
from jobs.annotating.options import Command
from jobs.shared import options as opts
from jobs.shared import tracking
from songsight.reasons import one_line
from songsight.store import lease, urls
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

    def conclude(self, told: Record) -> None:
        """Merges detections, writes `run.json`, removes the state and logs the run's figures.

        Args:
            told: what `run.json` is to say.
        """
        told = write(self._state, told)
        self._state.remove()
        self.complete = True
        _log(told)


@contextlib.contextmanager
def logged(state: Ledger, options: dict[str, Any], fingerprints: dict[str, str]) -> Iterator[Ending]:
    """An MLflow run around the work on a state: of the next start too, if this one is stopped.

    Once the results are complete a store that fails costs the run's log, which a line says, and not the job.

    Args:
        state: of the run.
        options: of the command, by name.
        fingerprints: hashes of what goes in.
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


def again(state: Ledger, command: Command, told: Record, stamp: str) -> None:
    """What is left to do for a run that is finished: other detections, its log, and the stamp of this command.

    Args:
        state: of the run.
        command: that found it finished.
        told: what `run.json` says.
        stamp: see `rerun.stamp`.
    """
    gap_s = command.options["merge_gap_s"]
    if gap_s != told.options.get("merge_gap_s"):
        merged = told.options | {"merge_gap_s": gap_s}
        told = write(state, dataclasses.replace(told, options=merged, stamp=stamp))
        made = (
            "no detections" if gap_s is None else f"{told.detections} detections, merged with --merge-gap-s {gap_s:g}"
        )
        print(f"{made}; hits are as they were")
    elif told.stamp != stamp:
        # For the next time. A folder that may only be read is asked closely each time.
        with contextlib.suppress(OSError):
            urls.write_bytes(record.url_of(state.out), dataclasses.replace(told, stamp=stamp).as_bytes())
    if _stopped(state):  # killed between `run.json` and the end
        with logged(state, command.options, told.fingerprints) as ending:
            ending.complete = True
            _log(told)
    if persistently(lambda: urls.exists(urls.join(state.out, ".state"))):
        state.remove()


def write(state: Ledger, told: Record) -> Record:
    """Writes detections as `--merge-gap-s` asks for them, then `run.json`, which says that the tables are complete.

    Returns:
        The record, with the number of detections.
    """
    lease.check()
    gap_s = told.options["merge_gap_s"]
    target = urls.join(state.out, "detections", f"{state.run_id}.parquet")
    merged = None
    if gap_s is None:
        persistently(lambda: urls.remove_file(target))
    else:
        from inference.annotate import detections  # imports DuckDB

        merged = persistently(lambda: detections.write(urls.join(state.out, "hits"), target, gap_s))
    told = dataclasses.replace(told, detections=merged)
    lease.check()
    persistently(lambda: urls.write_bytes(record.url_of(state.out), told.as_bytes()))
    return told


def _url(state: Ledger) -> str:
    return urls.join(state.url, "mlflow_run")


def _stopped(state: Ledger) -> str | None:
    """The MLflow run of a start that was stopped."""
    if not persistently(lambda: urls.exists(_url(state))):
        return None
    return persistently(lambda: urls.read_bytes(_url(state))).decode()


def _log(told: Record) -> None:
    import mlflow

    said = told.as_dict()
    mlflow.log_metrics({key: float(value) for key, value in said.items() if isinstance(value, int | float)})
    mlflow.log_dict(said, "run.json")
