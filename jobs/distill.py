"""Teach a ClapModel's audio tower the space in which a vision model keeps every species' looks.

    songsight distill --recordings recordings.parquet --teacher hf-hub:imageomics/bioclip-2 \\
        --student davidrrobinson/BioLingual --out model

The recordings table needs `path` and `scientific_name`; rows whose `split` is `val` are held out and looked at after
each epoch, `test` rows are never touched. Curves and the registered model are in MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill.train import launch
from jobs.distilling import promotion, resume
from jobs.shared import cluster, tracking
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import checkpoints, lease, urls

if TYPE_CHECKING:
    from distill.train.recipe import Recipe
    from jobs.distilling.prepare import Inputs, Sources


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
class Result:
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


def train(options: Options, parent: str | None = None) -> Result:
    """Trains, saves and registers a student, or finds that `--out` holds it.

    Args:
        options: of the job.
        parent: the MLflow run of the sweep that this is a trial of; the sweep gives the aliases.

    Raises:
        UserError: bad input, or too many recordings that cannot be decoded.
        JobError: the workers failed, or MLflow did when all was done.
    """
    check(options)
    with lease.held(options.out):
        return _train(options, parent)


def _train(options: Options, parent: str | None) -> Result:
    """The same, while no other run is at `--out`."""
    state_url = urls.absolute(urls.join(options.out, ".train"))
    options = opts.replace(options, resume.begun_with(opts.Chosen.of(options), state_url, options.out))
    chosen = opts.Chosen.of(options)
    # They import torch, which takes seconds: what is wrong with the options has been said by now.
    from jobs.distilling import prepare, register, splits, training

    # What goes in: loaded, and checked for what a training would fail on later.
    tracking.experiment("distill")
    table = splits.read(options.recordings)
    recordings = splits.for_training(
        table, options.recordings, options.batch_size, options.eval_recordings, options.seed
    )
    held_out = len(recordings.val) > 0
    if options.wise_ft and not held_out:
        raise UserError(f"--wise-ft: {options.recordings} has no rows whose split is val to choose the best mixture by")
    rule = promotion.read_rule(options.promote_if, options.gallery, held_out)
    if rule:
        rule.rival_value(options.register_as)  # that it is there is better known before the training
    inputs, teacher = prepare.load(_sources(options), table)
    fingerprints = inputs.fingerprints

    # What is there of it already.
    stopped = resume.unfinished(state_url, chosen, fingerprints)
    if done := resume.finished(options.out, chosen, fingerprints, bool(stopped)):
        urls.remove(state_url)
        return Result(done["measures"], done["mlflow_run"], done["version"], new=False)

    for line in recordings.notes:
        opts.note(line)
    cluster.connect()
    workers = worker_range(options.workers)
    training.require_gpus(options.workers, workers[0], options.gpus_per_worker)
    cluster.require_shared("MLFLOW_TRACKING_URI", tracking.store())
    on = launch.Cluster(state_url, "run", workers, options.gpus_per_worker, options.max_failures)
    with tracking.run(
        "distill", chosen.values, fingerprints, parent, stopped, system_metrics=True, rows=recordings.counts
    ) as run:
        # Train.
        run_id = run.info.run_id
        texts = training.plan_texts(recordings, options.text_types)
        if stopped:
            opts.note(f"going on with the training that was stopped in {options.out}")
        resume.begin(state_url, chosen, fingerprints, run_id)
        recipe = _recipe(options, inputs, len(recordings.train))
        data = training.data(recordings, texts, inputs, teacher, on, needs_names=options.objective == "bank")
        del teacher  # a gigabyte that nothing needs any more
        trained = training.fit(recipe, data, run_id, on, shown=parent is None)
        training.report_undecodable(trained.outcome, recordings, options.max_bad_fraction)

        # Keep it.
        lease.check()
        measures = trained.measures or {}
        card = register.card_of(inputs, options.recordings, chosen.values, run_id, measures)
        to = register.Destination(options.out, options.register_as, rule, is_trial=parent is not None)
        version = register.store_and_register(trained.model_url, card, recipe.width, to)
        record = {"mlflow_run": run_id, "version": version, "measures": measures}
        lease.check()
        resume.end(options.out, chosen, fingerprints, record)
        urls.remove(state_url)
    return Result(measures, run_id, version)


def check(options: Options) -> None:
    """Checks the options by themselves, before anything is read.

    Raises:
        UserError: naming the one that no training can go by.
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
    _levels_db(options.noise_snr_db)
    _shares(options.wise_ft)
    if not 0 <= options.warmup < 1:
        raise UserError(f"--warmup should be a share of the steps, at least 0 and below 1 (got {options.warmup})")
    if options.batch_size < worker_range(options.workers)[1]:
        raise UserError(
            f"--batch-size {options.batch_size} should be at least --workers {options.workers}: "
            "every worker takes a share of a step"
        )
    if options.promote_if:
        promotion.Rule.parse(options.promote_if)
    from distill.data import text_bank  # imports pyarrow

    text_bank.parse_weights(options.text_types)


