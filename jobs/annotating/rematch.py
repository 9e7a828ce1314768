"""`songsight annotate --from-embeddings`: an earlier run's windows against another gallery, species list or score.

Nothing is decoded, and the model is not loaded: site, clock and fate of each recording are the earlier run's. When that
run has grown since, the same command matches what is new in it.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from jobs import annotate
from jobs.annotating import identity
from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from inference.annotate.annotator import Settings
    from inference.annotate.ledger import Outcomes
    from inference.annotate.source import Source
    from inference.match.embeddings import Group

DECIDED = ("archive", "model", "window_s", "hop_s", "timezone", "site")
"""Options that the earlier run has decided."""
IDLE = ("precision", "batch_size", "gpus_per_actor")
"""Options of an encoder, which has no part in it."""
INHERITED = (
    *("archive", "files_found", "annotated", "quarantined", "partial", "skipped", "gone", "to_retry", "hours"),
    *("window_s", "hop_s", "encoder"),
)
"""What `run.json` says of the recordings and windows, which are the earlier run's."""
BATCH = 128


def main(options: annotate.Options) -> None:
    """Matches kept windows and writes the tables of a run."""
    begun_at = time.time()
    _check(options)
    assert options.from_embeddings is not None
    from inference.annotate import rerun
    from inference.annotate import source as sources

    if not options.dry_run:
        identity.require_new_or_writable(options.out)
    source = sources.read(options.from_embeddings)
    mark = rerun.stamp(opts.as_dict(options), source.mark())
    if not options.dry_run and (done := rerun.is_done(options.out, mark)):
        print(f"{options.out} already holds this run ({done['run_id']}): nothing to do")
        return
    import pyarrow as pa

    from inference.annotate import accounting, ledger, publish, record
    from inference.annotate.annotator import Settings
    from inference.archive import spans
    from inference.match import embeddings, gallery
    from jobs.annotating import finalize
    from jobs.annotating import species as naming
    from jobs.shared import cluster, tracking
    from songsight.models import clap as claps
    from songsight.models import encoder as encoders
    from songsight.store import urls

    encoder = source.encoder
    shown = gallery.read(options.gallery, thumbnails=False)
    names: naming.Names | None = None
    species = None
    if encoder["method"] == "zero-shot":
        naming.check_zero_shot(options)
        clap, text = claps.load(encoder["model"], option="--from-embeddings")
        if encoders.fingerprint(clap) != source.record["fingerprints"]["model"]:
            raise UserError(
                f"--from-embeddings {options.from_embeddings}: {encoder['model']} is no longer the model that heard it"
            )
        names = naming.zero_shot(options.species_list, shown, text)
    else:
        shown.check_teacher(
            encoder["width"], encoder["teacher_fingerprint"], "--gallery", f"the run at {options.from_embeddings}"
        )
        species = naming.of_gallery(options.species_list, shown) if options.species_list else None
    windows = spans.Windows(source.record["window_s"], source.record["hop_s"])
    fingerprints = {
        "model": source.record["fingerprints"]["model"],
        "gallery": shown.fingerprint(),
        "embeddings": source.record["run_id"],
    }
    if names:
        fingerprints["names"] = names.fingerprint()
    naming.check_range(options, fingerprints)
    coded = source.record["embeddings"] == "binary"
    made_with = naming.scored_with(options, encoder, shown, fingerprints, "binary" if coded else "float")
    calibrated = naming.calibrated(options, made_with, fingerprints)
    run_id = identity.run_identity(options, windows, species, fingerprints)
    state = ledger.Ledger(urls.absolute(options.out), run_id)
    identity.refuse_another(options.out, state)
    before, known = publish.earlier(state)
    heard = source.table("recordings")
    differing = sources.differing(heard, known)
    complete = before is not None and record.read(options.out) is not None
    if complete and before and before["source_round"] == source.record["round"] and not len(differing):
        if not options.dry_run:
            finalize.again(state, opts.as_dict(options), before, mark)
        print(f"{options.out} already holds this run ({run_id}): nothing to do")
        return

    groups = embeddings.groups(urls.join(source.url, "embeddings"))
    todo, changed = _todo(groups, differing, before, known)
    finished = state.finished().of(pa.array([name_of(group) for group in todo], pa.string()))
    if options.dry_run:
        print(_plan(options, run_id, source, groups, todo, set(finished.files["unit"].to_pylist())))
        return
    urls.require_writable(options.out, "--out")
    cluster.connect()
    begin = time.monotonic()
    with finalize.logged(state, opts.as_dict(options), fingerprints) as ending:
        settings = Settings(
            run_id=run_id,
            archive=source.record["archive"],
            out=urls.absolute(options.out),
            model=encoder["model"],
            gallery=urls.absolute(options.gallery),
            windows=windows,
            top_k=options.top_k,
            min_score=options.min_score,
            species=species,
            batch_size=BATCH,
            device="cpu",
            threads=1,
            scoring=annotate.scoring(options, encoder, names.keep(options.out, run_id) if names else None, calibrated),
        )
        outcomes = _match(settings, source, finished, todo, opts.parse_range(options.actors, "--actors"))
        recordings = sources.with_hits(heard, known, outcomes.files, changed)
        round_number = (before["round"] if before else 0) + 1
        with annotate.counting("hits filed") as filed:
            publish.publish(state, recordings, outcomes.parts, round_number, changed, filed)
        sums = accounting.totals(recordings, windows)
        elapsed = time.monotonic() - begin
        matched, now = (sum(group.rows for group in some) for some in (groups, todo))
        told = {name: source.record.get(name) for name in INHERITED} | {
            "run_id": run_id,
            "round": round_number,
            "mlflow_run": ending.mlflow_run,
            "from_embeddings": source.url,
            "source_round": source.record["round"],
            "gallery": settings.gallery,
            "windows": matched,
            "hits": sums.hits,
            "elapsed_s": elapsed,
            "audio_hours_per_hour": source.record["hours"] * 3600 / elapsed * now / max(1, matched),
            "windows_per_s": now / elapsed,
            # No encoder was at work, whose pace and precision these are.
            **dict.fromkeys(("first_window_s", "steady_windows_per_s", "steady_between", "precision", "codes")),
            "begun_at": begun_at,
            "scored_with": made_with,
            "embeddings": "none",
            "fingerprints": fingerprints,
            "versions": tracking.versions(),
            "options": opts.as_dict(options),
            "stamp": mark,
        }
        ending.conclude(told)
    print(
        f"{told['hours']:.2f} h in {matched} kept windows, {now} of them matched, {sums.hits} hits in {elapsed:.0f} s; "
        f"recordings and quarantine are those of {options.from_embeddings}"
    )
    print(f"results: {options.out}")


