"""The steps to the tables of a run: what annotating an archive and matching a run's windows again have in common.

Nothing here imports torch or Ray, so that a run that has nothing to do can say so at once.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from inference.annotate import publish, record, rerun
from inference.annotate.ledger import Ledger
from inference.annotate.record import Record
from jobs.annotating import say
from jobs.annotating.options import Command
from jobs.shared import tracking
from songsight.store import urls

if TYPE_CHECKING:
    from jobs.annotating.inputs import Inputs


@dataclass(frozen=True)
class Earlier:
    """What earlier runs of the same command left.

    Attributes:
        record: `run.json` of the last one that ended; None where none did.
        recordings: `tables.RECORDINGS_SEEN` of it.
        finished: the record again, unless tables were being changed when a later run was stopped.
    """

    record: Record | None
    recordings: pa.Table
    finished: Record | None

    @property
    def next_round(self) -> int:
        """1 for a first run, one more each time that recordings were added."""
        return (self.record.round if self.record else 0) + 1


@dataclass(frozen=True)
class Made(ABC):
    """What a job has made, before it is published.

    Attributes:
        recordings: `tables.RECORDINGS_SEEN` of all rounds.
        hits: `ledger.PARTS` of the hits.
        embeddings: `ledger.PARTS` of the windows' vectors, where the run keeps them.
        replaced: recordings whose rows of earlier rounds are void.
        begun: `time.monotonic()` when the work began.
    """

    recordings: pa.Table
    hits: pa.Table
    embeddings: pa.Table | None
    replaced: pa.Array
    begun: float

    @abstractmethod
    def figures(self, run_id: str, elapsed_s: float) -> Record:
        """What `run.json` says of recordings, windows and pace."""

    @abstractmethod
    def say(self, out: str, told: Record) -> None:
        """Prints what came of it."""


class Job(ABC):
    """A way to the tables of a run. Its steps are taken once each, in the order in which they stand here.

    Attributes:
        command: as it was given.
        unreached: recordings that could not be reached by an earlier run and cannot be now, known behind `compare`.
    """

    unreached = 0

    def __init__(self, command: Command) -> None:
        self.command = command

    @abstractmethod
    def look(self) -> str:
        """Looks at what there is, by names, sizes and times alone; returns a hash of it."""

    @abstractmethod
    def load(self) -> Inputs:
        """Loads what windows are matched with, and checks the options that depend on it."""

    @abstractmethod
    def compare(self, earlier: Earlier) -> bool:
        """Whether there is something to do that earlier runs have not done."""

    @abstractmethod
    def plan(self, state: Ledger) -> None:
        """Decides what is to be done; starts Ray for it."""

    @abstractmethod
    def describe(self) -> str:
        """The plan as `--dry-run` prints it."""

    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """Hashes of what goes in, for MLflow."""

    @abstractmethod
    def do(self) -> Made:
        """Does what was planned."""


def stamp(job: Job) -> str:
    """Looks at what there is; a hash of the command and of that, see `rerun.stamp`."""
    return rerun.stamp(job.command.options, job.look())


def done_before(job: Job, mark: str) -> Record | None:
    """The record of the finished run that this command would make again."""
    command = job.command
    return None if command.dry_run else rerun.is_done(command.out, mark, command.options["archive"])


def earlier(state: Ledger) -> Earlier:
    """What earlier runs of the same command left."""
    told, recordings = publish.earlier(state)
    return Earlier(told, recordings, told and record.read(state.out))


def keep(made: Made, state: Ledger, round_number: int) -> None:
    """Publishes all tables but the detections."""
    with say.counting("hits filed") as filed:
        publish.publish(state, made.recordings, made.hits, round_number, made.replaced, filed, made.embeddings)


def tell(figures: Record, command: Command, inputs: Inputs, round_number: int, mlflow_run: str, mark: str) -> Record:
    """All that `run.json` says of a run.

    Args:
        figures: what was made.
        command: as it was given.
        inputs: what went in.
        round_number: see `Earlier.next_round`.
        mlflow_run: id of the MLflow run.
        mark: see `stamp`.
    """
    return dataclasses.replace(
        figures,
        round=round_number,
        mlflow_run=mlflow_run,
        gallery=urls.absolute(inputs.matching.gallery),
        begun_at=command.begun_at,
        precision=inputs.precision,
        window_s=inputs.windows.window_s,
        hop_s=inputs.windows.hop_s,
        encoder=inputs.encoder,
        scored_with=inputs.scored_with,
        fingerprints=inputs.fingerprints,
        versions=tracking.versions(),
        options=command.options,
        stamp=mark,
    )
