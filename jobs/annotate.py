"""Find what sang in an archive: species hits matched with photographs.

    songsight annotate --archive s3://forest/2025 --gallery gallery --model model --out annotated

Below `--out`: `hits/`, `quarantine/` and `recordings/` (Parquet) and `run.json`. A file that cannot be used goes to
quarantine with a reason and never stops the job. The same command goes on where a stopped one was; behind a finished
one it does what was added to the archive since. `docs/annotate.md` tells the rest.

    songsight annotate --from-embeddings annotated --gallery other --out again

matches the windows of a run that kept its `--embeddings` with another gallery or species list, without decoding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.reasons import RETRIED

if TYPE_CHECKING:
    import pyarrow as pa

    from inference.annotate.accounting import Totals
    from inference.annotate.annotator import Settings
    from inference.annotate.ledger import Ledger, Outcomes
    from inference.annotate.plan import Plan
    from inference.archive.listing import Change, Listing
    from inference.match.calibration import Calibration
    from inference.match.scoring import Scoring
    from jobs.annotating.inputs import Prepared

MOST_DECODERS = 16
UNITS_TIMED = 10_000
"""Behind so many units the pace of a run is known."""


@dataclass(frozen=True)
class Options:
    """Options of `songsight annotate`."""

    gallery: str
    """gallery of photographs, made by `songsight gallery`"""
    out: str
    """folder or URL for the results"""
    archive: str | None = None
    """folder or URL of recordings, searched through and through"""
    model: str | None = None
    """model made by `songsight distill`: folder, URL, or registered: models:/songsight/3, models:/songsight@champion;
    or an untouched ClapModel such as davidrrobinson/BioLingual, whose own texts then name the species (zero-shot)"""
    from_embeddings: str | None = None
    """instead of an archive and a model: results of an earlier run with --embeddings, to be matched again"""
    window_s: float | None = None
    """length of a window in seconds; the model's own clip if not given, and at most that"""
    hop_s: float | None = None
    """seconds from one window's start to the next one's; the window's length if not given"""
    top_k: int = 3
    """most species a window may have"""
    min_score: float = 0.0
    """lowest score that is a hit: a cosine, see --score"""
    score: Literal["max", "mean-top-3", "prototype"] = "max"
    """a species' score: the cosine of the window and its most similar photograph, the mean of its three most similar
    ones, or the cosine of the mean of its photographs"""
    bridge: float = 0.25
    """how far a window's vector is first drawn towards the texts of the species it resembles, from 0 (not) to 1"""
    calibration: str | None = None
    """what `songsight calibrate` made of this model's and gallery's scores: hits then carry a probability"""
    min_probability: float | None = None
    """lowest probability that is a hit, from 0 to 1; needs --calibration"""
    embeddings: Literal["none", "float16", "binary"] = field(default="none", metadata={"bare": "float16"})
    """keep the windows' vectors for --from-embeddings: as float16 (what --embeddings alone means) or as sign codes, 16
    times smaller, whose loss of recall is measured"""
    range: str | None = None
    """table of where and when species are to be expected (scientific_name, weight, latitude, longitude, week or month):
    scores are weighed by it, see docs/hits.md"""
    latitude: float | None = None
    """degrees north, of recordings that do not say where they were made; for --range"""
    longitude: float | None = None
    """degrees east"""
    merge_gap_s: float | None = None
    """merge a species' windows that are no more than so many seconds apart into detections; no table of them if not
    given"""
    species_list: str | None = None
    """file with one scientific name a line (BirdNET's `Genus epithet_Common Name` too): no other species is hit"""
    timezone: str | None = None
    """clock of recorders whose file names give no offset, such as Europe/Berlin or +02:00"""
    site: str | None = None
    """what of a path is the site: a folder level such as 1, or a regular expression such as '(SM\\d+)_', whose group
    counts (one named site, else the first); the recording's folder if not given"""
    dry_run: bool = False
    """print the plan, with the hours it would take, and write nothing"""
    batch_size: int = 16
    """windows in one pass of the encoder"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """numbers that the encoder works in; auto: bf16 on GPUs and on CPUs like this machine's if it multiplies bf16 in
    hardware, else fp32. A run that goes on on another machine should be given what it was begun with"""
    actors: str | None = None
    """annotators side by side, such as 4, or 1:8 to grow with the cluster; one a GPU or else one a CPU if not given"""
    gpus_per_actor: float | None = None
    """GPUs of each annotator; 1 if the cluster has any, else 0. Give it where GPU nodes are yet to be started"""


def main(options: Options) -> None:
    """Annotates an archive and writes its tables."""
    begun_at = time.time()
    check(options)
    if options.from_embeddings:
        from jobs.annotating import rematch

        rematch.main(options)
        return
    if options.archive is None or options.model is None:
        raise UserError("--archive and --model are needed (or --from-embeddings, with an earlier run's embeddings)")
    from inference.annotate import rerun
    from inference.archive import listing
    from jobs.annotating import identity

    if not options.dry_run:
        identity.require_new_or_writable(options.out)
    with counting("files found") as found:
        files = listing.listing(options.archive, progress=found)
    mark = rerun.stamp(opts.as_dict(options), files.fingerprint())
    if not options.dry_run and (done := rerun.is_done(options.out, mark, options.archive)):
        _say_done(options.out, done["run_id"], done["to_retry"])
        return
    import pyarrow as pa
    import pyarrow.compute as pc

    from inference.annotate import accounting, ledger, plan, publish, record
    from inference.annotate import throughput as pace
    from inference.archive import recorders, sites
    from inference.match import codes
    from jobs.annotating import finalize
    from jobs.shared import cluster, tracking
    from songsight.store import urls

    try:
        recorders.parse_zone(options.timezone)
    except UserError as error:
        raise UserError(f"--timezone: {error}") from None
    archive = urls.absolute(options.archive)
    rule = sites.SiteRule.parse(options.site, archive)
    # Behind a finished run there is often nothing for Ray to do.
    beside = cluster.connect_beside if record.read(options.out) is None else operator.call
    ready = beside(lambda: _prepared(options))
    from inference.annotate import annotator

    windows, fingerprints = ready.windows, ready.fingerprints
    run_id = identity.run_identity(options, windows, ready.species, fingerprints | {"precision": ready.precision})
    state = ledger.Ledger(urls.absolute(options.out), run_id)
    identity.refuse_another(options.out, state)
    before, recordings = publish.earlier(state)
    change = listing.compare(files.table, recordings, RETRIED, lambda paths: listing.readable(archive, paths))
    _say_change(files, change, before)
    # Killed while its tables changed it has to go on, even if what was added is gone again.
    if before and not len(change.todo) and not options.dry_run and record.read(options.out):
        finalize.again(state, opts.as_dict(options), before, mark)
        _say_done(options.out, run_id, change.unreached)
        return

    if not options.dry_run:
        urls.require_writable(options.out, "--out")
    cluster.connect()
    begin = time.monotonic()
    gpus = min(1, cluster.gpus()) if options.gpus_per_actor is None else options.gpus_per_actor
    actors = opts.parse_range(options.actors, "--actors") or (cluster.slots(gpus),) * 2
    if not options.dry_run:
        state.begin()
    seen = _inventory(change.todo, options, rule, state)
    outcomes = state.finished()
    planned = plan.make(seen, windows, outcomes)
    settings = annotator.Settings(
        run_id=run_id,
        archive=archive,
        out=urls.absolute(options.out),
        model=ready.model,
        gallery=urls.absolute(options.gallery),
        windows=windows,
        top_k=options.top_k,
        min_score=options.min_score,
        species=ready.species,
        batch_size=options.batch_size,
        device="cuda" if gpus else "cpu",
        threads=1,
        decoders=_decoders(archive, gpus, actors[1]),
        scoring=scoring(options, ready.encoder, None, ready.calibrated),
        embeddings=options.embeddings,
        precision=ready.precision,
    )
    if options.dry_run:
        from jobs.annotating import dry_run as plan_text

        print(plan_text.describe(files, planned, settings, actors, gpus, ready.band_hz))
        return
    prints = fingerprints | {"archive": files.fingerprint()}
    with finalize.logged(state, opts.as_dict(options), prints) as ending:
        state.keep("inventory", seen)
        if ready.names:
            kept_names = ready.names.keep(options.out, run_id)
            settings = dataclasses.replace(settings, scoring=dataclasses.replace(settings.scoring, names=kept_names))
        paces: list[str] = []
        outcomes = outcomes.of(planned.accepted) + run_units(settings, planned, actors[1], gpus, paces)
        fresh = accounting.settle(seen, outcomes.files, ready.band_hz)
        kept = recordings.filter(pc.invert(pc.is_in(recordings["path"], seen["path"])))
        recordings = pa.concat_tables([kept, fresh]).sort_by("path")
        round_number = (before["round"] if before else 0) + 1
        with counting("hits filed") as filed:
            publish.publish(
                state,
                recordings,
                outcomes.parts,
                round_number,
                change.changed_paths,
                filed,
                None if options.embeddings == "none" else outcomes.heard,
            )
        here = recordings.filter(pc.is_in(recordings["path"], files.table["path"]))
        sums = accounting.totals(here, windows)
        now = accounting.totals(fresh, windows)
        elapsed = time.monotonic() - begin
        shares = codes.total(outcomes.codes).shares() if options.embeddings == "binary" else None
        ending.conclude(
            {
                "run_id": run_id,
                "round": round_number,
                "mlflow_run": ending.mlflow_run,
                "archive": settings.archive,
                "gallery": settings.gallery,
                "files_found": len(files),
                "annotated": sums.annotated,
                "quarantined": sums.quarantined,
                "partial": sums.partial,
                "skipped": files.skipped,
                "gone": len(recordings) - len(here),
                "to_retry": sums.to_retry,
                "hours": sums.annotated_s / 3600,
                "windows": sums.windows,
                "hits": sums.hits,
                "elapsed_s": elapsed,
                "audio_hours_per_hour": now.annotated_s / elapsed,
                "windows_per_s": now.windows / elapsed,
                **pace.summary(paces, begun_at),
                "begun_at": begun_at,
                "precision": ready.precision,
                "window_s": windows.window_s,
                "hop_s": windows.hop_s,
                "encoder": ready.encoder,
                "scored_with": ready.made_with,
                "embeddings": options.embeddings,
                "codes": shares,
                "fingerprints": fingerprints,
                "versions": tracking.versions(),
                "options": opts.as_dict(options),
                "stamp": mark,
            }
        )
    _say(options.out, files, sums, now, elapsed)
    if shares and shares["windows"]:
        print(
            f"sign codes, measured on {shares['windows']} windows: the same best species for "
            f"{shares['same_best_species']:.1%}, {shares['recall_of_images']:.1%} of the ten most similar photographs"
        )


def _prepared(options: Options) -> Prepared:
    from jobs.annotating import inputs as prepared
    from jobs.shared import tracking  # imports torch

    ready = prepared.prepare(options)
    if not options.dry_run:
        tracking.experiment("annotate")  # a store's tables take a second to make: here nothing waits for it
    return ready


def _decoders(archive: str, gpus: float, actors: int) -> int:
    """How many recordings an annotator decodes side by side.

    A GPU embeds as fast as all of its node's cores can decode. A core that embeds has no time to win by decoding beside
    itself, but that of waiting for a store.
    """
    from jobs.shared import cluster
    from songsight.store import urls

    if gpus:
        return max(2, min(MOST_DECODERS, cluster.slots(0) // actors))
    return 2 if urls.is_remote(archive) else 1


def check(options: Options) -> None:
    """Raises UserError where an option is wrong by itself, before anything is imported or read."""
    opts.require_positive(
        window_s=options.window_s,
        hop_s=options.hop_s,
        top_k=options.top_k,
        batch_size=options.batch_size,
    )
    opts.require_at_least(0, gpus_per_actor=options.gpus_per_actor, merge_gap_s=options.merge_gap_s)
    opts.parse_range(options.actors, "--actors")
    if not -1 <= options.min_score <= 1:
        raise UserError(f"--min-score should be a cosine, from -1 to 1 (got {options.min_score:g})")
    if not 0 <= options.bridge <= 1:
        raise UserError(f"--bridge should be from 0 to 1 (got {options.bridge:g})")
    _check_place(options)
    if options.min_probability is not None:
        if not 0 <= options.min_probability <= 1:
            raise UserError(f"--min-probability should be from 0 to 1 (got {options.min_probability:g})")
        if options.calibration is None:
            raise UserError("--min-probability needs --calibration: without one a score is no probability")
    opts.require_files(species_list=options.species_list, calibration=options.calibration, range=options.range)


def scoring(options: Options, encoder: dict[str, Any], names: str | None, calibrated: Calibration | None) -> Scoring:
    """How species are scored.

    Args:
        options: of the run.
        encoder: see `naming.describe`.
        names: URL of the names that an untouched ClapModel may give.
        calibrated: of the scores.
    """
    from inference.match.scoring import Scoring
    from songsight.store import urls

    bridge = 0.0 if encoder["method"] == "zero-shot" else options.bridge
    return Scoring(
        options.score,
        bridge,
        encoder["temperature"],
        encoder["method"],
        names,
        calibrated,
        options.min_probability or 0.0,
        urls.absolute(options.range) if options.range else None,
        (options.latitude, options.longitude),
    )


def _check_place(options: Options) -> None:
    for name, value, most in (("latitude", options.latitude, 90), ("longitude", options.longitude, 180)):
        if value is None:
            continue
        if not -most <= value <= most:
            raise UserError(f"--{name} should be degrees from -{most} to {most} (got {value:g})")
        if options.range is None or options.latitude is None or options.longitude is None:
            raise UserError(f"--{name} needs the other coordinate and --range")


def run_units(settings: Settings, planned: Plan, most: int, gpus: float, paces: list[str]) -> Outcomes:
    """Runs the annotators over the units that are yet to be done.

    Args:
        settings: of the run.
        planned: what is to be done.
        most: annotators side by side.
        gpus: of each annotator.
        paces: takes what `Pace.stop` says of each of the first units.
    """
    from inference.annotate import annotator, ledger
    from jobs.shared import progress
    from songsight import pool

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


def _inventory(todo: pa.Table, options: Options, rule: Any, state: Ledger) -> pa.Table:
    """The inventory of the recordings to annotate, as far as possible from what an earlier start read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from inference.annotate import plan
    from inference.archive import inventory as archive
    from jobs.shared import progress

    assert options.archive
    parts = [part for part in state.kept_parts("inventory") if part.schema.equals(archive.SEEN)]
    kept = pa.concat_tables([archive.SEEN.empty_table(), *parts])
    at = pc.index_in(todo["path"], kept["path"])
    same = pc.fill_null(pc.equal(plan.versions(kept).take(at), plan.versions(todo)), False)
    same = pc.and_(same, pc.invert(pc.is_in(kept["reason"].take(at), pa.array(RETRIED))))
    unread = todo.filter(pc.invert(same))
    bar = progress.Progress("headers", len(unread))
    keep = None if options.dry_run else functools.partial(state.keep_part, "inventory")
    fresh = archive.inventory(unread, options.archive, options.timezone, rule, bar.update, keep)
    if len(unread):
        bar.close()
    return pa.concat_tables([kept.take(at.filter(same)), fresh]).sort_by("path").combine_chunks()


