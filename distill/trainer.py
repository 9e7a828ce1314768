"""The training step, on Ray Train workers.

    batch of waveforms → mel → audio tower → head → unit vectors of the global batch
    text numbers → rows of the text bank → loss → backward → AdamW

Every worker computes the loss of the global batch (see `objectives.global_batch`), so that N workers take the steps
that one would. The random numbers of a step depend on (seed, step, rank) alone: a run that is resumed from a step goes
on as if it had never stopped.
"""

from __future__ import annotations

import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from distill import dataset, helpers, metrics, pictures, student, text_bank
from distill.augment import Augment, on_mels, on_waves
from distill.bad_rows import BadRows, of_all_ranks
from distill.dataset import Clips, Order
from distill.mel import LogMel
from distill.step import Learner, Stepper
from distill.training_log import TrainingLog

PREEMPTION_EVERY = 4  # steps between questions whether a node is about to be taken away, for which all workers meet
STATE_FILE = "state.pt"
LATE = 4  # steps that may wait for features, of which the first always does


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the optimizer does.

    Attributes:
        student: the ClapModel checkpoint to start from.
        head: linear or mlp.
        provenance: fields of `StudentConfig` that say where the model came from.
        width: the teacher's width.
        order: which recordings come when.
        objective: a name in `OBJECTIVES`.
        alignment: weight of the cosine distance to the text, 0 for none.
        preserve: weight of the distance of the pooled embedding to the base model's, 0 for none.
        parts: how many a worker's share of a step is cut into, to need less memory.
        augment: how clips are changed.
        lr, head_lr: peak learning rates of the tower and of the new head.
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps in which the rates rise.
        freeze_encoder: whether only the head learns.
        freeze_stages: the first stages of the tower that stay as they are.
        wise_ft: shares of the trained tower in mixtures with the base's to choose from at the end; none to keep it.
        max_bad_fraction: share of the recordings that may be undecodable before the run fails.
        precision: fp32, or bf16 for autocast.
        eval_every: epochs between looks at the held-out recordings.
        checkpoint_every: steps between checkpoints; one at the end always.
        threads: CPU threads of a worker; None for its share of the machine's cores.
        seed: of everything drawn.
    """

    student: str
    head: str
    provenance: dict[str, str]
    width: int
    order: Order
    objective: str
    alignment: float
    preserve: float
    parts: int
    augment: Augment
    lr: float
    head_lr: float
    weight_decay: float
    warmup: float
    freeze_encoder: bool
    freeze_stages: int
    wise_ft: tuple[float, ...]
    max_bad_fraction: float
    precision: str
    eval_every: int
    checkpoint_every: int
    threads: int | None
    seed: int


@dataclass(frozen=True)
class HeldOut:
    """What training is looked at with: recordings that it never hears.

    Attributes:
        clips: the recordings.
        species: label of each recording, int32 [rows], into `name_vectors`.
        name_vectors: the teacher's text embedding of each species, float32 [species, width].
        image_vectors: photographs of a gallery, float32 [images, width]; None without a gallery.
        image_species: label of each photograph, int32 [images].
        photographs: what a look is drawn with; None for no picture.
    """

    clips: Clips
    species: np.ndarray
    name_vectors: np.ndarray
    image_vectors: np.ndarray | None = None
    image_species: np.ndarray | None = None
    photographs: pictures.Photographs | None = None


@dataclass(frozen=True)
class Tracking:
    """The MLflow run that rank 0 writes to; it is made and ended by the driver.

    Attributes:
        uri: of the store.
        run_id: the run.
        node: Ray's id of the node whose use of CPU, memory and GPUs the driver logs; empty where it logs none.
    """

    uri: str
    run_id: str
    node: str = ""


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """The share of the peak rate at a step: linear warm-up, then half a cosine down to 0 (arXiv 1608.03983)."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(learner: Learner, recipe: Recipe) -> list[dict[str, Any]]:
    """Tower and head at their own rates; decay on matrices only, as is usual for transformers."""
    groups = []
    model = learner.student
    for rate, module in ((recipe.lr, model.tower), (recipe.head_lr, model.head)):
        weights = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in weights if p.ndim > 1]
        vectors = [p for p in weights if p.ndim <= 1]
        groups += [
            {"params": matrices, "lr": rate, "weight_decay": recipe.weight_decay},
            {"params": vectors, "lr": rate, "weight_decay": 0.0},
        ]
    scalars = [model.log_scale] + ([learner.bias] if learner.bias is not None else [])
    groups.append({"params": scalars, "lr": recipe.head_lr, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def start_model(recipe: Recipe) -> student.Student:
    """The student before its first step; the same on every worker."""
    torch.manual_seed(recipe.seed)
    model = student.from_base(recipe.student, recipe.width, recipe.head, **recipe.provenance)  # type: ignore[arg-type]
    model.requires_grad_(True)
    if recipe.freeze_encoder:
        model.tower.requires_grad_(False)
    for module in model.tower.first_stages(recipe.freeze_stages):
        module.requires_grad_(False)
    return model


def to_training_mode(model: student.Student, freeze_encoder: bool) -> None:
    """Dropout on, batch normalisation as in the checkpoint.

    The tower's first operation is a BatchNorm over mels. Statistics of a small batch would shift every feature, differ
    between ranks and leave the running averages wrong for whoever interpolates weights later: the checkpoint's own
    statistics stay, and its scale and shift with them. To learn those two would carry gradients through the patch
    convolution to its input, which takes longer than all other backward passes together on a small tower.
    """
    model.train()
    if freeze_encoder:
        model.tower.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.requires_grad_(False)


@dataclass(frozen=True)
class Outcome:
    """How a worker's training ended.

    Attributes:
        bad: rows that could not be decoded, with the word of `audio_errors.REASONS` that says why.
        bad_held_out: the same of the held-out recordings.
        too_many: whether it ended early because of them.
        seen: how many rows had been read by then, at most all.
    """

    bad: dict[int, str]
    bad_held_out: dict[int, str]
    too_many: bool
    seen: int


def train_worker(config: dict[str, Any]) -> Outcome:
    """The function that each Ray Train worker runs.

    Args:
        config: `recipe`, `tracking`, `clips_per_block`, and object-store references `bank`, `clips`, `held_out`
            (which may be None) and `names` (which may be missing); see `launch.fit`. `rows_to`, if there, is a local
            folder for `rows-<rank>-<process>.csv`: each step's number from 1, and the rows that its clips stood for.
            `own_ray`: see `launch.fit`.
    """
    import ray
    from ray import train
    from ray.train.torch import get_device, prepare_model

    recipe: Recipe = config["recipe"]
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()

    if device.type == "cpu":
        if config.get("own_ray"):
            helpers.run_as_usual()
        # Ray gives a worker as many threads as it reserves CPUs; decoding leaves most of the other cores idle.
        torch.set_num_threads(recipe.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    learner = Learner(start_model(recipe), recipe.objective).to(device)
    model = learner.student
    to_training_mode(model, recipe.freeze_encoder)
    # The only buffers that could differ between ranks are those of the batch norm, which stay as they are.
    wrapped = prepare_model(learner, parallel_strategy_kwargs={"broadcast_buffers": False})
    names = config.get("names")
    stepper = Stepper(
        learner,
        wrapped,
        recipe.objective,
        recipe.alignment,
        recipe.preserve,
        recipe.parts,
        torch.tensor(ray.get(names), device=device) if names is not None else torch.empty(0, device=device),
        recipe.precision == "bf16",
    )
    before = {name: weight.clone() for name, weight in model.tower.state_dict().items()} if recipe.wise_ft else {}
    optimizer = torch.optim.AdamW(parameter_groups(learner, recipe), betas=(0.9, 0.98), eps=1e-8, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    order = recipe.order
    held_out: HeldOut | None = ray.get(config["held_out"]) if config["held_out"] is not None else None
    clips: Clips = ray.get(config["clips"])
    log = TrainingLog(config["tracking"], order, rank)
    bad = BadRows(order, recipe.max_bad_fraction, rank, world)
    bad_held_out: dict[int, str] = {}
    leaving = _Leaving()
    step = _resume(learner, optimizer, log, bad, clips, device)

    bank = text_bank.read(config["bank"])

    def measured(show: Callable[[np.ndarray, np.ndarray], None] | None = None) -> dict[str, float]:
        assert held_out is not None
        return look(model, held_out, device, rank, world, show=show, failed=bad_held_out)

    def save(values: dict[str, float]) -> None:
        failed = bad.of_all()
        log.send()  # a run that goes on from this checkpoint does not take the steps before it again
        _report(learner, optimizer, step, failed, log, values)

    stream = dataset.training_batches(config["clips"], config["clips_per_block"], order, rank, world, step, str(device))
    noise = ray.get(config["noise"]) if config.get("noise") is not None else None
    features = _Featured(model.mel, recipe, rank, None if noise is None else torch.from_numpy(noise).to(device))
    rows_to = config.get("rows_to")
    too_many = False
    if step == order.steps:  # nothing to train, or stopped behind its last step
        if held_out is not None:
            log.look(step, measured())
        save({})
    first_step = step
    for batch, waited_s in _timed(features.of(stream, step, device)):
        if step == first_step and config.get("own_ray") and device.type == "cpu":
            helpers.step_aside()  # now that decoding has begun they are all there
        share = learning_rate(step, order.steps, recipe.warmup)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        optimizer.zero_grad(set_to_none=True)
        text_bD = torch.from_numpy(bank[batch["text"].cpu().numpy()]).to(device)
        said = stepper(batch["mel"], text_bD, batch["species"], order.batch_size, _seed(recipe.seed, step, rank))
        optimizer.step()
        step += 1

        rates = {"lr": recipe.lr * share, "head_lr": recipe.head_lr * share}
        measures = {name: value for name, value in vars(said).items() if value is not None}
        log.step(step, waited_s, **measures, **rates)
        bad.note(batch["failed"], batch["reason"])
        if rows_to:
            asked_for = torch.where(batch["failed"] >= 0, batch["failed"], batch["row"]).tolist()
            with open(os.path.join(rows_to, f"rows-{rank}-{os.getpid()}.csv"), "a", encoding="utf-8") as handle:
                handle.writelines(f"{step},{row}\n" for row in asked_for)
        epoch, within = divmod(step, order.steps_per_epoch)
        saves = step == order.steps or leaving.just_announced(step) or step % recipe.checkpoint_every == 0
        # Before it is saved: what was learnt from rows that stood in for too many others is no place to go on from.
        too_many = (saves or not within or bad.early(step)) and bad.too_many(step)
        if too_many:
            break
        if not within and held_out is not None and (epoch % recipe.eval_every == 0 or step == order.steps):
            log.look(step, measured(partial(_show, held_out, model.mel, log, epoch)))
            to_training_mode(model, recipe.freeze_encoder)
        if step == order.steps and held_out is not None:
            _mix(model, before, recipe.wise_ft, measured, log)
        if saves:
            save({"loss": said.loss})
    outcome = Outcome(bad.of_all(), bad_held_out, too_many, bad.seen(step))
    log.add(step, {"undecodable_recordings": len(outcome.bad), "undecodable_held_out": len(bad_held_out)})
    log.close()
    return outcome


def _seed(*numbers: int) -> int:
    """Of what one rank draws in one step, from (seed, step, rank): a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _mix(
    model: student.Student,
    before: dict[str, torch.Tensor],
    shares: tuple[float, ...],
    measure: Callable[[], dict[str, float]],
    log: TrainingLog,
) -> None:
    """Leaves in the model the mixture of its tower with the base's that finds the held-out recordings' match best.

    WiSE-FT (arXiv 2109.01903): weights (1 − α)·before + α·after keep more of what the base could do. The head, which
    the base does not have, stays.
    """
    after = {name: weight.clone() for name, weight in model.tower.state_dict().items()}
    found = {}
    for share in shares:
        model.tower.load_state_dict(_mixture(before, after, share))
        found[share] = measure()
        log.mixture(share, found[share])
    if not any(found.values()):  # nothing to mix, or no held-out recording that can be decoded to choose by
        model.tower.load_state_dict(after)
        return
    wanted = "val_audio_to_image_mAP" if "val_audio_to_image_mAP" in found[shares[0]] else "val_text_mAP"
    best = max(found, key=lambda share: found[share][wanted])
    model.tower.load_state_dict(_mixture(before, after, best))
    log.look(log.order.steps, found[best] | {"wise_ft": best})


def _mixture(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    return {
        name: torch.lerp(before[name], weight, share) if weight.is_floating_point() else weight
        for name, weight in after.items()
    }


def look(
    model: student.Student,
    held_out: HeldOut,
    device: torch.device,
    rank: int,
    world: int,
    batch_size: int = 32,
    show: Callable[[np.ndarray, np.ndarray], None] | None = None,
    failed: dict[int, str] | None = None,
) -> dict[str, float]:
    """Retrieval on the held-out recordings, their embedding shared among the workers.

    Args:
        model: the student, left in evaluation mode.
        held_out: what to look at.
        device: of the model.
        rank, world: of this worker.
        batch_size: clips in one pass.
        show: called by rank 0 with the vectors float32 [m, width] and rows int64 [m] of the recordings.
        failed: takes the rows of all ranks that cannot be decoded, with the word of `audio_errors.REASONS` for why.

    Returns:
        `val_naming_top1` (nearest species text), `val_text_mAP` (sound finds its species' text among all), and with a
        gallery `val_audio_to_image_mAP`; the same on every rank.
    """
    model.eval()
    mine = np.arange(rank, len(held_out.species), world)

    def embed(waves: np.ndarray) -> np.ndarray:
        return model.embed(torch.from_numpy(waves).to(device)).float().cpu().numpy()

    mine_failed: dict[int, str] = {}
    vectors, rows = dataset.embed_clips(held_out.clips, embed, mine, batch_size, mine_failed)
    if failed is not None:
        failed |= of_all_ranks(mine_failed, world)
    if world > 1:
        shares: list[Any] = [None] * world
        torch.distributed.all_gather_object(shares, (vectors, rows))
        shares = [(v, r) for v, r in shares if len(r)] or shares[:1]
        vectors, rows = (np.concatenate(part) for part in zip(*shares, strict=True))
    if not len(rows):
        return {}
    species = held_out.species[rows]
    names = np.arange(len(held_out.name_vectors))
    found = {
        "val_naming_top1": metrics.naming_accuracy(vectors, held_out.name_vectors, species, names),
        "val_text_mAP": metrics.retrieval_map(vectors, held_out.name_vectors, species, names),
    }
    if held_out.image_vectors is not None and held_out.image_species is not None:
        found["val_audio_to_image_mAP"] = metrics.retrieval_map(
            vectors, held_out.image_vectors, species, held_out.image_species
        )
    if show is not None and rank == 0:
        show(vectors, rows)
    return found


class _Featured:
    """Makes batches of waveforms into batches of features, augmented.

    Args:
        mel: the model's.
        recipe: of the run.
        rank: of this worker; it draws differently from the others.
        noise_NS: backgrounds to mix in, or None.
    """

    def __init__(self, mel: LogMel, recipe: Recipe, rank: int, noise_NS: torch.Tensor | None) -> None:
        self.mel = mel
        self.recipe = recipe
        self.rank = rank
        self.noise_NS = noise_NS

    def of(self, batches: Iterator[dict[str, Any]], first_step: int, device: torch.device) -> Iterator[dict[str, Any]]:
        """Puts `mel`, float32 [b, 1, frames, mels], in the place of each batch's `wave`.

        On a CPU a thread of its own makes the next batch's features while this one's gradients are computed, where a
        core is free between two operations. A GPU makes them in passing.
        """
        if device.type == "cpu":
            return _ahead(self._make, batches, first_step)
        return (self._make(batch, step) for step, batch in enumerate(batches, first_step))

    @torch.no_grad()
    def _make(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        # Another stream of numbers than dropout's, which begins at the same seed.
        generator = torch.Generator().manual_seed(_seed(self.recipe.seed, step, self.rank, 1))
        augment, rate_hz = self.recipe.augment, self.mel.sample_rate_hz
        wave = on_waves(batch.pop("wave"), augment, rate_hz, self.noise_NS, generator)
        return batch | {"mel": on_mels(self.mel(wave), augment, generator)}


def _ahead(
    make: Callable[[dict[str, Any], int], dict[str, Any]], batches: Iterator[dict[str, Any]], first_step: int
) -> Iterator[dict[str, Any]]:
    """What `make` makes of each batch and its step, the next one made by a thread meanwhile.

    The thread runs where a core is free. Once steps had to wait for it `LATE` times it takes its share of one core, and
    once they had to again, of all.
    """
    ready: queue.Queue[Future[dict[str, Any]] | BaseException | None] = queue.Queue(1)
    late, threads = 0, torch.get_num_threads()

    def work() -> None:
        ways = ((True, 1), (False, 1), (False, threads))
        pools = [ThreadPoolExecutor(1, initializer=_begin_features, initargs=way) for way in ways]
        try:
            for step, batch in enumerate(batches, first_step):
                ready.put(pools[min(late // LATE, len(pools) - 1)].submit(make, batch, step))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        late += not item.done()
        yield item.result()


def _begin_features(when_idle: bool, threads: int) -> None:
    """Of a thread that works beside a step.

    With a team of threads of its own there are more of them in the process than cores, and GNU's OpenMP sends a step's
    threads to sleep wherever one waits for another, hundreds of times a second, instead of letting them spin.
    """
    if when_idle:
        helpers.run_when_idle()
    helpers.use_threads(threads)


def _timed(batches: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Each batch with the seconds that the step waited for it."""
    while True:
        begin = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begin


def _show(held_out: HeldOut, mel: LogMel, log: TrainingLog, epoch: int, vectors: np.ndarray, rows: np.ndarray) -> None:
    """A picture of a look at the held-out recordings, where there are photographs to draw it with."""
    if held_out.photographs is not None and held_out.image_vectors is not None:
        drawn = pictures.draw(vectors, rows, held_out, mel, f"After epoch {epoch}")
        log.image(drawn, f"retrieval/epoch_{epoch:03}.png")


def _resume(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    log: TrainingLog,
    bad: BadRows,
    clips: Clips,
    device: torch.device,
) -> int:
    """Loads the latest checkpoint of this run, if there is one; returns the step it stands at."""
    from ray import train

    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state = torch.load(os.path.join(folder, STATE_FILE), map_location=device, weights_only=True)
    learner.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    bad.again(state["failed"], clips)
    step = int(state["step"])
    log.resumed(step, state["unsent"])
    return step


def _report(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    step: int,
    failed: dict[int, str],
    log: TrainingLog,
    values: dict[str, float],
) -> None:
    from ray import train

    reported = {"step": step} | values | log.latest
    if log.rank:
        train.report(reported)
        return
    with tempfile.TemporaryDirectory() as folder:
        state = {
            "model": learner.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "failed": failed,
            "unsent": log.pending,
        }
        torch.save(state, os.path.join(folder, STATE_FILE))
        student.save(learner.student, os.path.join(folder, "model"), card="")
        train.report(reported, checkpoint=train.Checkpoint.from_directory(folder))


class _Leaving:
    """The nodes that were announced to go, as spot instances are some seconds before they are taken away."""

    def __init__(self) -> None:
        self.nodes: set[str] = set()

    def just_announced(self, step: int) -> bool:
        """Whether another one was announced: the same answer on every rank, each of which must ask at every step."""
        from ray import train

        if step % PREEMPTION_EVERY:
            return False
        info = train.get_preemption_info()
        before = len(self.nodes)
        self.nodes |= set(info.preempted_node_ids if info else ())
        return len(self.nodes) > before
