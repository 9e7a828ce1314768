"""Each pair of a sound and a text as a yes-or-no question of its own."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from distill.objectives.batch import Batch

# Nearly all pairs are negatives: with a bias of 0 the first steps would be large ones, towards "no" for every pair
# (the paper's section 3.2).
INITIAL_LOG_SCALE = math.log(10)
INITIAL_BIAS = -10.0


def siglip(batch: Batch) -> torch.Tensor:
    """The sigmoid loss of SigLIP (arXiv 2303.15343, algorithm 1), with pairs of one species as positives.

        L = −Σ_i Σ_j log sigmoid(z_ij·(s·aᵢ·tⱼ + b)) / B,  z_ij = 1 if speciesᵢ = speciesⱼ else −1

    As in the paper the sum over B² pairs is divided by B, and s and b are learnt from `INITIAL_LOG_SCALE` and
    `INITIAL_BIAS`; there only the diagonal is positive.

    Returns:
        A scalar.
    """
    logits_BB = batch.scale * batch.audio_BD @ batch.text_BD.T + batch.bias
    signed_BB = torch.where(batch.same_BB, logits_BB, -logits_BB)
    return -F.logsigmoid(signed_BB).sum() / len(signed_BB)