def _say_change(files: Listing, change: Change, before: dict[str, Any] | None) -> None:
    opts.note(f"{len(files)} recordings found, {files.skipped} other files skipped")
    if files.closed:
        opts.note(f"{len(files.closed)} folders may not be looked into, such as {files.closed[0]}")
    if before:
        opts.note(
            f"since the last run: {change.added} added, {change.changed} changed, "
            f"{change.retried} to be tried again, {len(change.removed)} gone"
        )
    if len(change.removed):
        opts.note(
            f"what is gone from the archive keeps its rows, such as {change.removed[0]}; a new --out has none of it"
        )


def _say_done(out: str, run_id: str, unreached: int) -> None:
    if unreached:
        opts.note(f"{unreached} recordings still cannot be reached")
    print(f"{out} already holds this run ({run_id}): nothing to do")


def _say(out: str, files: Listing, sums: Totals, now: Totals, elapsed: float) -> None:
    partial = f", {sums.partial} of them in part" if sums.partial else ""
    print(
        f"{len(files)} recordings in = {sums.annotated} annotated{partial} + "
        f"{sums.quarantined} quarantined; {files.skipped} other files skipped"
    )
    if sums.reasons:
        print("  quarantine: " + ", ".join(f"{count} {reason}" for reason, count in sums.reasons.items()))
    if sums.to_retry:
        print(f"  {sums.to_retry} could not be reached: the same command tries them again")
    print(
        f"{now.annotated_s / 3600:.2f} h, {now.windows} windows, {now.hits} hits in {elapsed:.0f} s "
        f"({now.annotated_s / elapsed:.0f}× real time)"
    )
    print(f"results: {out}")


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Says now and then how far something without a known end is; nothing where it is over at once."""
    from jobs.shared import progress

    tally = progress.Progress(what)
    yield tally.update
    tally.close()


if __name__ == "__main__":
    from jobs.cli import command

    command("annotate")
