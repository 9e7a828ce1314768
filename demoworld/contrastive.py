"""How both stand-ins are trained: batches in which no species meets itself, a contrastive loss, progress on a line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

_WARM_UP_SHARE = 0.08
_LARGEST_GRADIENT = 1.0
_REPORT_EVERY_S = 5.0


def fit(
    name: str,
    loss_of: Callable[[np.ndarray, np.random.Generator], torch.Tensor],
    parameters: Iterable[torch.nn.Parameter],
    species: Sequence[str],
    steps: int,
    learning_rate: float,
    batch: int,
    seed: int,
) -> None:
    """Trains with AdamW, a linear warm-up and a cosine descent to nothing.

    Args:
        name: begins each progress line.
        loss_of: the loss of some rows, given their indices, int64 [batch], and a generator for what it draws itself.
        parameters: what is trained.
        species: each row's species.
        steps: how many.
        learning_rate: the largest.
        batch: rows in a step; fewer where there are fewer species.
        seed: of the batches and of what `loss_of` draws.
    """
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.02, foreach=True)
    warm_up = max(1, round(_WARM_UP_SHARE * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warm_up, 0.5 * (1 + np.cos(np.pi * max(0, step - warm_up) / max(1, steps - warm_up)))
        ),
    )
    rng = np.random.default_rng([seed, 20])
    rows_of = [np.flatnonzero(np.asarray(species) == one) for one in sorted(set(species))]
    began = reported = time.monotonic()
    recent: list[float] = []
    for step in range(1, steps + 1):
        # One row a species: in plain contrastive learning two of a species would be each other's negatives.
        chosen = rng.permutation(len(rows_of))[:batch]
        loss = loss_of(np.array([rng.choice(rows_of[which]) for which in chosen]), rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, _LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        now = time.monotonic()
        if now - reported > _REPORT_EVERY_S or step == steps:
            rate = step / (now - began)
            left = (steps - step) / rate
            print(
                f"{name}: step {step} of {steps}, loss {np.mean(recent):.2f}, {rate:.1f} steps/s, {left:.0f} s left",
                flush=True,
            )
            reported, recent = now, []


def contrast(left: torch.Tensor, right: torch.Tensor, log_scale: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
    """The symmetric contrastive loss of matching rows; rows with the same text are matches too.

    Args:
        left, right: float [batch, width], unit vectors.
        log_scale: the log inverse temperature, a scalar.
        texts: what each row's text says.
    """
    logits = log_scale.clamp(max=float(np.log(100.0))).exp() * left @ right.T
    same = np.asarray(texts)[:, None] == np.asarray(texts)[None]
    target = torch.from_numpy(same / same.sum(axis=1, keepdims=True)).float()
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
