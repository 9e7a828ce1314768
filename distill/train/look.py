"""A look at the held-out recordings, which training never hears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distill.data.bad_rows import gather
from songsight import metrics
from songsight.audio import clips
from songsight.models.student import Student
from songsight.pictures import HeldOut


def look(
    model: Student,
    held_out: HeldOut,
    device: torch.device,
    rank: int,
    world: int,
    batch_size: int = 32,
    show: Callable[[np.ndarray, np.ndarray], None] | None = None,
    failed: dict[int, str] | None = None,
) -> dict[str, float]:
    """Retrieval on the held-out recordings, their embedding shared among the workers.

    Args:
        model: the student, left in evaluation mode.
        held_out: what to look at.
        device: of the model.
        rank, world: of this worker.
        batch_size: clips in one pass.
        show: called by rank 0 with the vectors float32 [m, width] and rows int64 [m] of the recordings.
        failed: takes the rows of all ranks that cannot be decoded, with the word of `audio_errors.REASONS` for why.

    Returns:
        `val_naming_top1` (nearest species text), `val_text_mAP` (sound finds its species' text among all), and with a
        gallery `val_audio_to_image_mAP`; the same on every rank.
    """
    model.eval()
    mine = np.arange(rank, len(held_out.species), world)

    def embed(waves: np.ndarray) -> np.ndarray:
        return model.embed(torch.from_numpy(waves).to(device)).float().cpu().numpy()

    mine_failed: dict[int, str] = {}
    vectors, rows = clips.embed_clips(held_out.clips, embed, mine, batch_size, mine_failed)
    if failed is not None:
        failed |= gather(mine_failed, world)
    if world > 1:
        shares: list[Any] = [None] * world
        torch.distributed.all_gather_object(shares, (vectors, rows))
        shares = [(v, r) for v, r in shares if len(r)] or shares[:1]
        vectors, rows = (np.concatenate(part) for part in zip(*shares, strict=True))
    if not len(rows):
        return {}
    species = held_out.species[rows]
    names = np.arange(len(held_out.name_vectors))
    found = {
        "val_naming_top1": metrics.naming_accuracy(vectors, held_out.name_vectors, species, names),
        "val_text_mAP": metrics.retrieval_map(vectors, held_out.name_vectors, species, names),
    }
    if held_out.image_vectors is not None and held_out.image_species is not None:
        found["val_audio_to_image_mAP"] = metrics.retrieval_map(
            vectors, held_out.image_vectors, species, held_out.image_species
        )
    if show is not None and rank == 0:
        show(vectors, rows)
    return found
