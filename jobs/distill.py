"""Teach a ClapModel's audio tower the space in which a vision model keeps every species' looks.

    songsight distill --recordings recordings.parquet --teacher hf-hub:imageomics/bioclip-2 \\
        --student davidrrobinson/BioLingual --out model

The recordings table needs `path` and `scientific_name`; rows whose `split` is `val` are held out and looked at after
each epoch, `test` rows are never touched. Curves and the registered model are in MLflow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import tempfile
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.distilling import promotion
from jobs.shared import options as opts
from songsight.errors import JobError, UserError
from songsight.reasons import one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from distill.data.augment import Augment
    from distill.train.recipe import Outcome, Recipe
    from inference.match.gallery import Gallery
    from jobs.distilling import splits
    from songsight.audio.clips import Features
    from songsight.models.teacher import Teacher
    from songsight.pictures import HeldOut


@dataclass(frozen=True)
class Options:
    """Options of `songsight distill`."""

    recordings: str
    """recordings table (Parquet or CSV; path or URL)"""
    out: str
    """folder or URL for the model"""
    teacher: str = "hf-hub:imageomics/bioclip-2"
    """open_clip model: hf-hub:owner/name, local-dir:folder, folder, URL, or registered (models:/bioclip/1)"""
    student: str = "davidrrobinson/BioLingual"
    """ClapModel checkpoint whose audio tower learns (hub name, folder or URL), or a songsight model to go on from
    (folder, URL or models:/songsight@champion): its tower, and its head too where --teacher and --head are the same"""
    head: Literal["linear", "mlp"] = "linear"
    """the new layer into the teacher's space"""
    text_types: str = "sci:1,com:1,taxon:1,sci_com:1,taxon_com:1"
    """what text a recording is pulled to, drawn by weight each time: sci, com, taxon, sci_com, taxon_com, caption"""
    objective: Literal["infonce", "masked", "multi-positive", "bank", "siglip"] = "infonce"
    """loss: the paper's; the same without a species' other recordings among the negatives, or with them as positives;
    a choice among all species of the table; a yes or no for each pair"""
    alignment: float = 0.0
    """weight of the cosine distance to the text, added to the loss"""
    preserve: float = 0.0
    """weight of the distance of the audio embedding to the base model's own, which keeps what it could do before"""
    wise_ft: str = ""
    """shares of the trained tower in mixtures with the base's, such as 0,0.25,0.5,0.75,1: the best on val is kept"""
    epochs: int = 10
    """passes over the recordings; 0 saves the student untrained"""
    batch_size: int = 64
    """recordings in a step, over all workers"""
    parts: int = 1
    """cut each worker's share of a step into so many parts, to need less memory; its negatives stay the whole batch"""
    lr: float = 1e-4
    """peak learning rate of the audio tower"""
    head_lr: float = 1e-3
    """peak learning rate of the head and the temperature"""
    weight_decay: float = 0.01
    """AdamW's weight decay"""
    warmup: float = 0.05
    """share of the steps in which the learning rate rises"""
    freeze_encoder: bool = False
    """train the head alone"""
    freeze_stages: int = 0
    """leave the first stages of the tower as they are"""
    gain_db: float = 0.0
    """change each clip's level by up to so many dB"""
    shift_s: float = 0.0
    """rotate each clip in time by up to so many seconds"""
    noise: str | None = None
    """folder or URL of recordings to mix into clips as their background"""
    noise_p: float = 0.5
    """share of the clips that get a background"""
    noise_snr_db: str = "0:20"
    """level of the clip over its background in dB, drawn between the two"""
    time_mask: int = 0
    """SpecAugment: hide up to so many frames of the features, twice"""
    freq_mask: int = 0
    """SpecAugment: hide up to so many mel bands, twice"""
    max_bad_fraction: float = 0.01
    """the run fails if more than this share of the recordings cannot be decoded"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """fp32, or bf16 autocast; auto: bf16 on GPUs and on CPUs like this machine's if they multiply it in hardware"""
    gallery: str | None = None
    """gallery whose `val` photographs (else all) the held-out recordings are to find after each epoch"""
    eval_every: int = 1
    """epochs between looks at the held-out recordings"""
    eval_recordings: int = 1000
    """held-out recordings to look at, drawn once"""
    checkpoint_every: int = 500
    """steps between checkpoints"""
    workers: str = "1"
    """Ray Train workers, such as 2, or 1:8 to grow and shrink with the cluster"""
    gpus_per_worker: float = 0.0
    """GPUs of each worker"""
    max_failures: int = 3
    """how often the run goes on from its last checkpoint when workers fail; -1 for any number of times"""
    threads: int | None = None
    """CPU threads of each worker; its share of the machine's cores if not given, of which a small tower has no use"""
    seed: int = 0
    """of the shuffle, crops, texts and the new head"""
    register_as: str = "songsight"
    """name in MLflow's model registry; each new version there has the alias `candidate`"""
    promote_if: str | None = None
    """when the new version becomes `champion` too: "audio_to_image_mAP>champion", or >=, or a number to be above"""


