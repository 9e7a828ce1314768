"""Classification by the names of all species."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from distill.objectives.batch import Batch


def bank(batch: Batch) -> torch.Tensor:
    """Cross-entropy of each recording over the teacher's texts of every species.

        L = −Σ_i log softmax_σ(s·aᵢ·n_σ)[speciesᵢ] / B

    The normalised softmax of NormFace (arXiv 1704.06369) with the class vectors n_σ given by the teacher
    instead of learnt. Every species is a negative of every other at every step and there are no false ones. A row's
    loss depends on no other row, so nothing would have to be gathered; it is written on the global batch like the
    others, which gives the same gradients. The drawn texts `text_BD` are not used.

    Memory: B·S logits.

    Returns:
        A scalar.
    """
    logits_BS = batch.scale * batch.audio_BD @ batch.names_SD.to(batch.audio_BD.dtype).T
    return F.cross_entropy(logits_BS, batch.species_B)
