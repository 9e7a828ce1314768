"""What a loss is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """The global batch, and what all its rows are compared with.

    Attributes:
        audio_BD, text_BD: unit vectors, float [batch, width]; row i of each belongs together.
        species_B: int64 [batch], equal for recordings of one species; also the species' row in `names_SD`.
        scale: the inverse temperature, a scalar tensor.
        bias: added to every logit by `siglip`, a scalar tensor; not used by the others.
        names_SD: the teacher's unit text vector of each species, float32 [species, width], constant; only `bank` uses
            it, and it may be empty for the others.
    """

    audio_BD: torch.Tensor
    text_BD: torch.Tensor
    species_B: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    names_SD: torch.Tensor

    @property
    def same_BB(self) -> torch.Tensor:
        """Whether two recordings are of one species, bool [batch, batch]: symmetric, true on the diagonal."""
        return self.species_B[:, None] == self.species_B[None, :]