def _check(options: annotate.Options) -> None:
    for name in DECIDED:
        if getattr(options, name) is not None:
            raise UserError(f"{opts.flag(name)}: with --from-embeddings the earlier run has decided it: leave it out")
    usual = {field.name: field.default for field in dataclasses.fields(annotate.Options)}
    for name in IDLE:
        if getattr(options, name) != usual[name]:
            raise UserError(f"{opts.flag(name)}: with --from-embeddings no encoder is at work: leave it out")
    if options.embeddings != "none":
        raise UserError("--embeddings: with --from-embeddings they are kept already: leave it out")


def name_of(group: Group) -> str:
    """The name of a row group's unit of work."""
    from inference.annotate import rematching

    return rematching.name_of(group)


def _todo(
    groups: list[Group], differing: pa.Array, before: dict[str, Any] | None, known: pa.Table
) -> tuple[list[Group], pa.Array]:
    """The row groups to match, and the recordings whose earlier hits are void.

    Args:
        groups: of the source, as it is now.
        differing: recordings of which it says other things than when it was matched before.
        before: `run.json` of that matching; None where there was none.
        known: its recordings.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from inference.match import embeddings

    if before is None:
        return groups, pa.array([], pa.string())
    # What the source has heard since lies in files of later rounds, and its rows of earlier ones were taken out.
    later = [group for group in groups if group.round > before["source_round"]]
    heard = embeddings.recordings(later)
    gone = pc.invert(pc.is_in(differing, heard))
    earlier = [group for group in groups if group.round <= before["source_round"]]
    if pc.any(pc.is_in(differing.filter(gone), embeddings.recordings(earlier))).as_py():
        # The source was made anew rather than added to.
        return groups, known["path"].combine_chunks()
    return later, pc.unique(pa.chunked_array([differing, heard], pa.string()))


def _plan(
    options: annotate.Options, run_id: str, source: Source, groups: list[Group], todo: list[Group], done: set[str]
) -> str:
    """What `--dry-run` prints."""
    left = [group for group in todo if name_of(group) not in done]
    all_rows, left_rows = (sum(group.rows for group in some) for some in (groups, left))
    hours = source.record["hours"]
    lines = [
        f"run {run_id}: {source.record['files_found']} recordings of {options.from_embeddings}, heard by "
        f"{source.encoder['model']}",
        f"  kept: {hours:.2f} h in {all_rows:,} windows of {source.record['window_s']:g} s every "
        f"{source.record['hop_s']:g} s, as {source.record['embeddings']}",
    ]
    if len(todo) < len(groups):
        lines.append(f"  as before: {len(groups) - len(todo)} of {len(groups)} row groups, matched by an earlier run")
    if done:
        lines.append(f"  done: {len(done)} row groups, by an earlier start")
    share = left_rows / max(1, all_rows)
    lines.append(
        f"  left: {hours * share:.2f} h of sound, {left_rows:,} windows in {len(left)} row groups; nothing is decoded"
        if left
        else "  left: nothing to match"
    )
    return "\n".join(lines)


def _match(
    settings: Settings, source: Source, finished: Outcomes, groups: list[Group], actors: tuple[int, int] | None
) -> Outcomes:
    """Runs the matching actors over the row groups that are not finished."""
    from inference.annotate import ledger, rematching
    from jobs.shared import cluster, progress
    from songsight import pool

    names = set(finished.files["unit"].to_pylist())
    todo = [group for group in groups if rematching.name_of(group) not in names]
    if names:
        opts.note(f"{len(groups) - len(todo)} of {len(groups)} row groups were matched by an earlier start")
    gathering = ledger.Gathering()
    if todo:
        _, most = actors or (cluster.slots(0),) * 2
        rows = {rematching.name_of(group): group.rows for group in todo}
        bar = progress.Progress("windows", sum(rows.values()))
        done = 0
        arguments = {"settings": settings, "source": source}
        texts = map(rematching.encode_group, todo)
        for text, _ in pool.actors(rematching.Rematcher, arguments, texts, most, opts.note, num_cpus=1):
            gathering.add(text)
            done += rows[json.loads(text)["unit"]]
            bar.update(done)
        bar.close()
    return finished + gathering.outcomes()
