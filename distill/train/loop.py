"""One worker's training, from its first step or its last checkpoint to its end.

    batch of waveforms → mel → audio tower → head → unit vectors of the global batch
    text numbers → rows of the text bank → loss → backward → AdamW

Every worker computes the loss of the global batch (see `objectives.global_batch`), so that N workers take the steps
that one would. The random numbers of a step depend on (seed, step, rank) alone: a run that is resumed from a step goes
on as if it had never stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from distill.data import stream
from distill.data.bad_rows import BadRows
from distill.data.rows import TrainingRows
from distill.train import checkpoint, look, optimizer, wise_ft
from distill.train.features import Featurizer, seed_of
from distill.train.log import Tracking, TrainingLog
from distill.train.recipe import Outcome, Recipe
from distill.train.step import Learner, Measures, Stepper
from songsight import pictures
from songsight.pictures import HeldOut


@dataclass(frozen=True)
class Worker:
    """A worker: its rank among how many, and its device."""

    rank: int
    world: int
    device: torch.device


@dataclass(frozen=True)
class WorkerData:
    """What a worker trains on.

    Attributes:
        rows: of the manifest.
        rows_ref: the same in Ray's object store, for the tasks that decode.
        bank: the teacher's embeddings of the texts, float32 [texts, width].
        held_out: what to look at between epochs, or None.
        names_SD: the teacher's unit text vector of each species, float32 [species, width]; empty where the objective
            does not ask for it.
        noise_NS: backgrounds to mix into clips, float32 [clips, clip_samples], or None.
    """

    rows: TrainingRows
    rows_ref: Any
    bank: np.ndarray
    held_out: HeldOut | None
    names_SD: torch.Tensor
    noise_NS: torch.Tensor | None


class Training:
    """The state of a worker's training; `run` takes the steps that are left.

    Args:
        recipe: of the run.
        data: to train on.
        tracking: the MLflow run.
        worker: which of the workers this is.
        wrap: what Ray Train makes of the model, such as DDP.
        rows_to: local folder for `rows-<rank>-<process>.csv`: each step's number from 1, and the rows that its clips
            stood for; or None.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: WorkerData,
        tracking: Tracking,
        worker: Worker,
        wrap: Callable[[Learner], Any],
        rows_to: str | None,
    ) -> None:
        self.recipe, self.data, self.worker, self.rows_to = recipe, data, worker, rows_to
        self.order = recipe.order
        self.learner = Learner(optimizer.start_model(recipe), recipe.objective).to(worker.device)
        self.model = self.learner.student
        optimizer.to_training_mode(self.model, recipe.freeze_encoder)
        self.stepper = Stepper(
            self.learner,
            wrap(self.learner),
            recipe.objective,
            recipe.alignment,
            recipe.preserve,
            recipe.parts,
            data.names_SD,
            recipe.precision == "bf16",
        )
        tower = self.model.tower.state_dict() if recipe.wise_ft else {}
        self.base_weights = {name: weight.clone() for name, weight in tower.items()}
        self.featurize = Featurizer(self.model.mel, recipe, worker.rank, data.noise_NS)
        self.log = TrainingLog(tracking, self.order, worker.rank)
        self.bad = BadRows(self.order, recipe.max_bad_fraction, worker.rank, worker.world)
        self.bad_held_out: dict[int, str] = {}
        self.preemptions = checkpoint.Preemptions()
        self.step = 0
        state = checkpoint.latest(worker.device)
        self.optimizer, self.peaks = optimizer.adamw(self.learner, recipe, state and state["optimizer"])
        if state is not None:
            self.learner.load_state_dict(state["model"])
            self.bad.reread(state["failed"], data.rows.clips)
            self.step = int(state["step"])
            self.log.resumed(self.step, state["unsent"])

    def run(self) -> Outcome:
        """Takes the steps that are left; too many undecodable recordings end it early."""
        if self.step == self.order.steps:  # nothing to train, or stopped behind its last step
            if self.data.held_out is not None:
                self.log.look(self.step, self._look())
            self._save({})
        too_many = False
        for batch, waited_s in _timed(self._batches()):
            loss = self._take_step(batch, waited_s)
            epoch, within = divmod(self.step, self.order.steps_per_epoch)
            saves = self._saves()
            # Before it is saved: what was learnt from rows that stood in for too many others is no place to go on from.
            too_many = (saves or not within or self.bad.early(self.step)) and self.bad.too_many(self.step)
            if too_many:
                break
            self._look_if_due(epoch, within)
            if saves:
                self._save({"loss": loss})
        outcome = Outcome(self.bad.of_all_ranks(), self.bad_held_out, too_many, self.bad.seen(self.step))
        bad, held_out = len(outcome.bad), len(outcome.bad_held_out)
        self.log.add(self.step, {"undecodable_recordings": bad, "undecodable_held_out": held_out})
        self.log.close()
        return outcome

    def _batches(self) -> Iterator[dict[str, Any]]:
        rows, worker = self.data.rows, self.worker
        return stream.training_batches(
            self.data.rows_ref, rows.per_block, self.order, worker.rank, worker.world, self.step, str(worker.device)
        )

    def _take_step(self, batch: dict[str, Any], waited_s: float) -> float:
        """One step of the optimizer; returns the loss of the global batch."""
        recipe, worker = self.recipe, self.worker
        share = optimizer.learning_rate(self.step, self.order.steps, recipe.warmup)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        self.optimizer.zero_grad(set_to_none=True)
        mel_b1TM = self.featurize(batch["wave"], self.step)
        text_bD = torch.from_numpy(self.data.bank[batch["text"].cpu().numpy()]).to(worker.device)
        seed = seed_of(recipe.seed, self.step, worker.rank)
        measures: Measures = self.stepper(mel_b1TM, text_bD, batch["species"], self.order.batch_size, seed)
        self.optimizer.step()
        self.step += 1

        shown = {name: value for name, value in vars(measures).items() if value is not None}
        self.log.step(self.step, waited_s, **shown, lr=recipe.lr * share, head_lr=recipe.head_lr * share)
        self.bad.note(batch["failed"], batch["reason"])
        if self.rows_to:
            asked_for = torch.where(batch["failed"] >= 0, batch["failed"], batch["row"]).tolist()
            path = os.path.join(self.rows_to, f"rows-{worker.rank}-{os.getpid()}.csv")
            with open(path, "a", encoding="utf-8") as handle:
                handle.writelines(f"{self.step},{row}\n" for row in asked_for)
        return measures.loss

    def _saves(self) -> bool:
        """Whether a checkpoint is due; the same answer on every rank, each of which must ask at every step."""
        announced = self.preemptions.just_announced(self.step)
        return announced or self.step == self.order.steps or self.step % self.recipe.checkpoint_every == 0

    def _save(self, values: dict[str, float]) -> None:
        failed = self.bad.of_all_ranks()
        self.log.send()  # a run that goes on from this checkpoint does not take the steps before it again
        checkpoint.report(self.learner, self.optimizer, self.step, failed, self.log, values)

    def _look_if_due(self, epoch: int, within: int) -> None:
        """Looks at the held-out recordings behind an epoch, and behind the last one chooses the best mixture."""
        held_out, ended = self.data.held_out, self.step == self.order.steps
        if held_out is None:
            return
        if not within and (epoch % self.recipe.eval_every == 0 or ended):
            self.log.look(self.step, self._look(partial(self._show, held_out, epoch)))
            optimizer.to_training_mode(self.model, self.recipe.freeze_encoder)
        if ended:
            wise_ft.keep_best_mixture(self.model.tower, self.base_weights, self.recipe.wise_ft, self._look, self.log)

    def _look(self, show: Callable[[np.ndarray, np.ndarray], None] | None = None) -> dict[str, float]:
        worker = self.worker
        assert self.data.held_out is not None
        return look.look(
            self.model,
            self.data.held_out,
            worker.device,
            worker.rank,
            worker.world,
            show=show,
            failed=self.bad_held_out,
        )

    def _show(self, held_out: HeldOut, epoch: int, vectors: np.ndarray, rows: np.ndarray) -> None:
        """A picture of a look at the held-out recordings, where there are photographs to draw it with."""
        if held_out.photographs is not None and held_out.image_vectors is not None:
            drawn = pictures.draw(vectors, rows, held_out, self.model.mel, f"After epoch {epoch}")
            self.log.image(drawn, f"retrieval/epoch_{epoch:03}.png")


def _timed(batches: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Each batch with the seconds that the step waited for it."""
    while True:
        begin = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begin
