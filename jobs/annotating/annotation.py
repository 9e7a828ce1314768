"""Annotating an archive: what is new in it is decoded, embedded and matched."""

from __future__ import annotations

import dataclasses
import operator
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate import accounting, plan, record, throughput
from inference.annotate.accounting import Totals
from inference.annotate.ledger import Ledger, Outcomes
from inference.annotate.plan import Plan
from inference.annotate.record import Record
from inference.archive import listing, recorders
from inference.archive.listing import Listing
from inference.archive.sites import SiteRule
from inference.match import codes
from jobs.annotating import dry_run, say, units
from jobs.annotating.options import Command, Matching, Recordings, Workers
from jobs.annotating.steps import Earlier, Job, Made
from jobs.shared import cluster, tracking
from songsight.errors import UserError
from songsight.reasons import RETRIED
from songsight.store import urls

if TYPE_CHECKING:
    from inference.annotate.annotator import Settings
    from jobs.annotating.inputs import Inputs


@dataclass(frozen=True)
class Work:
    """What the annotators are to do.

    Attributes:
        state: of the run.
        seen: the inventory of the recordings to annotate, `inventory.SEEN`.
        done: what earlier starts did.
        planned: the rest, in units, and what holds of the former.
        settings: of the annotators.
        gpus: of each.
        actors: the fewest side by side, and the most.
        begun: `time.monotonic()` when Ray was there.
    """

    state: Ledger
    seen: pa.Table
    done: Outcomes
    planned: Plan
    settings: Settings
    gpus: float
    actors: tuple[int, int]
    begun: float


@dataclass(frozen=True)
class Annotated(Made):
    """What the annotators made of an archive.

    Attributes:
        archive: URL.
        files: in it.
        sums: of the recordings that are in the archive now.
        now: of those that were annotated now.
        pace: see `throughput.summary`.
        vectors: how the windows' vectors are kept.
        codes: what sign codes lose, see `codes.Kept.shares`; None for other vectors.
    """

    archive: str
    files: Listing
    sums: Totals
    now: Totals
    pace: dict[str, Any]
    vectors: str
    codes: dict[str, Any] | None

    def figures(self, run_id: str, elapsed_s: float) -> Record:
        """What `run.json` says of recordings, windows and pace."""
        sums = self.sums
        return Record(
            run_id=run_id,
            archive=self.archive,
            files_found=len(self.files),
            annotated=sums.annotated,
            quarantined=sums.quarantined,
            partial=sums.partial,
            skipped=self.files.skipped,
            gone=len(self.recordings) - sums.annotated - sums.quarantined,
            to_retry=sums.to_retry,
            hours=sums.annotated_s / 3600,
            windows=sums.windows,
            hits=sums.hits,
            elapsed_s=elapsed_s,
            audio_hours_per_hour=self.now.annotated_s / elapsed_s,
            windows_per_s=self.now.windows / elapsed_s,
            **self.pace,
            embeddings=self.vectors,
            codes=self.codes,
        )

    def say(self, out: str, told: Record) -> None:
        """Prints what came of it."""
        say.annotated(out, told, self.sums, self.now)


class Annotation(Job):
    """Annotates an archive.

    Args:
        command: as it was given.
        recordings: which, and what hears them.
        matching: what their windows are matched with.
        workers: how many work side by side.
    """

    def __init__(self, command: Command, recordings: Recordings, matching: Matching, workers: Workers) -> None:
        super().__init__(command)
        self.archive = urls.absolute(recordings.archive)
        self.recordings, self.matching, self.workers = recordings, matching, workers

    def look(self) -> str:
        """Lists the archive."""
        with say.counting("files found") as found:
            self.files = listing.listing(self.recordings.archive, progress=found)
        return self.files.fingerprint()

    def load(self) -> Inputs:
        """Loads model and gallery, and starts Ray meanwhile."""
        try:
            recorders.parse_zone(self.recordings.timezone)
        except UserError as error:
            raise UserError(f"--timezone: {error}") from None
        self.sites = SiteRule.parse(self.recordings.site, self.archive)
        # Behind a finished run there is often nothing for Ray to do.
        beside = cluster.connect_beside if record.read(self.command.out) is None else operator.call
        self.inputs = beside(self._load)
        return self.inputs

    def _load(self) -> Inputs:
        from jobs.annotating import inputs  # imports torch

        loaded = inputs.of_model(self.recordings, self.matching, self.workers.gpus)
        if not self.command.dry_run:
            tracking.experiment("annotate")  # a store's tables take a second to make: here nothing waits for it
        return loaded

    def compare(self, earlier: Earlier) -> bool:
        """Whether recordings were added or have changed; a dry run shows its plan where none were, too."""
        self.earlier = earlier
        self.change = listing.compare(
            self.files.table, earlier.recordings, RETRIED, lambda paths: listing.readable(self.archive, paths)
        )
        self.unreached = self.change.unreached
        say.change(self.files, self.change, earlier.record is not None)
        return bool(len(self.change.todo)) or self.command.dry_run

    def plan(self, state: Ledger) -> None:
        """Reads headers, and cuts the recordings into units of work."""
        asked, keep = self.recordings, not self.command.dry_run
        cluster.connect()
        begun = time.monotonic()
        gpus = min(1, cluster.gpus()) if self.workers.gpus is None else self.workers.gpus
        actors = self.workers.actors or (cluster.slots(gpus),) * 2
        if keep:
            state.begin()
        seen = units.inventory(self.change.todo, asked.archive, asked.timezone, self.sites, state, keep)
        done = state.finished()
        settings = dataclasses.replace(
            self.inputs.settings(state, self.archive, asked.batch_size),
            device="cuda" if gpus else "cpu",
            decoders=units.decoders(self.archive, gpus, actors[1]),
            embeddings=asked.embeddings,
            channel=asked.channel,
        )
        planned = plan.make(seen, self.inputs.windows, done)
        self.work = Work(state, seen, done, planned, settings, gpus, actors, begun)

    def describe(self) -> str:
        """The plan as `--dry-run` prints it."""
        work = self.work
        return dry_run.describe(self.files, work.planned, work.settings, work.actors, work.gpus, self.inputs.band_hz)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of what goes in, for MLflow."""
        return self.inputs.fingerprints | {"archive": self.files.fingerprint()}

    def do(self) -> Annotated:
        """Annotates the units, and closes the books on each recording."""
        work, windows = self.work, self.inputs.windows
        work.state.keep("inventory", work.seen)
        settings = self.inputs.with_names(work.settings, work.state)
        paces: list[str] = []
        fresh = units.run_units(settings, work.planned, work.actors[1], work.gpus, paces)
        outcomes = work.done.of(work.planned.accepted) + fresh
        settled = accounting.settle(work.seen, outcomes.files, self.inputs.band_hz)
        before = self.earlier.recordings
        kept = before.filter(pc.invert(pc.is_in(before["path"], work.seen["path"])))
        recordings = pa.concat_tables([kept, settled]).sort_by("path")
        here = recordings.filter(pc.is_in(recordings["path"], self.files.table["path"]))
        vectors = self.recordings.embeddings
        return Annotated(
            recordings=recordings,
            hits=outcomes.parts,
            embeddings=None if vectors == "none" else outcomes.heard,
            replaced=self.change.changed_paths,
            begun=work.begun,
            archive=self.archive,
            files=self.files,
            sums=accounting.totals(here, windows),
            now=accounting.totals(settled, windows),
            pace=throughput.summary(paces, self.command.begun_at),
            vectors=vectors,
            codes=codes.total(outcomes.codes).shares() if vectors == "binary" else None,
        )