def worker_range(workers: str) -> tuple[int, int]:
    """Fewest and most Ray Train workers.

    Raises:
        UserError: neither a number nor a range.
    """
    found = opts.parse_range(str(workers), "--workers")
    assert found is not None
    return found


def _shares(wise_ft: str) -> tuple[float, ...]:
    shares = []
    for part in filter(None, (part.strip() for part in wise_ft.split(","))):
        try:
            shares.append(float(part))
        except ValueError:
            shares.append(-1.0)
        if not 0 <= shares[-1] <= 1:
            raise UserError(f"--wise-ft should be shares from 0 to 1, such as 0,0.5,1 (got {part!r})")
    return tuple(shares)


def _levels_db(noise_snr_db: str) -> tuple[float, float]:
    low, _, high = noise_snr_db.partition(":")
    try:
        levels_db = (float(low), float(high or low))
    except ValueError:
        levels_db = (1.0, 0.0)
    if not levels_db[0] <= levels_db[1]:
        raise UserError(f"--noise-snr-db should be two levels in dB such as 0:20 (got {noise_snr_db!r})")
    return levels_db


def _sources(options: Options) -> Sources:
    from jobs.distilling.prepare import Sources

    return Sources(
        teacher=options.teacher,
        student=options.student,
        freeze_stages=options.freeze_stages,
        gallery=options.gallery,
        noise=options.noise,
        seed=options.seed,
    )


def _recipe(options: Options, inputs: Inputs, rows: int) -> Recipe:
    """What decides every step of the optimizer, for so many recordings to train on."""
    from distill.data.augment import Augment
    from distill.data.order import Order
    from distill.train.recipe import Recipe
    from songsight.models import precision

    return Recipe(
        student=checkpoints.portable(options.student, "--student"),
        head=options.head,
        provenance={
            "base_model": checkpoints.portable(inputs.base_model, "--student"),
            "teacher": checkpoints.portable(options.teacher, "--teacher"),
            "teacher_fingerprint": inputs.fingerprints["teacher"],
            "text_types": options.text_types,
        },
        width=inputs.width,
        order=Order(rows, options.batch_size, options.epochs, options.seed),
        objective=options.objective,
        alignment=options.alignment,
        preserve=options.preserve,
        parts=options.parts,
        augment=Augment(
            gain_db=options.gain_db,
            noise_p=options.noise_p if options.noise else 0.0,
            noise_snr_db=_levels_db(options.noise_snr_db),
            shift_s=options.shift_s,
            time_mask=options.time_mask,
            freq_mask=options.freq_mask,
        ),
        lr=options.lr,
        head_lr=options.head_lr,
        weight_decay=options.weight_decay,
        warmup=options.warmup,
        freeze_encoder=options.freeze_encoder,
        freeze_stages=options.freeze_stages,
        wise_ft=_shares(options.wise_ft),
        max_bad_fraction=options.max_bad_fraction,
        precision=precision.resolve(options.precision, options.gpus_per_worker > 0),
        eval_every=options.eval_every,
        checkpoint_every=options.checkpoint_every,
        threads=options.threads,
        seed=options.seed,
    )


if __name__ == "__main__":
    from jobs.cli import command

    command("distill")
