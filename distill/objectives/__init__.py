"""The losses of distillation: one file each, with its equation and source.

Each objective is a function of the *global* batch: `loss(Batch) -> scalar`. `global_batch` brings the ranks' shares
together so that its gradient is exactly the one a single process would compute. `alignment` and `preserve` are terms
that may be added to any of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from distill.objectives.alignment import alignment
from distill.objectives.bank import bank
from distill.objectives.batch import Batch
from distill.objectives.global_batch import global_batch
from distill.objectives.infonce import infonce
from distill.objectives.masked import masked
from distill.objectives.multi_positive import multi_positive
from distill.objectives.preserve import preserve
from distill.objectives.siglip import siglip

Objective = Callable[[Batch], torch.Tensor]

OBJECTIVES: dict[str, Objective] = {
    "infonce": infonce,
    "masked": masked,
    "multi-positive": multi_positive,
    "bank": bank,
    "siglip": siglip,
}

__all__ = [
    "OBJECTIVES",
    "Batch",
    "Objective",
    "alignment",
    "bank",
    "global_batch",
    "infonce",
    "masked",
    "multi_positive",
    "preserve",
    "siglip",
]
