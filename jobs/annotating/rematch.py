"""Matching an earlier run's windows again, with another gallery, species list or score (`--from-embeddings`).

Nothing is decoded, and the model is not loaded: site, clock and fate of each recording are the earlier run's. When that
run has grown since, the same command matches what is new in it.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate import ledger, source
from inference.annotate.ledger import Ledger, Outcomes
from inference.annotate.record import Record
from inference.annotate.source import Source
from inference.match import embeddings
from inference.match.embeddings import Group
from jobs.annotating import say
from jobs.annotating.options import Command, Matching, Workers
from jobs.annotating.steps import Earlier, Job, Made
from jobs.shared import cluster, progress
from jobs.shared import options as opts
from songsight import pool
from songsight.store import urls

if TYPE_CHECKING:
    from inference.annotate.annotator import Settings
    from jobs.annotating.inputs import Inputs

BATCH = 128


@dataclass(frozen=True)
class Work:
    """What the matching actors are to do.

    Attributes:
        state: of the run.
        groups: row groups of the source.
        todo: those to match.
        changed: recordings whose earlier hits are void.
        done: what earlier starts did of it.
        begun: `time.monotonic()` when Ray was there.
    """

    state: Ledger
    groups: list[Group]
    todo: list[Group]
    changed: pa.Array
    done: Outcomes
    begun: float

    def left(self) -> list[Group]:
        """The row groups that no earlier start has matched."""
        names = set(self.done.files["unit"].to_pylist())
        return [group for group in self.todo if name_of(group) not in names]


@dataclass(frozen=True)
class Rematched(Made):
    """What the matching actors made.

    Attributes:
        source: the run that kept the windows.
        named: as `--from-embeddings` gave it.
        all_windows: that are kept.
        windows: that were matched now.
    """

    source: Source
    named: str
    all_windows: int
    windows: int

    def figures(self, run_id: str, elapsed_s: float) -> Record:
        """What the source's record says of its recordings, with this run's hits and pace."""
        source = self.source.record
        return dataclasses.replace(
            source,
            run_id=run_id,
            from_embeddings=self.source.url,
            source_round=source.round,
            windows=self.all_windows,
            hits=pc.sum(self.recordings["hits"]).as_py() or 0,
            elapsed_s=elapsed_s,
            audio_hours_per_hour=source.hours * 3600 / elapsed_s * self.windows / max(1, self.all_windows),
            windows_per_s=self.windows / elapsed_s,
            # No encoder was at work, whose pace this is.
            first_window_s=None,
            steady_windows_per_s=None,
            steady_between=None,
            embeddings="none",
            codes=None,
            more={},
        )

    def say(self, out: str, told: Record) -> None:
        """Prints what came of it."""
        say.rematched(out, told, self.named, self.windows)


class Rematch(Job):
    """Matches the windows of an earlier run again.

    Args:
        command: as it was given.
        name: folder or URL of the run.
        matching: what windows are matched with.
        workers: how many work side by side.
    """

    def __init__(self, command: Command, name: str, matching: Matching, workers: Workers) -> None:
        super().__init__(command)
        self.name, self.matching, self.workers = name, matching, workers

    def look(self) -> str:
        """Reads what the run says of itself."""
        self.source = source.read(self.name)
        return self.source.mark()

    def load(self) -> Inputs:
        """Loads the gallery."""
        from jobs.annotating import inputs  # imports torch

        self.inputs = inputs.of_source(self.source, self.name, self.matching)
        return self.inputs

    def compare(self, earlier: Earlier) -> bool:
        """Whether the run has grown, or was made anew."""
        self.earlier = earlier
        self.heard = self.source.table("recordings")
        self.differing = source.differing(self.heard, earlier.recordings)
        matched = earlier.record.source_round if earlier.record else None
        return matched != self.source.record.round or bool(len(self.differing))

    def plan(self, state: Ledger) -> None:
        """Finds the row groups that are to be matched."""
        groups = embeddings.groups(urls.join(self.source.url, "embeddings"))
        todo, changed = _todo(groups, self.differing, self.earlier)
        done = state.finished().of(pa.array([name_of(group) for group in todo], pa.string()))
        if not self.command.dry_run:
            cluster.connect()
        self.work = Work(state, groups, todo, changed, done, time.monotonic())

    def describe(self) -> str:
        """The plan as `--dry-run` prints it."""
        told, work = self.source.record, self.work
        left = work.left()
        all_rows, left_rows = _rows(work.groups), _rows(left)
        lines = [
            f"run {work.state.run_id}: {told.files_found} recordings of {self.name}, heard by "
            f"{self.source.encoder['model']}",
            f"  kept: {told.hours:.2f} h in {all_rows:,} windows of {told.window_s:g} s every {told.hop_s:g} s, "
            f"as {told.embeddings}",
        ]
        if before := len(work.groups) - len(work.todo):
            lines.append(f"  as before: {before} of {len(work.groups)} row groups, matched by an earlier run")
        if done := len(work.todo) - len(left):
            lines.append(f"  done: {done} row groups, by an earlier start")
        hours = told.hours * left_rows / max(1, all_rows)
        lines.append(
            f"  left: {hours:.2f} h of sound, {left_rows:,} windows in {len(left)} row groups; nothing is decoded"
            if left
            else "  left: nothing to match"
        )
        return "\n".join(lines)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of what goes in, for MLflow."""
        return self.inputs.fingerprints

    def do(self) -> Rematched:
        """Matches the row groups, and counts each recording's hits."""
        work = self.work
        settings = self.inputs.settings(work.state, self.source.record.archive, BATCH)
        settings = self.inputs.with_names(settings, work.state)
        outcomes = _match(settings, self.source, work, self.workers)
        return Rematched(
            recordings=source.with_hits(self.heard, self.earlier.recordings, outcomes.files, work.changed),
            hits=outcomes.parts,
            embeddings=None,
            replaced=work.changed,
            begun=work.begun,
            source=self.source,
            named=self.name,
            all_windows=_rows(work.groups),
            windows=_rows(work.todo),
        )


