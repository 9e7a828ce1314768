"""The work that is spread over a cluster: reading recordings' headers, and annotating units of their sound."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate import ledger, plan
from inference.annotate.ledger import Outcomes
from inference.annotate.plan import Plan
from inference.archive import inventory as headers
from inference.archive.sites import SiteRule
from jobs.shared import cluster, progress
from jobs.shared import options as opts
from songsight import pool
from songsight.reasons import RETRIED
from songsight.store import urls

if TYPE_CHECKING:
    from inference.annotate.annotator import Settings

MOST_DECODERS = 16
UNITS_TIMED = 10_000
"""Behind so many units the pace of a run is known."""


def inventory(
    todo: pa.Table, archive: str, timezone: str | None, rule: SiteRule, state: ledger.Ledger, keep: bool
) -> pa.Table:
    """The inventory of the recordings to annotate, as far as possible from what an earlier start read.

    Args:
        todo: `listing.SCHEMA`.
        archive: URL of the recordings.
        timezone: `--timezone`.
        rule: what site a path belongs to.
        state: of the run.
        keep: whether the state takes what is read, for a run that goes on when it is stopped.

    Returns:
        `inventory.SEEN`, sorted by path.
    """
    parts = [part for part in state.kept_parts("inventory") if part.schema.equals(headers.SEEN)]
    kept = pa.concat_tables([headers.SEEN.empty_table(), *parts])
    at = pc.index_in(todo["path"], kept["path"])
    same = pc.fill_null(pc.equal(plan.versions(kept).take(at), plan.versions(todo)), False)
    same = pc.and_(same, pc.invert(pc.is_in(kept["reason"].take(at), pa.array(RETRIED))))
    unread = todo.filter(pc.invert(same))
    bar = progress.Progress("headers", len(unread))
    take: Callable[[pa.Table], None] | None = functools.partial(state.keep_part, "inventory") if keep else None
    fresh = headers.inventory(unread, archive, timezone, rule, bar.update, take)
    if len(unread):
        bar.close()
    return pa.concat_tables([kept.take(at.filter(same)), fresh]).sort_by("path").combine_chunks()


def run_units(settings: Settings, planned: Plan, most: int, gpus: float, paces: list[str]) -> Outcomes:
    """Runs the annotators over the units that are yet to be done.

    Args:
        settings: of the run.
        planned: what is to be done.
        most: annotators side by side.
        gpus: of each annotator.
        paces: takes what `Pace.stop` says of each of the first units.
    """
    from inference.annotate import annotator  # imports torch

    gathering = ledger.Gathering()
    if not planned.units:
        return gathering.outcomes()
    if len(planned.accepted):
        opts.note(f"{len(planned.accepted)} units were annotated by an earlier start, {planned.units} are to be done")
    bar = progress.Progress("windows", planned.todo_windows)
    done = 0
    resources = {"num_cpus": 1, "num_gpus": gpus}
    texts = itertools.starmap(annotator.encode_unit, planned.each())
    for text, pace in pool.actors(annotator.Annotator, {"settings": settings}, texts, most, opts.note, **resources):
        if len(paces) < UNITS_TIMED:
            paces.append(pace)
        gathering.add(text)
        done += sum(count for file in json.loads(text)["files"] for _, count in file["spans"])
        bar.update(done)
    bar.close()
    return gathering.outcomes()


def decoders(archive: str, gpus: float, actors: int) -> int:
    """How many recordings an annotator decodes side by side.

    A GPU embeds as fast as all of its node's cores can decode. A core that embeds has no time to win by decoding beside
    itself, but that of waiting for a store.

    Args:
        archive: URL of the recordings.
        gpus: of each annotator.
        actors: annotators side by side.
    """
    if gpus:
        return max(2, min(MOST_DECODERS, cluster.slots(0) // actors))
    return 2 if urls.is_remote(archive) else 1
