"""WiSE-FT (arXiv 2109.01903): weights (1 − α)·before + α·after keep more of what the base could do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from distill.train.log import TrainingLog


def keep_best_mixture(
    tower: nn.Module,
    before: dict[str, torch.Tensor],
    shares: tuple[float, ...],
    measure: Callable[[], dict[str, float]],
    log: TrainingLog,
) -> None:
    """Leaves in the tower the mixture with the base's weights that finds the held-out recordings' match best.

    The head, which the base does not have, stays.

    Args:
        tower: trained.
        before: the base's weights.
        shares: α of each mixture.
        measure: a look at the held-out recordings; empty where none can be decoded.
        log: takes each mixture's measures.
    """
    after = {name: weight.clone() for name, weight in tower.state_dict().items()}
    found = {}
    for share in shares:
        tower.load_state_dict(_mixture(before, after, share))
        found[share] = measure()
        log.mixture(share, found[share])
    if not any(found.values()):  # nothing to mix, or no held-out recording that can be decoded to choose by
        tower.load_state_dict(after)
        return
    wanted = "val_audio_to_image_mAP" if "val_audio_to_image_mAP" in found[shares[0]] else "val_text_mAP"
    best = max(found, key=lambda share: found[share][wanted])
    tower.load_state_dict(_mixture(before, after, best))
    log.look(log.order.steps, found[best] | {"wise_ft": best})


def _mixture(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    return {
        name: torch.lerp(before[name], weight, share) if weight.is_floating_point() else weight
        for name, weight in after.items()
    }
