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
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jobs.annotating.options import Command, Matching, Recordings, Workers
from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    from jobs.annotating.inputs import Inputs
    from jobs.annotating.steps import Job

DECIDED = ("archive", "model", "window_s", "hop_s", "timezone", "site", "channel")
"""Options that the earlier run has decided where its windows are matched again."""
IDLE = ("precision", "batch_size", "gpus_per_actor")
"""Options of an encoder, which has no part in that."""


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
    """file with one scientific name a line (BirdNET's `Genus epithet_Common Name` too), or a table with
    scientific_name: no other species is hit"""
    timezone: str | None = None
    """clock of recorders whose file names give no offset, such as Europe/Berlin or +02:00"""
    site: str | None = None
    """what of a path is the site: a folder level such as 1, or a regular expression such as '(SM\\d+)_', whose group
    counts (one named site, else the first); the recording's folder if not given"""
    channel: str = field(default="mean", metadata={"in_0_1": "mean"})
    """which channel of a recording is heard: mean (of all of them; where they cancel, the loudest), left, right,
    loudest (of each minute), or a number from 1"""
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
    """Annotates an archive, or matches an earlier run's windows again, and writes the run's tables."""
    command = as_command(options)
    check(options)
    # Behind the check of the options, which is to answer at once: these import Arrow, and what they do torch and Ray.
    from jobs.annotating import identity, say, steps
    from songsight.store import lease

    job = _job(options, command)

    # Load. What there is, by names, sizes and times, mostly tells that there is nothing to do.
    if not options.dry_run:
        identity.require_new_or_writable(options.out)
    stamp = steps.stamp(job)
    if done := steps.done_before(job, stamp):
        say.nothing_to_do(options.out, done.run_id, done.to_retry if options.archive else 0)
        return
    inputs = job.load()

    # One run at a time is at --out. A finished one may lie where nothing can be written.
    with contextlib.nullcontext() if options.dry_run else lease.held(options.out, or_read_only=True):
        _annotate(options, command, job, inputs, stamp)


def _annotate(options: Options, command: Command, job: Job, inputs: Inputs, stamp: str) -> None:
    """The same behind the loading, while no other run is at `--out`."""
    from jobs.annotating import finalize, identity, say, steps
    from jobs.shared import tracking
    from songsight.store import urls

    # Check: that no other run lies at --out, and what of this one is done.
    state = identity.claim(command, inputs)
    earlier = steps.earlier(state)
    if not job.compare(earlier) and earlier.finished:
        if not options.dry_run:
            finalize.again(state, command, earlier.finished, stamp)
        say.nothing_to_do(options.out, state.run_id, job.unreached)
        return
    if not options.dry_run:
        urls.require_writable(options.out, "--out")
        tracking.experiment("annotate")
    job.plan(state)
    if options.dry_run:
        print(job.describe())
        return

    with finalize.logged(state, command.options, job.fingerprints()) as ending:
        # Do.
        made = job.do()
        # Keep: the tables, and run.json last.
        steps.keep(made, state, earlier.next_round)
        figures = made.figures(state.run_id, time.monotonic() - made.begun)
        told = steps.tell(figures, command, inputs, earlier.next_round, ending.mlflow_run, stamp)
        ending.conclude(told)

    # Say.
    made.say(options.out, told)


def check(options: Options) -> None:
    """Raises UserError where an option is wrong by itself, before anything heavy is imported, or read."""
    from songsight.audio import channels

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
    channels.parse(options.channel, "--channel")
    if options.min_probability is not None:
        if not 0 <= options.min_probability <= 1:
            raise UserError(f"--min-probability should be from 0 to 1 (got {options.min_probability:g})")
        if options.calibration is None:
            raise UserError("--min-probability needs --calibration: without one a score is no probability")
    opts.require_files(species_list=options.species_list, calibration=options.calibration, range=options.range)
    if options.from_embeddings:
        _check_rematch(options)
    elif options.archive is None or options.model is None:
        raise UserError("--archive and --model are needed (or --from-embeddings, with an earlier run's embeddings)")


def _check_place(options: Options) -> None:
    for name, value, most in (("latitude", options.latitude, 90), ("longitude", options.longitude, 180)):
        if value is None:
            continue
        if not -most <= value <= most:
            raise UserError(f"--{name} should be degrees from -{most} to {most} (got {value:g})")
        if options.range is None or options.latitude is None or options.longitude is None:
            raise UserError(f"--{name} needs the other coordinate and --range")


def _check_rematch(options: Options) -> None:
    usual = {each.name: each.default for each in dataclasses.fields(Options)}
    for name in DECIDED:
        if getattr(options, name) != usual[name]:
            raise UserError(f"{opts.flag(name)}: with --from-embeddings the earlier run has decided it: leave it out")
    for name in IDLE:
        if getattr(options, name) != usual[name]:
            raise UserError(f"{opts.flag(name)}: with --from-embeddings no encoder is at work: leave it out")
    if options.embeddings != "none":
        raise UserError("--embeddings: with --from-embeddings they are kept already: leave it out")


def as_command(options: Options) -> Command:
    """The command that gives these options, now."""
    since = {each.name: each.metadata["in_0_1"] for each in dataclasses.fields(options) if "in_0_1" in each.metadata}
    return Command(options.out, options.dry_run, opts.as_dict(options), since, time.time())


def _job(options: Options, command: Command) -> Job:
    """What is to be done, with the options that it needs."""
    from jobs.annotating import annotation, rematch

    matching = Matching(
        gallery=options.gallery,
        species_list=options.species_list,
        top_k=options.top_k,
        min_score=options.min_score,
        score=options.score,
        bridge=options.bridge,
        calibration=options.calibration,
        min_probability=options.min_probability,
        range=options.range,
        latitude=options.latitude,
        longitude=options.longitude,
    )
    workers = Workers(opts.parse_range(options.actors, "--actors"), options.gpus_per_actor)
    if options.from_embeddings:
        return rematch.Rematch(command, options.from_embeddings, matching, workers)
    assert options.archive is not None
    assert options.model is not None
    recordings = Recordings(
        archive=options.archive,
        model=options.model,
        window_s=options.window_s,
        hop_s=options.hop_s,
        timezone=options.timezone,
        site=options.site,
        embeddings=options.embeddings,
        batch_size=options.batch_size,
        precision=options.precision,
        channel=options.channel,
    )
    return annotation.Annotation(command, recordings, matching, workers)


if __name__ == "__main__":
    from jobs.cli import command

    command("annotate")
