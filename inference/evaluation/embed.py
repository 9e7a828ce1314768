"""Embeds the recordings of a manifest by a Ray job, by the student and by the model it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from songsight import pool
from songsight.audio import clips as clipping
from songsight.audio.clips import Clips
from songsight.models import student

ROWS_PER_BLOCK = 64
BATCH = 32
KINDS = ("base_pooled", "base_joint", "student_pooled", "student")


class _Embedder:
    """One actor with the student and its base model."""

    def __init__(self, clips: Any, model: str, base: Any, device: str, threads: int) -> None:
        import ray
        import torch

        if device == "cpu":
            torch.set_num_threads(threads)
        self.torch = torch
        self.clips: Clips = ray.get(clips[0])
        self.student = student.load(model, device)
        self.base: student.Base = ray.get(base[0]).to(device)

    def work(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        vectors, kept = clipping.embed_clips(self.clips, self._embed, rows, BATCH)
        widths = self._widths()
        parts = np.split(vectors.reshape(len(kept), sum(widths)), np.cumsum(widths)[:-1], axis=1)
        return {"row": kept} | {kind: np.ascontiguousarray(part) for kind, part in zip(KINDS, parts, strict=True)}

    def _widths(self) -> list[int]:
        pooled, joint = self.base.tower.config.pooled_width, self.base.joint_width
        return [pooled, joint, pooled, self.student.config.embedding_width]

    def _embed(self, waves: np.ndarray) -> np.ndarray:
        """All four vectors of each clip, side by side: float32 [b, sum of widths]."""
        torch = self.torch
        with torch.inference_mode():
            mel = self.student.mel(torch.from_numpy(waves).to(self.student.device))
            base_pooled, base_joint = self.base(mel)
            pooled = self.student.pooled(mel)
            own = torch.nn.functional.normalize(self.student.head(pooled), dim=-1)
            return torch.cat([base_pooled, base_joint, pooled, own], dim=1).float().cpu().numpy()


def embed_recordings(
    clips: Clips,
    rows: int,
    model: str,
    base: student.Base,
    actors: int = 1,
    gpus_each: float = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The vectors of recordings' beginnings.

    Args:
        clips: the recordings.
        rows: how many there are.
        model: name of the student.
        base: the audio half of the model that it came from.
        actors: encoders side by side; no more than there are blocks of recordings.
        gpus_each: GPUs of each.
        progress: called with the recordings done.

    Returns:
        (rows int64 [m] in order, those that could be decoded, be it none; by `KINDS`, float32 [m, width]: the base
        model's pooled embedding and its place in the joint audio–text space, the student's pooled embedding and its
        unit vector).
    """
    import ray

    blocks = [np.arange(start, min(start + ROWS_PER_BLOCK, rows)) for start in range(0, rows, ROWS_PER_BLOCK)]
    arguments = {
        # In a list Ray passes the reference on instead of its value: one copy a node, not one an actor.
        "clips": [ray.put(clips)],
        "model": model,
        "base": [ray.put(base)],
        "device": "cuda" if gpus_each else "cpu",
        "threads": 1,
    }
    parts: list[Any] = []
    decoded = 0
    for part in pool.actors(_Embedder, arguments, blocks, actors, num_gpus=gpus_each, num_cpus=1):
        parts.append(part)
        decoded += len(part["row"])
        progress(decoded)
    done = np.concatenate([part["row"] for part in parts])
    order = np.argsort(done, kind="stable")
    return done[order], {kind: np.concatenate([part[kind] for part in parts])[order] for kind in KINDS}
