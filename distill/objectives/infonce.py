"""The paper's loss: symmetric cross-entropy over the batch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from distill.objectives.batch import Batch


def infonce(batch: Batch) -> torch.Tensor:
    """InfoNCE in both directions (CLIP, arXiv 2103.00020, figure 3; used for distillation in arXiv 2602.00681).

        L = ½ Σ_i [ −log softmax_j(s·aᵢ·tⱼ)[i] − log softmax_j(s·aⱼ·tᵢ)[i] ] / B

    Two recordings of one species are each other's negatives here; `masked` leaves those pairs out.

    Returns:
        A scalar.
    """
    logits_BB = batch.scale * batch.audio_BD @ batch.text_BD.T
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
