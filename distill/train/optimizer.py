"""What the optimizer changes, and by how much."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distill.train.recipe import Recipe
from distill.train.step import Learner
from songsight.models import student


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """The share of the peak rate at a step: linear warm-up, then half a cosine down to 0 (arXiv 1608.03983)."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(
    learner: Learner, recipe: Recipe, decays: Callable[[str, nn.Parameter], bool] | None = None
) -> list[dict[str, Any]]:
    """Tower and head at their own rates.

    Args:
        learner: what is trained.
        recipe: of the run.
        decays: whether weight decay is for a parameter, given its name in the tower or head; for matrices if not given,
            which leaves out norms, biases and the tables of relative positions as Swin's own training does (arXiv
            2103.14030, `no_weight_decay_keywords` of its code).
    """
    decays = decays or (lambda name, weight: weight.ndim > 1 and not name.endswith("position_bias"))
    groups = []
    model = learner.student
    for rate, module in ((recipe.lr, model.tower), (recipe.head_lr, model.head)):
        weights = [(decays(name, p), p) for name, p in module.named_parameters() if p.requires_grad]
        groups += [
            {"params": [p for decayed, p in weights if decayed], "lr": rate, "weight_decay": recipe.weight_decay},
            {"params": [p for decayed, p in weights if not decayed], "lr": rate, "weight_decay": 0.0},
        ]
    scalars = [model.log_scale] + ([learner.bias] if learner.bias is not None else [])
    groups.append({"params": scalars, "lr": recipe.head_lr, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def adamw(
    learner: Learner, recipe: Recipe, state: dict[str, Any] | None = None
) -> tuple[torch.optim.AdamW, list[float]]:
    """The optimizer of a run, from its start or from where a checkpoint's `state` left it.

    Returns:
        (optimizer, peak learning rate of each of its groups).
    """
    optimizer = _adamw(parameter_groups(learner, recipe))
    if state is not None and _sizes(state["param_groups"]) != _sizes(optimizer.param_groups):
        # Version 0.1 decayed the tables of relative positions too: what it began goes on so.
        optimizer = _adamw(parameter_groups(learner, recipe, lambda _, weight: weight.ndim > 1))
    peaks = [group["lr"] for group in optimizer.param_groups]
    if state is not None:
        optimizer.load_state_dict(state)
    return optimizer, peaks


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8, fused=True)


def _sizes(groups: list[dict[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


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
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)
