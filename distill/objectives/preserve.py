"""What the tower heard before, kept."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def preserve(pooled_BP: torch.Tensor, base_BP: torch.Tensor) -> torch.Tensor:
    """Mean cosine distance of the student's pooled embedding to the base model's: L = 1 − Σᵢ cos(pᵢ, bᵢ) / B.

    The less-forget constraint of Hou et al. (Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019),
    on the embedding before the new head: directions are kept, lengths are free.

    A mean over rows: with as many rows on every rank, DDP's own averaging gives the exact gradient from each rank's
    rows alone, as it does from the gathered ones.

    Args:
        pooled_BP: the student's `pooled` of a batch of clips, float [batch, pooled width].
        base_BP: the frozen base model's of the same clips, of any length; constant.

    Returns:
        A scalar between 0 and 2.
    """
    return 1 - F.cosine_similarity(pooled_BP, base_BP, dim=-1).mean()
