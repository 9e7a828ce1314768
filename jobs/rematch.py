"""`songsight annotate --from-embeddings`: an earlier run's windows against another gallery, species list or score.

Nothing is decoded, and the model is not loaded: site, clock and fate of each recording are the earlier run's.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from distill.errors import UserError
from jobs import annotate
from jobs import options as opts

if TYPE_CHECKING:
    import pyarrow as pa

    from inference.annotator import Settings
    from inference.ledger import Ledger, Outcomes
    from inference.rematching import Source

DECIDED = ("archive", "model", "window_s", "hop_s", "timezone")
"""Options that the earlier run has decided."""
BATCH = 128


def main(options: annotate.Options) -> None:
    """Matches kept windows and writes the tables of a run."""
    for name in DECIDED:
        if getattr(options, name) is not None:
            raise UserError(f"{opts.flag(name)}: with --from-embeddings the earlier run has decided it: leave it out")
    if options.embeddings != "none":
        raise UserError("--embeddings: with --from-embeddings they are kept already: leave it out")
    assert options.from_embeddings is not None
    import pyarrow as pa

    from distill import storage
    from inference import accounting, embeddings, gallery, ledger, publish, rematching, spans, zero_shot
    from inference.annotator import Settings
    from jobs import cluster, naming, tracking

    source = rematching.read(options.from_embeddings)
    encoder = source.encoder
    shown = gallery.read(options.gallery)
    names: naming.Names | None = None
    species = None
    if encoder["method"] == "zero-shot":
        annotate.check_zero_shot(options)
        names = naming.zero_shot(options.species_list, shown, zero_shot.load(encoder["model"])[1])
    else:
        shown.check_teacher(
            encoder["width"], encoder["teacher_fingerprint"], "--gallery", f"the run at {options.from_embeddings}"
        )
        species = naming.of_gallery(options.species_list, shown) if options.species_list else None
    windows = spans.Windows(source.record["window_s"], source.record["hop_s"])
    fingerprints = {
        "model": source.record["fingerprints"]["model"],
        "gallery": annotate.gallery_fingerprint(shown),
        "embeddings": source.record["run_id"],
    }
    if names:
        fingerprints["names"] = names.fingerprint()
    naming.check_range(options, fingerprints)
    made_with = naming.scored_with(
        options, encoder, fingerprints, "binary" if source.record["embeddings"] == "binary" else "float"
    )
    calibrated = naming.calibrated(options, made_with, fingerprints)
    run_id = annotate.run_identity(options, windows, species, fingerprints)
    state = ledger.Ledger(storage.absolute(options.out), run_id)
    annotate.refuse_another(options.out, state)
    if storage.exists(storage.join(options.out, "run.json")):
        state.remove()
        print(f"{options.out} already holds this run ({run_id}): nothing to do")
        return

    cluster.connect()
    begin = time.monotonic()
    with tracking.run("annotate", opts.as_dict(options), fingerprints) as run:
        state.begin()
        settings = Settings(
            run_id=run_id,
            archive=source.record["archive"],
            out=storage.absolute(options.out),
            model=encoder["model"],
            gallery=storage.absolute(options.gallery),
            windows=windows,
            top_k=options.top_k,
            min_score=options.min_score,
            species=species,
            batch_size=BATCH,
            device="cpu",
            threads=1,
            scoring=annotate.scoring(options, encoder, names.keep(options.out, run_id) if names else None, calibrated),
        )
        groups = embeddings.groups(storage.join(source.url, "embeddings"))
        matched = sum(group.rows for group in groups)
        outcomes = _match(settings, source, state, groups, opts.parse_range(options.actors, "--actors"))
        recordings = _with_hits(source.table("recordings"), outcomes.files)
        with annotate.counting("hits filed") as filed:
            publish.publish(state, recordings, outcomes.parts, 1, pa.array([], pa.string()), filed)
        sums = accounting.totals(recordings, windows.hop_s, windows.window_s)
        elapsed = time.monotonic() - begin
        record = source.record | {
            "run_id": run_id,
            "round": 1,
            "stamp": "",
            "mlflow_run": run.info.run_id,
            "from_embeddings": source.url,
            "embeddings": "none",
            "gallery": settings.gallery,
            "windows": matched,
            "hits": sums.hits,
            "elapsed_s": elapsed,
            "audio_hours_per_hour": source.record["hours"] * 3600 / elapsed,
            "windows_per_s": matched / elapsed,
            "scored_with": made_with,
            "fingerprints": fingerprints,
            "versions": tracking.versions(),
            "options": opts.as_dict(options),
        }
        annotate.conclude(state, record)
    print(
        f"{record['hours']:.2f} h in {matched} kept windows, {sums.hits} hits in {elapsed:.0f} s; "
        f"recordings and quarantine are those of {options.from_embeddings}"
    )
    print(f"results: {options.out}")


def _match(
    settings: Settings, source: Source, state: Ledger, groups: list[Any], actors: tuple[int, int] | None
) -> Outcomes:
    """Runs the matching actors over the row groups that are not finished."""
    import pyarrow as pa
    import ray

    from inference import ledger, rematching
    from jobs import cluster, progress

    finished = state.finished()
    names = set(finished.files["unit"].to_pylist())
    todo = [group for group in groups if rematching.name_of(group) not in names]
    if names:
        opts.note(f"{len(groups) - len(todo)} of {len(groups)} row groups were matched by an earlier run")
    gathering = ledger.Gathering()
    if todo:
        least, most = actors or (cluster.slots(0),) * 2
        blocks = [pa.table({"unit": [rematching.encode_group(group)]}) for group in todo]
        dataset = ray.data.from_arrow(blocks).map_batches(
            rematching.Rematcher,
            fn_constructor_kwargs={"settings": settings, "source": source},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=min(least, len(todo)), max_size=min(most, len(todo))),
            num_cpus=1,
        )
        rows = {rematching.name_of(group): group.rows for group in todo}
        bar = progress.Progress("windows", sum(rows.values()))
        done = 0
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            for text in batch["outcome"]:
                gathering.add(str(text))
                done += rows[json.loads(text)["unit"]]
            bar.update(done)
        bar.close()
    return finished + gathering.outcomes()


def _with_hits(recordings: pa.Table, files: pa.Table) -> pa.Table:
    """The earlier run's `tables.RECORDINGS_SEEN`, with this run's hits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sums = files.group_by("path").aggregate([("hits", "sum")])
    hits = pc.fill_null(sums["hits_sum"].take(pc.index_in(recordings["path"], sums["path"])), 0)
    return recordings.set_column(recordings.schema.get_field_index("hits"), "hits", hits.cast(pa.int64()))
