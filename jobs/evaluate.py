"""Measure how well sound finds pictures, against baselines, with intervals.

    songsight evaluate --model model --gallery gallery --recordings recordings.parquet --out evaluation
    songsight evaluate --compare evaluation-a evaluation-b
    songsight evaluate --model model --benchmark ssw60 --data SSW60 --out evaluation
    songsight evaluate --model model --data field --annotations field/raven --out evaluation

Queries are the recordings whose `split` is `test`; they are ranked against the gallery's `test` photographs (all of
them where it knows no such split). `train` recordings fit the baselines that need fitting, and kNN's neighbours. Two
evaluations that `--out` kept are compared recording by recording. Benchmarks are read from their own files; `--checks`
looks into what the table leaves open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Options:
    """Options of `songsight evaluate`."""

    model: str | None = None
    """model made by `songsight distill`: folder, URL, or registered: models:/songsight/3, models:/songsight@champion"""
    gallery: str | None = None
    """gallery of photographs, made by `songsight gallery` with the model's teacher; of --benchmark ssw60 made here"""
    recordings: str | None = None
    """recordings table with a split column (Parquet or CSV; path or URL)"""
    benchmark: Literal["ssw60", "inatsounds", "birdset", "beans", "raven"] | None = None
    """a published benchmark in place of --recordings, read from its own files in --data"""
    data: str | None = None
    """folder or URL of the --benchmark, or of the recordings that --annotations are of"""
    parts: tuple[str, ...] = ()
    """parts of the benchmark, such as `cbi dcase` of beans, `HSN` of birdset, `images_inat` of ssw60; else all"""
    taxonomy: str | None = None
    """table with scientific_name and ranks, common_name or species_code: what recordings and gallery lack of them, and
    what a benchmark's codes mean"""
    annotations: str | None = None
    """Raven selection tables, Audacity labels or a plain table of what sounds in the recordings of --data"""
    species_column: str | None = None
    """column of --annotations that names the species; the first known one if not given"""
    window_s: float = 5.0
    """window of --annotations and inatsounds, in seconds"""
    hop_s: float | None = None
    """from one window to the next, in seconds; the window's length if not given"""
    checks: tuple[str, ...] = ()
    """what to look into besides: text-types, confusable, unseen, robustness, renamed, or all"""
    trained_on: str | None = None
    """for --checks unseen: the recordings table that the model was trained on, where it is not --recordings"""
    synonyms: str | None = None
    """for --checks renamed: table with scientific_name and synonym"""
    out: str | None = None
    """folder or URL for the tables (JSON, Markdown, CSV), each query's results and `evaluation.html`"""
    save_scores: str | None = None
    """file or URL (.npz) for the student's scores: `scores` [queries, images], `query_species`, `image_species`"""
    compare: tuple[str, ...] = ()
    """two folders that `--out` wrote, or MLflow runs (runs:/ID): say which differences are more than noise"""
    teacher: str | None = None
    """the gallery's teacher, where it is no longer at the name that the gallery holds"""
    base: str | None = None
    """ClapModel that the model came from, where it is no longer at the name that the model holds"""
    train_recordings: int = 10000
    """most `train` recordings to embed, drawn once"""
    k: int = 5
    """neighbours of kNN"""
    bridge: float = 0.25
    """weight of the species' texts in the bridged query, from 0 to 1; `songsight annotate` has the same option"""
    resamples: int = 1000
    """bootstrap resamples that intervals are made of"""
    actors: int | None = None
    """encoders side by side; one a GPU or else one a CPU if not given"""
    seed: int = 0
    """of the random projection, the frozen head, the draw of recordings and the bootstrap"""


def main(options: Options) -> dict[str, Any]:
    """Prints the tables and returns them."""
    opts.require_positive(
        k=options.k, train_recordings=options.train_recordings, actors=options.actors, resamples=options.resamples
    )
    opts.require_at_least(0, seed=options.seed, bridge=options.bridge)
    if options.bridge > 1:
        raise UserError(f"--bridge should be at most 1 (got {options.bridge:g})")
    if options.compare:
        from jobs.evaluating import compare as comparing

        _refuse_others(options, ("compare", "out", "resamples", "seed"), "--compare")
        _require_writable(options)
        return comparing.run(options)
    if options.benchmark or options.annotations:
        from jobs.evaluating import benchmarks

        _require_writable(options)
        return benchmarks.run(options)
    missing = [opts.flag(name) for name in ("model", "gallery", "recordings") if not getattr(options, name)]
    if missing:
        raise UserError(f"missing {', '.join(missing)}; or give --benchmark and --data")
    _refuse(options, _OF_BENCHMARKS, "--recordings: it is for --benchmark or --annotations")
    _require_writable(options)
    return _evaluate(options)