def name_of(group: Group) -> str:
    """The name of a row group's unit of work."""
    from inference.annotate import rematching  # imports torch

    return rematching.name_of(group)


def _rows(groups: list[Group]) -> int:
    return sum(group.rows for group in groups)


def _todo(groups: list[Group], differing: pa.Array, earlier: Earlier) -> tuple[list[Group], pa.Array]:
    """The row groups to match, and the recordings whose earlier hits are void.

    Args:
        groups: of the source, as it is now.
        differing: recordings of which it says other things than when it was matched before.
        earlier: that matching.
    """
    matched = earlier.record.source_round if earlier.record else None
    if matched is None:
        return groups, pa.array([], pa.string())
    # What the source has heard since lies in files of later rounds, and its rows of earlier ones were taken out.
    later = [group for group in groups if group.round > matched]
    heard = embeddings.recordings(later)
    gone = pc.invert(pc.is_in(differing, heard))
    before = [group for group in groups if group.round <= matched]
    if pc.any(pc.is_in(differing.filter(gone), embeddings.recordings(before))).as_py():
        # The source was made anew rather than added to.
        return groups, earlier.recordings["path"].combine_chunks()
    return later, pc.unique(pa.chunked_array([differing, heard], pa.string()))


def _match(settings: Settings, source: Source, work: Work, workers: Workers) -> Outcomes:
    """Runs the matching actors over the row groups that are not finished."""
    from inference.annotate import rematching  # imports torch

    todo = work.left()
    if done := len(work.todo) - len(todo):
        opts.note(f"{done} of {len(work.todo)} row groups were matched by an earlier start")
    gathering = ledger.Gathering()
    if todo:
        _, most = workers.actors or (cluster.slots(0),) * 2
        rows = {name_of(group): group.rows for group in todo}
        bar = progress.Progress("windows", sum(rows.values()))
        matched = 0
        arguments = {"settings": settings, "source": source}
        texts = map(rematching.encode_group, todo)
        for text, _ in pool.actors(rematching.Rematcher, arguments, texts, most, opts.note, num_cpus=1):
            gathering.add(text)
            matched += rows[json.loads(text)["unit"]]
            bar.update(matched)
        bar.close()
    return work.done + gathering.outcomes()