@dataclass(frozen=True)
class Made:
    """What a training left.

    Attributes:
        measures: the last held-out measures.
        run_id: the MLflow run.
        version: of the registered model.
        new: whether it was made now; not where `--out` held this model already.
    """

    measures: dict[str, float]
    run_id: str
    version: str
    new: bool = True


def main(options: Options) -> dict[str, float]:
    """Trains, saves and registers a student; returns its last held-out measures."""
    made = train(options)
    print(f"model: {options.out}" if made.new else f"{options.out} already holds this model: nothing to do")
    for name, value in made.measures.items():
        print(f"  {name} {value:.4f}")
    return made.measures


def train(options: Options, parent: str | None = None) -> Made:
    """Trains, saves and registers a student, or finds that `--out` holds it.

    Args:
        options: of the job.
        parent: the MLflow run of the sweep that this is a trial of; the sweep gives the aliases.

    Raises:
        UserError: bad input, or too many recordings that cannot be decoded.
        JobError: the workers failed, or MLflow did when all was done.
    """
    check(options)
    from jobs.distilling import resume
    from songsight.store import urls

    state_url = urls.absolute(urls.join(options.out, ".train"))
    options = resume.as_begun(options, state_url, options.out)
    rule = promotion.Rule.parse(options.promote_if) if options.promote_if else None
    from distill.data import noise, text_bank
    from distill.data.rows import TrainingRows
    from distill.train import launch
    from distill.train.log import Tracking
    from distill.train.work import Data
    from inference.match import gallery as galleries
    from jobs.distilling import splits
    from jobs.shared import cluster, progress, tracking
    from songsight.audio.clips import Clips, Features
    from songsight.models import htsat, mel, student, teacher
    from songsight.store import registry, tables

    registry.require_answer()
    weights = text_bank.parse_weights(options.text_types)
    table = tables.read_table(options.recordings, "--recordings", ("path", "scientific_name"), tables.RECORDINGS)
    parts = split(table, options)
    if options.wise_ft and not len(parts.val):
        raise UserError(f"--wise-ft: {options.recordings} has no rows whose split is val to choose the best mixture by")
    if rule:
        promotion.require_measured(rule.metric, "--promote-if", options.gallery, bool(len(parts.val)))
        tracking.experiment("distill")
        rule.rival_value(options.register_as)  # that it is there is better known before the training
    shown = galleries.read(options.gallery).of_split("val") if options.gallery else None
    start = student.origin(options.student)
    stages = len(htsat.TowerConfig.of(start.audio_config).depths)
    if options.freeze_stages > stages:
        raise UserError(f"--freeze-stages {options.freeze_stages}: the tower of {options.student} has {stages} stages")
    features = Features.of(mel.LogMel(start.preprocessor), options.seed)
    taught_by = teacher.load(options.teacher)
    if shown is not None:
        shown.check_teacher(taught_by.width, taught_by.fingerprint, "--gallery", f"--teacher {options.teacher}")

    augment = _augment(options)
    noise_clips = noise.load(_noise(options.noise), features, "--noise") if options.noise else None
    fingerprints = {
        "recordings": tables.fingerprint(table),
        "teacher": taught_by.fingerprint,
        "student": start.fingerprint,
        **({"gallery": _digest(shown.vectors, shown.species.tolist())} if shown is not None else {}),
        **({"noise": _digest(noise_clips)} if noise_clips is not None else {}),
    }
    base_model = start.base_model if start.earlier is not None else options.student
    del start
    given = opts.as_dict(options)
    urls.require_writable(options.out, "--out")
    stopped = resume.unfinished(state_url, options, fingerprints)
    if done := resume.finished(options.out, options, fingerprints, bool(stopped)):
        urls.remove(state_url)
        return Made(done["measures"], done["mlflow_run"], done["version"], new=False)
    for line in parts.notes:
        opts.note(line)
    cluster.connect()
    _require_room(options)
    cluster.require_shared("MLFLOW_TRACKING_URI", tracking.store())
    rows = {"recordings": len(table), "train": len(parts.train), "val": len(parts.val)}
    with (
        tracking.run("distill", given, fingerprints, parent, stopped, system_metrics=True, rows=rows) as run,
        tempfile.TemporaryDirectory() as folder,
    ):
        run_id = run.info.run_id
        text_plan = text_bank.plan(parts.train, weights)
        opts.note(f"{len(parts.train)} recordings of {len(text_plan.species)} species, {len(text_plan.texts)} texts")
        if stopped:
            opts.note(f"going on with the training that was stopped in {options.out}")
        resume.begin(state_url, options, fingerprints, run_id)
        if parts.unusable:
            tracking.log_text(splits.listing(table, parts.unusable), "unusable_recordings.csv")
        actors = max(worker_range(options)[1], cluster.slots(options.gpus_per_worker))
        bank_url = text_bank.stored(text_plan.texts, taught_by, state_url, options.gpus_per_worker, actors)
        names = None
        if options.objective == "bank":
            names = taught_by.embed_texts(_species_texts(parts.train, text_plan.species))
        recipe = _recipe(options, len(parts.train), taught_by, augment, base_model)
        clips = Clips.of(parts.train, options.recordings, features)
        held_out = None
        if len(parts.val):
            held_out = _held_out(parts.val, options.recordings, features, taught_by, shown)
        else:
            opts.note("no rows with split val: nothing is held out to look at")
        del taught_by
        total = recipe.order.steps * options.batch_size
        # Of a sweep's trial nobody sees it.
        with progress.follow("recordings", total) if parent is None else contextlib.nullcontext() as say:
            trained = launch.fit(
                recipe,
                Data(TrainingRows.of(clips, text_plan), bank_url, held_out, names, noise_clips),
                Tracking(tracking.store(), run_id, cluster.this_node(), say),
                launch.Cluster(state_url, "run", worker_range(options), options.gpus_per_worker, options.max_failures),
            )
        _say_bad(trained.outcome, table, parts, options)
        measures = trained.measures or {}
        made = urls.fetch_folder(trained.model_url, os.path.join(folder, "model"))
        card = student.Card(
            base_model=base_model,
            teacher=options.teacher,
            teacher_fingerprint=fingerprints["teacher"],
            data=options.recordings,
            data_fingerprint=fingerprints["recordings"],
            run_id=run_id,
            metrics=measures,
            options=given,
        )
        urls.write_bytes(os.path.join(made, "README.md"), card.markdown().encode())
        urls.store_folder(made, options.out)
        try:
            version = register(made, recipe.width, options.register_as)
            promotion.describe(options.register_as, version, measures)
            became = promotion.enter(options.register_as, version, measures, rule) if parent is None else "a trial"
        except Exception as error:  # MLflow's, requests' or the database's, whichever failed
            raise JobError(
                f"the model is in {options.out}, but MLflow at {tracking.store()} did not register it: "
                f"{one_line(str(error))}; the same command registers it"
            ) from error
        opts.note(f"registered as models:/{options.register_as}/{version}: {became}")
        record = {"mlflow_run": run_id, "version": version, "measures": measures}
        resume.end(options.out, options, fingerprints, record)
        urls.remove(state_url)
    return Made(measures, run_id, version)


