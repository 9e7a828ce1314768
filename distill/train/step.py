"""One step of the optimizer's loss: forward, loss of the global batch, backward.

With `parts` above 1 a worker's share goes through the tower in parts, and yet every recording has the whole batch for
its negatives (GradCache, arXiv 2101.06983): all parts are embedded without a graph, the loss gives the gradient of each
embedding, and each part is embedded again to carry that gradient back. Dropout is the same both times, by its seed.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distill.objectives import OBJECTIVES, alignment, global_batch, preserve
from distill.objectives.batch import Batch
from distill.objectives.siglip import INITIAL_BIAS, INITIAL_LOG_SCALE
from songsight.models.student import LARGEST_LOG_SCALE, Student


class Learner(nn.Module):
    """What is trained: the student, and the bias that only siglip's loss has.

    A parameter that no gradient reaches would leave DDP's buckets unreduced: the bias exists only where it is used.
    """

    def __init__(self, student: Student, objective: str) -> None:
        super().__init__()
        self.student = student
        self.bias: nn.Parameter | None = None
        if objective == "siglip":
            self.bias = nn.Parameter(torch.tensor(INITIAL_BIAS))
            nn.init.constant_(student.log_scale, INITIAL_LOG_SCALE)

    def forward(self, mel_b1TM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(unit vectors float32 [b, width], the tower's pooled embedding float [b, pooled width])."""
        pooled_bP = self.student.pooled(mel_b1TM)
        return F.normalize(self.student.head(pooled_bP).float(), dim=-1), pooled_bP


@dataclass(frozen=True)
class Measures:
    """What a step says of itself: floats, of the global batch."""

    loss: float
    temperature: float
    audio_text_cosine: float
    preserved: float | None = None


class Stepper:
    """Leaves a step's gradient in the learner's parameters.

    Args:
        learner: what is trained.
        wrapped: the same, as DDP wraps it, or the learner itself.
        objective: a name in `OBJECTIVES`.
        alignment_weight: of the cosine distance to the text.
        preserve_weight: of the distance of the pooled embedding to that of the tower as it is now.
        parts: how many a worker's share is cut into.
        names_SD: the teacher's unit text vector of each species; empty where the objective does not ask for it.
        autocast: whether to compute in bfloat16 what is safe in it.
    """

    def __init__(
        self,
        learner: Learner,
        wrapped: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        objective: str,
        alignment_weight: float,
        preserve_weight: float,
        parts: int,
        names_SD: torch.Tensor,
        autocast: bool,
    ) -> None:
        self.learner = learner
        self.wrapped: Callable[[torch.Tensor], Any] = wrapped
        self.objective = OBJECTIVES[objective]
        self.alignment_weight = alignment_weight
        self.preserve_weight = preserve_weight
        self.parts = parts
        self.names_SD = names_SD
        self.autocast = autocast
        self.base_tower = copy.deepcopy(learner.student.tower).eval().requires_grad_(False) if preserve_weight else None

    def __call__(
        self, mel_b1TM: torch.Tensor, text_bD: torch.Tensor, species_b: torch.Tensor, batch_size: int, seed: int
    ) -> Measures:
        """Forward and backward of this rank's share.

        Args:
            mel_b1TM: features of its recordings.
            text_bD: the unit vector of each one's text.
            species_b: int64 [b], each one's species.
            batch_size: of the global batch.
            seed: of dropout in this step on this rank.
        """
        parts = mel_b1TM.chunk(self.parts)
        if len(parts) == 1:
            vectors_bD, pooled_bP = self._forward(self.wrapped, parts[0], seed, 0)
            loss, measures = self._loss(
                vectors_bD, pooled_bP, mel_b1TM, text_bD, species_b, batch_size, self._scalars()
            )
            loss.backward()
            return measures
        with torch.no_grad():
            embedded = [self._forward(self.learner, part, seed, number) for number, part in enumerate(parts)]
        vectors_bD, pooled_bP = (torch.cat(kind).detach().requires_grad_() for kind in zip(*embedded, strict=True))
        scalars = [scalar.detach().requires_grad_() for scalar in self._scalars()]
        loss, measures = self._loss(vectors_bD, pooled_bP, mel_b1TM, text_bD, species_b, batch_size, scalars)
        loss.backward()
        wanted = zip(
            vectors_bD.grad.split([len(part) for part in parts]),  # type: ignore[union-attr]
            (pooled_bP.grad if pooled_bP.grad is not None else torch.zeros_like(pooled_bP)).split(
                [len(part) for part in parts]
            ),
            strict=True,
        )
        for number, (part, (vector_grad, pooled_grad)) in enumerate(zip(parts, wanted, strict=True)):
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last or self.wrapped is self.learner else self.wrapped.no_sync():  # type: ignore[attr-defined]
                again_bD, again_bP = self._forward(self.wrapped, part, seed, number)
                carried = (again_bD * vector_grad).sum() + (again_bP.float() * pooled_grad).sum()
                if last:  # what the loss itself is a function of has its gradient once
                    for scalar, leaf in zip(self._scalars(), scalars, strict=True):
                        assert leaf.grad is not None
                        carried = carried + scalar * leaf.grad
                carried.backward()
        return measures

    def _scalars(self) -> list[torch.Tensor]:
        scale, bias = self.learner.student.log_scale, self.learner.bias
        return [scale] if bias is None else [scale, bias]

    def _forward(
        self,
        run: Callable[[torch.Tensor], Any],
        part: torch.Tensor,
        seed: int,
        number: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed + number)
        with torch.autocast(part.device.type, torch.bfloat16, enabled=self.autocast):
            return run(part)

    def _loss(
        self,
        vectors_bD: torch.Tensor,
        pooled_bP: torch.Tensor,
        mel_b1TM: torch.Tensor,
        text_bD: torch.Tensor,
        species_b: torch.Tensor,
        batch_size: int,
        scalars: list[torch.Tensor],
    ) -> tuple[torch.Tensor, Measures]:
        audio_BD, text_BD = global_batch(vectors_bD, batch_size), global_batch(text_bD, batch_size)
        scale = scalars[0].clamp(max=LARGEST_LOG_SCALE).exp()
        bias = scalars[1] if len(scalars) > 1 else scale.new_zeros(())
        species_B = global_batch(species_b, batch_size)
        loss = self.objective(Batch(audio_BD, text_BD, species_B, scale, bias, self.names_SD))
        cosine_distance = alignment(audio_BD, text_BD)
        if self.alignment_weight:
            loss = loss + self.alignment_weight * cosine_distance
        preserved = None
        if self.base_tower is not None:
            with torch.no_grad(), torch.autocast(mel_b1TM.device.type, torch.bfloat16, enabled=self.autocast):
                base_bP = self.base_tower(mel_b1TM)
            distance = preserve(global_batch(pooled_bP.float(), batch_size), global_batch(base_bP.float(), batch_size))
            loss = loss + self.preserve_weight * distance
            preserved = 1 - distance.item()
        return loss, Measures(loss.item(), 1 / scale.item(), 1 - cosine_distance.item(), preserved)
