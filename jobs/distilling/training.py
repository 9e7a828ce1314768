"""What the trainer is given, texts and held-out recordings among it, and which recordings it could not decode."""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow as pa

from distill.data import text_bank
from distill.data.rows import TrainingRows
from distill.data.text_bank import TextPlan
from distill.train import launch
from distill.train.log import Tracking
from distill.train.recipe import Outcome, Recipe
from distill.train.work import Data
from jobs.distilling import splits
from jobs.distilling.prepare import Inputs
from jobs.distilling.splits import Splits
from jobs.shared import cluster, progress, tracking
from jobs.shared.options import note
from songsight import pictures
from songsight.audio.clips import Clips
from songsight.errors import UserError
from songsight.models import prompts
from songsight.models.teacher import Teacher


def require_gpus(workers: str, fewest: int, gpus_per_worker: float) -> None:
    """Refuses on this machine's own Ray what would be waited for without end; on a cluster says what is waited for.

    Args:
        workers: what `--workers` says, for the line.
        fewest: workers to train with.
        gpus_per_worker: what each of them takes.

    Raises:
        UserError: this machine has too few.
    """
    needed, there = gpus_per_worker * fewest, cluster.gpus()
    if needed <= there:
        return
    asked = f"--workers {workers} and --gpus-per-worker {gpus_per_worker:g} need {needed:g} GPUs"
    if cluster.is_local():
        raise UserError(f"{asked}, and Ray finds {there} on this machine")
    note(f"{asked}, and the cluster has {there} now: waiting until it has them")


def plan_texts(recordings: Splits, text_types: str) -> TextPlan:
    """The texts that the recordings to train on may be pulled to; says how many there are.

    Args:
        recordings: of the training.
        text_types: what `--text-types` says.
    """
    texts = text_bank.plan(recordings.train, text_bank.parse_weights(text_types))
    note(f"{len(recordings.train)} recordings of {len(texts.species)} species, {len(texts.texts)} texts")
    return texts


def data(
    recordings: Splits, texts: TextPlan, inputs: Inputs, teacher: Teacher, on: launch.Cluster, needs_names: bool
) -> Data:
    """What the workers learn from, with all that the teacher has to say of it.

    Args:
        recordings: to train on and held out.
        texts: of the recordings to train on.
        inputs, teacher: of the training.
        on: where it runs.
        needs_names: whether the objective compares with the name of every species.
    """
    if recordings.unusable:
        tracking.log_text(splits.listing(recordings.table, recordings.unusable), "unusable_recordings.csv")
    actors = max(on.workers[1], cluster.slots(on.gpus_per_worker))
    bank_url = text_bank.stored(texts.texts, teacher, on.storage_url, on.gpus_per_worker, actors)
    names = _name_vectors(recordings.train, texts.species, teacher) if needs_names else None
    rows = TrainingRows.of(Clips.of(recordings.train, recordings.url, inputs.features), texts)
    held_out = None
    if len(recordings.val):
        held_out = _held_out(recordings, inputs, teacher)
    else:
        note("no rows with split val: nothing is held out to look at")
    return Data(rows, bank_url, held_out, names, inputs.noise)


def _held_out(recordings: Splits, inputs: Inputs, teacher: Teacher) -> pictures.HeldOut:
    """The held-out recordings, the names they may be given and the photographs they may find."""
    plan = text_bank.plan(recordings.val, {"sci": 1.0})
    names = _name_vectors(recordings.val, plan.species, teacher)
    image_vectors = image_species = photographs = None
    if (gallery := inputs.gallery) is not None:
        number = {species: index for index, species in enumerate(plan.species)}
        image_vectors = gallery.vectors
        image_species = np.array([number.get(species, -1) for species in gallery.species], np.int32)
        photographs = pictures.Photographs(gallery.images["thumbnail"], gallery.species.tolist(), plan.species)
    clips = Clips.of(recordings.val, recordings.url, inputs.features)
    return pictures.HeldOut(clips, plan.species_of_row, names, image_vectors, image_species, photographs)


def _name_vectors(rows: pa.Table, species: list[str], teacher: Teacher) -> np.ndarray:
    """The teacher's vector of the text that names each species in full: float32 [species, width]."""
    first = {row["scientific_name"]: row for row in rows.to_pylist()}
    return teacher.embed_texts([prompts.text(first[name], "taxon_com") for name in species])


def fit(recipe: Recipe, data: Data, run_id: str, on: launch.Cluster, shown: bool) -> launch.Trained:
    """Trains on Ray.

    Args:
        recipe, data: what is trained on what.
        run_id: the MLflow run that takes the curves.
        on: where it runs.
        shown: whether its progress is; nobody would see that of a sweep's trial.
    """
    total = recipe.order.steps * recipe.order.batch_size
    with progress.follow("recordings", total) if shown else contextlib.nullcontext() as say:
        return launch.fit(recipe, data, Tracking(tracking.store(), run_id, cluster.this_node(), say), on)


def report_undecodable(outcome: Outcome, recordings: Splits, max_bad_fraction: float) -> None:
    """Lists the recordings that could not be decoded, in the MLflow run, and counts them on stderr.

    Raises:
        UserError: they are too many.
    """
    train = {int(recordings.train_rows[row]): reason for row, reason in outcome.bad.items()}
    val = {int(recordings.val_rows[row]): reason for row, reason in outcome.bad_held_out.items()}
    name = "undecodable_recordings.csv"
    rows = len(recordings.train)
    if train or val:
        tracking.log_text(splits.listing(recordings.table, train | val), name)
        kinds = f"{len(train)} of {rows} to train on, {len(val)} of {len(recordings.val)} held out"
        note(f"recordings that cannot be decoded: {kinds}; the MLflow run lists them in {name}")
    if not outcome.too_many:
        return
    first, reason = next(iter(train.items()))
    of = f"the first {outcome.seen}" if outcome.seen < rows else f"{rows}"
    raise UserError(
        f"--recordings: {len(train)} of {of} recordings cannot be decoded, more than the share of "
        f"{max_bad_fraction:g} that --max-bad-fraction allows; the first is {recordings.table['path'][first]} "
        f"({reason}), {name} in the MLflow run lists all. Repair them and give the same command again: it goes on from "
        "the last checkpoint"
    )
