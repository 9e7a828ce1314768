"""Which recording of the manifest comes when in a training: a pure function of the seed and the epoch.

A position in it is all that a restart needs, every number of workers sees the same global batches, and no row is
dropped or doubled between ranks. `streaming_split` would drop remainders and keep no position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from distill.data.split import share


@dataclass(frozen=True)
class Order:
    """Which row of the manifest stands at which place of the run.

    Attributes:
        rows: rows of the manifest.
        batch_size: recordings of a global batch, over all workers.
        epochs: passes over the manifest. The rows that do not fill a last batch differ from epoch to epoch.
        seed: of the shuffle.
    """

    rows: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass."""
        return self.rows // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps_per_epoch * self.epochs

    def rows_of(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order they are seen: int64 [steps_per_epoch × batch_size]."""
        return _shuffled(self.rows, self.seed, epoch)[: self.steps_per_epoch * self.batch_size]

    def share(self, step: int, rank: int, world: int) -> np.ndarray:
        """The rows of one worker in one step: int64 [`split.share_size`]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        batch = self.rows_of(epoch)[within * self.batch_size : (within + 1) * self.batch_size]
        return batch[share(self.batch_size, rank, world)]


@lru_cache(maxsize=4)
def _shuffled(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)
