"""InfoNCE in which a species' recordings are each other's positives."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from distill.objectives.batch import Batch


def multi_positive(batch: Batch) -> torch.Tensor:
    """`infonce` with the target shared uniformly among the recordings of one species, in both directions.

        L = ½ Σ_i 1/|Pᵢ| Σ_{p∈Pᵢ} [ −log softmax_j(s·aᵢ·tⱼ)[p] − log softmax_j(s·aⱼ·tᵢ)[p] ] / B

    Pᵢ = {j : speciesⱼ = speciesᵢ}, i among them. The mean over positives stands outside the logarithm, as in equation 2
    of supervised contrastive learning (arXiv 2004.11362); between two modalities it is UniCL (arXiv 2204.03610).

    Its lower bound is not 0 but the entropy of the target, the mean of log |Pᵢ|.

    Returns:
        A scalar.
    """
    logits_BB = batch.scale * batch.audio_BD @ batch.text_BD.T
    same_BB = batch.same_BB.to(logits_BB.dtype)
    target_BB = same_BB / same_BB.sum(1, keepdim=True)
    return (F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.T, target_BB)) / 2
