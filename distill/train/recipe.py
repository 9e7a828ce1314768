"""What a training is, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from distill.data.augment import Augment
from distill.data.order import Order


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
        weight_decay: of AdamW; see `optimizer.parameter_groups` for what is left out.
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
