"""Waveforms to features, on the device of the step."""

from __future__ import annotations

import numpy as np
import torch

from distill.data.augment import on_mels, on_waves
from distill.train.recipe import Recipe
from songsight.models.mel import LogMel


def seed_of(*numbers: int) -> int:
    """Of what one rank draws in one step, from (seed, step, rank): a resumed run draws what it would have drawn."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Featurizer:
    """Makes a batch of waveforms into a batch of features, augmented.

    Args:
        mel: the model's.
        recipe: of the run.
        rank: of this worker; it draws differently from the others.
        noise_NS: backgrounds to mix in, or None.
    """

    def __init__(self, mel: LogMel, recipe: Recipe, rank: int, noise_NS: torch.Tensor | None) -> None:
        self.mel = mel
        self.recipe = recipe
        self.rank = rank
        self.noise_NS = noise_NS

    @torch.no_grad()
    def __call__(self, waves_bS: torch.Tensor, step: int) -> torch.Tensor:
        """Float32 [b, 1, frames, mels] of a step's clips, float32 [b, clip_samples]."""
        # Another stream of numbers than dropout's, which begins at the same seed.
        generator = torch.Generator().manual_seed(seed_of(self.recipe.seed, step, self.rank, 1))
        augment = self.recipe.augment
        waves_bS = on_waves(waves_bS, augment, self.mel.sample_rate_hz, self.noise_NS, generator)
        return on_mels(self.mel(waves_bS), augment, generator)
