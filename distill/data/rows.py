"""A row of the manifest as training sees it in one epoch: a crop of its sound, and a text about its species.

The same (seed, epoch, row) gives the same, whatever task makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distill.data.text_bank import TextPlan
from songsight.audio.clips import Clips
from songsight.audio.reader import REASONS, AudioError
from songsight.store.retry import patiently

BLOCK_BYTES = 32_000_000
"""A block of decoded clips is held in the object store whole: 16 clips of 10 s at 48 kHz are 31 MB. Smaller blocks cost
more scheduling than decoding."""
SUBSTITUTES = 8
"""An undecodable row's place is taken by another row of the manifest, so that batches keep their size."""
REASON_OF = tuple(REASONS)
"""What went wrong travels with a batch, whose columns are numbers."""


@dataclass(frozen=True)
class TrainingRows:
    """What a decoding task needs of the manifest.

    Attributes:
        clips: the recordings.
        text_plan: what texts a row may draw; without the texts themselves.
    """

    clips: Clips
    text_plan: TextPlan

    @classmethod
    def of(cls, clips: Clips, text_plan: TextPlan) -> TrainingRows:
        """The rows of a manifest; of the plan only what a task needs."""
        return cls(clips, replace(text_plan, texts=[]))

    @property
    def per_block(self) -> int:
        """Clips that one task decodes."""
        return max(1, BLOCK_BYTES // (4 * self.clips.features.clip_samples))

    def row(self, row: int, epoch: int) -> dict[str, Any]:
        """A row as training sees it in one epoch; the same for the same (seed, epoch, row).

        Storage that fails is waited for before the row's place is given to another.

        Returns:
            `wave` float32 [clip_samples], `text` number in the bank, `species` number, `row` the row the clip is of,
            `failed` the row it stands in for, or -1, and `reason` that one's place in `REASON_OF`, or -1.
        """
        rng = np.random.default_rng()

        def asked_for() -> np.ndarray:
            nonlocal rng
            rng = np.random.default_rng([self.clips.features.seed, epoch, row])  # another try crops at the same place
            return self.clips.clip(row, rng)

        try:
            return self._seen(patiently(asked_for), row, rng)
        except AudioError as error:
            bad = {"failed": row, "reason": REASON_OF.index(error.reason)}
        for _ in range(SUBSTITUTES - 1):
            candidate = int(rng.integers(len(self.clips.paths)))
            try:
                return self._seen(self.clips.clip(candidate, rng), candidate, rng) | bad
            except AudioError:
                continue
        # So much is bad that no draw met a good one. Whether that fails the run, the trainer says, which counts them.
        return self._seen(np.zeros(self.clips.features.clip_samples, np.float32), row, rng) | bad

    def _seen(self, wave: np.ndarray, row: int, rng: np.random.Generator) -> dict[str, Any]:
        return {
            "wave": wave,
            "text": self.text_plan.draw(row, rng),
            "species": int(self.text_plan.species_of_row[row]),
            "row": row,
            "failed": -1,
            "reason": -1,
        }