def _digest(*parts: Any) -> str:
    """A hash of arrays and plain values."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if hasattr(part, "tobytes") else repr(part).encode())
    return digest.hexdigest()


def _require_room(options: Options) -> None:
    """Refuses on this machine's own Ray what would be waited for without end; on a cluster says what is waited for.

    Raises:
        UserError: fewer GPUs than the fewest workers need.
    """
    from jobs.shared import cluster

    needed, there = options.gpus_per_worker * worker_range(options)[0], cluster.gpus()
    if needed <= there:
        return
    asked = f"--workers {options.workers} and --gpus-per-worker {options.gpus_per_worker:g} need {needed:g} GPUs"
    if cluster.is_local():
        raise UserError(f"{asked}, and Ray finds {there} on this machine")
    opts.note(f"{asked}, and the cluster has {there} now: waiting until it has them")


def _say_bad(outcome: Outcome, table: pa.Table, parts: splits.Splits, options: Options) -> None:
    """Lists the recordings that could not be decoded, in the MLflow run, and counts them here.

    Raises:
        UserError: they are too many.
    """
    from jobs.distilling import splits
    from jobs.shared import tracking

    train = {int(parts.train_rows[row]): reason for row, reason in outcome.bad.items()}
    val = {int(parts.val_rows[row]): reason for row, reason in outcome.bad_held_out.items()}
    name = "undecodable_recordings.csv"
    if train or val:
        tracking.log_text(splits.listing(table, train | val), name)
        kinds = f"{len(train)} of {len(parts.train)} to train on, {len(val)} of {len(parts.val)} held out"
        opts.note(f"recordings that cannot be decoded: {kinds}; the MLflow run lists them in {name}")
    if not outcome.too_many:
        return
    first, reason = next(iter(train.items()))
    of = f"the first {outcome.seen}" if outcome.seen < len(parts.train) else f"{len(parts.train)}"
    raise UserError(
        f"--recordings: {len(train)} of {of} recordings cannot be decoded, more than the share of "
        f"{options.max_bad_fraction:g} that --max-bad-fraction allows; the first is {table['path'][first]} ({reason}), "
        f"{name} in the MLflow run lists all. Repair them and give the same command again: it goes on from the last "
        "checkpoint"
    )


def check(options: Options) -> None:
    """Refuses numbers that no training can go by.

    Raises:
        UserError: naming the option.
    """
    opts.require_positive(
        batch_size=options.batch_size,
        lr=options.lr,
        head_lr=options.head_lr,
        parts=options.parts,
        eval_every=options.eval_every,
        checkpoint_every=options.checkpoint_every,
        eval_recordings=options.eval_recordings,
        threads=options.threads,
    )
    opts.require_at_least(
        0,
        epochs=options.epochs,
        alignment=options.alignment,
        weight_decay=options.weight_decay,
        gpus_per_worker=options.gpus_per_worker,
        seed=options.seed,
        preserve=options.preserve,
        freeze_stages=options.freeze_stages,
        gain_db=options.gain_db,
        shift_s=options.shift_s,
        time_mask=options.time_mask,
        freq_mask=options.freq_mask,
    )
    if options.max_failures < -1:
        raise UserError(f"--max-failures should be a number of times, or -1 for any (got {options.max_failures})")
    for name, share in (("noise_p", options.noise_p), ("max_bad_fraction", options.max_bad_fraction)):
        if not 0 <= share <= 1:
            raise UserError(f"{opts.flag(name)} should be a share from 0 to 1 (got {share:g})")
    _noise_snr_db(options)
    _wise_ft(options)
    if not 0 <= options.warmup < 1:
        raise UserError(f"--warmup should be a share of the steps, at least 0 and below 1 (got {options.warmup})")
    if options.batch_size < worker_range(options)[1]:
        raise UserError(
            f"--batch-size {options.batch_size} should be at least --workers {options.workers}: "
            "every worker takes a share of a step"
        )


def worker_range(options: Options) -> tuple[int, int]:
    """Fewest and most Ray Train workers.

    Raises:
        UserError: neither a number nor a range.
    """
    found = opts.parse_range(str(options.workers), "--workers")
    assert found is not None
    return found


def _wise_ft(options: Options) -> tuple[float, ...]:
    shares = []
    for part in filter(None, (part.strip() for part in options.wise_ft.split(","))):
        try:
            shares.append(float(part))
        except ValueError:
            shares.append(-1.0)
        if not 0 <= shares[-1] <= 1:
            raise UserError(f"--wise-ft should be shares from 0 to 1, such as 0,0.5,1 (got {part!r})")
    return tuple(shares)


def _noise_snr_db(options: Options) -> tuple[float, float]:
    low, _, high = options.noise_snr_db.partition(":")
    try:
        snr_db = (float(low), float(high or low))
    except ValueError:
        snr_db = (1.0, 0.0)
    if not snr_db[0] <= snr_db[1]:
        raise UserError(f"--noise-snr-db should be two levels in dB such as 0:20 (got {options.noise_snr_db!r})")
    return snr_db


def _augment(options: Options) -> Augment:
    from distill.data.augment import Augment

    return Augment(
        gain_db=options.gain_db,
        noise_p=options.noise_p if options.noise else 0.0,
        noise_snr_db=_noise_snr_db(options),
        shift_s=options.shift_s,
        time_mask=options.time_mask,
        freq_mask=options.freq_mask,
    )


def _noise(url: str) -> list[str]:
    """The recordings of a folder of backgrounds."""
    from inference.archive import listing
    from songsight.store import urls

    try:
        found = listing.listing(url)
    except UserError as error:
        raise UserError(str(error).replace("--archive", "--noise")) from None
    return [urls.join(urls.absolute(url), path) for path in found.table["path"].to_pylist()]


def _species_texts(rows: pa.Table, species: list[str]) -> list[str]:
    """The text that names each species in full, in the order of `species`."""
    from songsight.models import prompts

    first = {row["scientific_name"]: row for row in rows.to_pylist()}
    return [prompts.text(first[name], "taxon_com") for name in species]


def split(table: pa.Table, options: Options) -> splits.Splits:
    """The rows to train on and the rows to look at, at most `--eval-recordings`.

    Raises:
        UserError: fewer rows to train on than a batch needs.
    """
    import numpy as np

    from jobs.distilling import splits

    parts = splits.split(table, options.recordings)
    if options.batch_size > len(parts.train):
        raise UserError(
            f"--batch-size {options.batch_size} is more than the {len(parts.train)} rows of {options.recordings} whose "
            "split is train"
        )
    if len(parts.val) > options.eval_recordings:
        drawn = np.random.default_rng(options.seed).permutation(len(parts.val))[: options.eval_recordings]
        chosen = np.sort(drawn)
        parts = dataclasses.replace(parts, val=parts.val.take(chosen), val_rows=parts.val_rows[chosen])
    return parts


def _recipe(options: Options, rows: int, taught_by: Teacher, augment: Augment, base_model: str) -> Recipe:
    from distill.data.order import Order
    from distill.train.recipe import Recipe
    from songsight.models import precision
    from songsight.store import checkpoints

    return Recipe(
        student=checkpoints.portable(options.student, "--student"),
        head=options.head,
        provenance={
            "base_model": checkpoints.portable(base_model, "--student"),
            "teacher": checkpoints.portable(options.teacher, "--teacher"),
            "teacher_fingerprint": taught_by.fingerprint,
            "text_types": options.text_types,
        },
        width=taught_by.width,
        order=Order(rows, options.batch_size, options.epochs, options.seed),
        objective=options.objective,
        alignment=options.alignment,
        preserve=options.preserve,
        parts=options.parts,
        augment=augment,
        lr=options.lr,
        head_lr=options.head_lr,
        weight_decay=options.weight_decay,
        warmup=options.warmup,
        freeze_encoder=options.freeze_encoder,
        freeze_stages=options.freeze_stages,
        wise_ft=_wise_ft(options),
        max_bad_fraction=options.max_bad_fraction,
        precision=precision.resolve(options.precision, options.gpus_per_worker > 0),
        eval_every=options.eval_every,
        checkpoint_every=options.checkpoint_every,
        threads=options.threads,
        seed=options.seed,
    )


def _held_out(rows: pa.Table, table_url: str, features: Features, taught_by: Teacher, shown: Gallery | None) -> HeldOut:
    """The held-out recordings, the names they may be given and the photographs they may find."""
    import numpy as np

    from distill.data import text_bank
    from songsight import pictures
    from songsight.audio.clips import Clips
    from songsight.models import prompts

    plan = text_bank.plan(rows, {"sci": 1.0})
    first = {row["scientific_name"]: row for row in rows.to_pylist()}
    names = taught_by.embed_texts([prompts.text(first[species], "taxon_com") for species in plan.species])
    image_vectors = image_species = photographs = None
    if shown is not None:
        number = {species: index for index, species in enumerate(plan.species)}
        image_vectors = shown.vectors
        image_species = np.array([number.get(species, -1) for species in shown.species], np.int32)
        photographs = pictures.Photographs(shown.images["thumbnail"], shown.species.tolist(), plan.species)
    clips = Clips.of(rows, table_url, features)
    return pictures.HeldOut(clips, plan.species_of_row, names, image_vectors, image_species, photographs)


def register(folder: str, width: int, name: str) -> str:
    """Logs the model and the code that it needs with MLflow, loadable by `mlflow.pyfunc`.

    Args:
        folder: of the student.
        width: of its vectors.
        name: of the registered model.

    Returns:
        The number of the new version.
    """
    import mlflow

    # MLflow advises type hints and an input example, in colour and several times, which a signature makes needless.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        from songsight.models import registered

        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=registered.__file__,
            artifacts={"student": folder},
            code_paths=registered.code_paths(),
            signature=registered.signature(width),
            pip_requirements=registered.requirements(),
            registered_model_name=name,
        )
    return str(logged.registered_model_version)


if __name__ == "__main__":
    from jobs.cli import command

    command("distill")
