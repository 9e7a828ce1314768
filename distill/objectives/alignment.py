"""The distance that contrast alone leaves open."""

from __future__ import annotations

import torch


def alignment(audio_BD: torch.Tensor, text_BD: torch.Tensor) -> torch.Tensor:
    """Mean cosine distance of each recording to its own text: L = 1 − Σᵢ aᵢ·tᵢ / B.

    A contrastive loss is content when the right text is nearer than the others; sound then lies in a cone of its own,
    beside the pictures (the modality gap, arXiv 2203.02053). This term pulls it in.

    Args:
        audio_BD, text_BD: unit vectors, float [batch, width].

    Returns:
        A scalar between 0 and 2.
    """
    return 1 - (audio_BD * text_BD).sum(-1).mean()
