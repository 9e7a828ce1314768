"""InfoNCE without false negatives."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from distill.objectives.batch import Batch


def masked(batch: Batch) -> torch.Tensor:
    """`infonce` with other recordings of the same species left out of the negatives.

    The softmax of row i runs over {i} ∪ {j : speciesⱼ ≠ speciesᵢ}. The opposite choice, sharing the target among them,
    is `multi_positive`.

    Returns:
        A scalar.
    """
    logits_BB = batch.scale * batch.audio_BD @ batch.text_BD.T
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    others_BB = batch.same_BB & ~torch.eye(len(logits_BB), dtype=torch.bool, device=logits_BB.device)
    logits_BB = logits_BB.masked_fill(others_BB, float("-inf"))
    return (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
