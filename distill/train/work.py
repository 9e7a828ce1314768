"""What a training run sends to its workers; imports little, for Ray Train's controller unpickles it too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from distill.data.rows import TrainingRows
    from distill.train.log import Tracking
    from distill.train.recipe import Recipe
    from songsight.pictures import HeldOut

ROWS_TO = "SONGSIGHT_ROWS_TO"
"""The folder where each worker notes down which rows its steps took, for whoever wants to account for them."""


@dataclass(frozen=True)
class Data:
    """What a training learns from.

    Attributes:
        rows: of the manifest.
        bank_url: the teacher's embeddings of the texts, see `text_bank.stored`.
        held_out: what to look at between epochs, or None.
        names: the teacher's unit text vector of each species, float32 [species, width], for objectives that ask for it.
        noise: backgrounds to mix into clips, float32 [clips, clip_samples].
    """

    rows: TrainingRows
    bank_url: str
    held_out: HeldOut | None = None
    names: np.ndarray | None = None
    noise: np.ndarray | None = None


@dataclass(frozen=True)
class WorkerInput:
    """What is sent to each worker: `Data` with all that is large in Ray's object store.

    Attributes:
        recipe, tracking, bank_url: small enough to travel.
        rows, held_out, names, noise: references to those of `Data`, or None where it has none.
        rows_to: see `loop.Training`.
    """

    recipe: Recipe
    tracking: Tracking
    bank_url: str
    rows: Any
    held_out: Any
    names: Any
    noise: Any
    rows_to: str | None

    @classmethod
    def of(cls, recipe: Recipe, data: Data, tracking: Tracking) -> WorkerInput:
        """Puts the data in the object store."""
        import ray

        large = (data.rows, data.held_out, data.names, data.noise)
        rows, held_out, names, noise = (None if one is None else ray.put(one) for one in large)
        return cls(recipe, tracking, data.bank_url, rows, held_out, names, noise, os.environ.get(ROWS_TO))