def _require_writable(options: Options) -> None:
    """Found out before hours are spent on what is to be written."""
    from songsight.store import urls

    if options.out:
        urls.require_writable(options.out, "--out")
    if options.save_scores:
        urls.require_writable_file(options.save_scores, "--save-scores")


_OF_BENCHMARKS = ("data", "parts", "species_column", "window_s", "hop_s")


def _refuse(options: Options, names: Iterable[str], mode: str) -> None:
    """Refuses options that would be ignored.

    Raises:
        UserError: one of them is given.
    """
    for name in names:
        if getattr(options, name) != getattr(Options, name):
            raise UserError(f"{opts.flag(name)} is not for {mode}")


def _refuse_others(options: Options, heeded: tuple[str, ...], mode: str) -> None:
    _refuse(options, [field.name for field in fields(Options) if field.name not in heeded], mode)


def _evaluate(options: Options) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    from distill.data import text_bank
    from inference.checks import Subject
    from inference.evaluation import embed as embedding
    from inference.evaluation import files, measured, methods, montage, naming, probes
    from inference.match import gallery
    from jobs.evaluating import checks
    from jobs.evaluating import log as evaluation_log
    from jobs.evaluating import rows as evaluation_rows
    from jobs.shared import cluster, progress, tracking
    from songsight import metrics
    from songsight.audio.clips import Clips, Features
    from songsight.models import prompts, student, teacher
    from songsight.store import checkpoints, tables

    wanted = checks.plan(options)
    assert options.recordings
    assert options.gallery
    assert options.model
    table = tables.read_table(options.recordings, "--recordings", ("path", "scientific_name"), tables.RECORDINGS)
    shown = gallery.read(options.gallery)
    table, name_rows = evaluation_rows.with_taxonomy(table, shown.names, options)
    if table["scientific_name"].null_count:
        raise UserError(
            f"--recordings: {options.recordings} has {table['scientific_name'].null_count} rows without scientific_name"
        )
    checks.check_synonyms(wanted, [row["scientific_name"] for row in name_rows], options)
    model_at = checkpoints.portable(options.model)
    model = student.load(model_at)
    shown.check_teacher(
        model.config.embedding_width, model.config.teacher_fingerprint, "--gallery", f"--model {options.model}"
    )
    table, is_train, is_test, without_split = evaluation_rows.split_rows(table, options)
    photographs = shown.of_split("test")
    if not set(table.filter(is_test)["scientific_name"].to_pylist()) & set(photographs.species):
        raise UserError(
            f"--recordings: no test recording of {options.recordings} is of a species that {options.gallery} shows"
        )
    base_name = options.base or model.config.base_model
    base = student.load_base(base_name, "--base")[0]
    base_text = _base_text(base, base_name)
    taught_by = teacher.load(options.teacher or shown.info["teacher"], option="--teacher")
    if taught_by.fingerprint != shown.info["teacher_fingerprint"]:
        raise UserError(f"--teacher {taught_by.name}: has other weights than the gallery's teacher")
    # Species of test recordings that the gallery does not have are named, too, behind those that it has.
    species_rows = checks.rows_of(
        name_rows + evaluation_rows.strangers(table.filter(is_test), name_rows),
        table.select(["scientific_name", "common_name", *tables.RANKS]),
    )
    texts = {kind: [prompts.text(row, kind) for row in species_rows] for kind in naming.TEXT_TYPES}
    training = table.filter(is_train).select(["recording_id", "path", "start_s", "scientific_name", "rights_holder"])
    fingerprints = {
        "recordings": tables.fingerprint(table),
        "photographs": tables.fingerprint(photographs.images.select(["image_id", "scientific_name"])),
        "teacher": taught_by.fingerprint,
        "model": checkpoints.fingerprint(model),
        "base": checkpoints.fingerprint(base),
        "training": tables.fingerprint(training),
        "texts": tables.fingerprint(pa.table(texts)),
    }

    cluster.connect()
    with tracking.run("evaluate", opts.as_dict(options), fingerprints) as active:
        plan = text_bank.plan(table, {"taxon_com": 1.0})
        clips = Clips.of(table, options.recordings, Features.of(model.mel, options.seed))
        bar = progress.Progress("recordings", len(table))
        gpus_each = min(1, cluster.gpus())
        rows, vectors = embedding.embed_recordings(
            clips,
            len(table),
            model_at,
            student.Base(base),
            options.actors or cluster.slots(gpus_each),
            gpus_each,
            bar.update,
        )
        bar.close()
        if not is_test[rows].any():
            raise UserError(f"--recordings: none of the test recordings of {options.recordings} can be decoded")
        for kind, some in vectors.items():
            if not np.isfinite(some).all():
                bad = int((~np.isfinite(some)).any(axis=1).sum())
                whose = f"--model {options.model}" if kind.startswith("student") else f"--base {base_name}"
                raise UserError(
                    f"{whose}: gives vectors that are no finite numbers for {bad} of {len(rows)} recordings"
                )
        species = np.array(plan.species, dtype=object)[plan.species_of_row[rows]]
        train, asked = np.flatnonzero(is_train[rows]), np.flatnonzero(is_test[rows])
        names = np.array([row["scientific_name"] for row in species_rows], dtype=object)
        number = {name: i for i, name in enumerate(names)}
        own_text = plan.choices[0][1][rows[train]]
        base_texts = {kind: metrics.unit(base_text(some)) for kind, some in texts.items()}
        teacher_texts = {kind: taught_by.embed_texts(some) for kind, some in texts.items()}
        strangers_SD = teacher_texts[gallery.SPECIES_TEXT_TYPE][len(name_rows) :]
        material = methods.Material(
            vectors=vectors,
            train=train,
            asked=asked,
            species_of_query=np.array([number[name] for name in species[asked]]),
            in_gallery=len(name_rows),
            base_names_SB=metrics.unit(base_texts["sci"] + base_texts["com"]),
            teacher_names_SD=np.concatenate([shown.name_vectors, strangers_SD]),
            base_texts=base_texts,
            teacher_texts=teacher_texts,
            train_text_ND=taught_by.embed_texts(plan.texts)[own_text] if len(train) else shown.name_vectors[:0],
            log_scale=float(model.log_scale),
        )
        recordists = np.array(table["rights_holder"].to_pylist(), dtype=object)[rows]
        found = measured.measure(
            material,
            probes.Labels(species[train], species[asked], names, recordists[train], recordists[asked]),
            photographs,
            float(base.logit_scale_a),
            species_rows + table.select(["scientific_name", *tables.RANKS]).to_pylist(),
            options.bridge,
            options.k,
            options.resamples,
            options.seed,
        )
        if not found.answered.any():
            raise UserError(
                f"--recordings: none of the test recordings of species that {options.gallery} shows can be decoded"
            )
        result = evaluation_log.figures(found) | {
            "undecodable": len(table) - len(rows),
            "without_split": without_split,
        }
        told = "Queries: recordings as the encoder hears them and their five nearest photographs"
        drawn = montage.montage(
            found.queries[found.answered],
            rows[asked[found.answered]],
            clips,
            plan.species_of_row,
            plan.species,
            photographs,
            model,
        )
        pictures = found.pictures() | {"queries.png": (told, drawn)}
        record = {
            "options": opts.as_dict(options),
            "fingerprints": fingerprints,
            "versions": tracking.versions(),
            "git_commit": tracking.git_commit(),
            "run_id": active.info.run_id,
        }
        ids = evaluation_rows.recording_ids(table.take(rows[asked]))
        texts_of_files = files.everything(found, result, record, ids, pictures)
        evaluation_log.keep(options.out, options.save_scores, found, result, texts_of_files, ids)
        print(evaluation_log.markdown(found, result, options.resamples))
        if wanted.names:
            actors = options.actors or cluster.slots(gpus_each)
            subject = Subject(
                species=species[asked],
                heard={kind: some[asked] for kind, some in vectors.items()},
                names=species_rows,
                name_vectors=material.teacher_names_SD,
                photographs=photographs,
                base_text=base_text,
                teacher_text=taught_by.embed_texts,
                trained_on=wanted.trained_on,
                train_species=species[train],
                train_pooled=vectors["base_pooled"][train],
                again=checks.Again(clips, rows[asked], model_at, student.Base(base), actors, gpus_each),
                synonyms=wanted.synonyms,
                resamples=options.resamples,
                seed=options.seed,
            )
            result |= {"checks": checks.run(subject, wanted, options.out)}
            # What was kept before the checks, which may take long or fail, is kept again with them.
            evaluation_log.keep_files(
                options.out, files.whole(found, result, record, pictures, checks.sections(result["checks"]))
            )
    return result


def _base_text(base: Any, name: str) -> Any:
    """The base model's text tower as a function: texts → float32 [texts, joint width]."""
    import torch
    from transformers import AutoTokenizer

    from songsight.store import checkpoints

    folder = checkpoints.local_folder(name, "--base")
    with checkpoints.explained("--base", folder, "a ClapModel checkpoint with its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def embed(texts: list[str]) -> Any:
        parts = []
        for start in range(0, len(texts), 256):
            tokens = tokenizer(texts[start : start + 256], padding=True, truncation=True, return_tensors="pt")
            pooled = base.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            parts.append(base.text_projection(pooled).float())
        return torch.cat(parts).numpy()

    return embed


if __name__ == "__main__":
    from jobs.cli import command

    command("evaluate")
