"""Backgrounds to mix into training clips, from a folder of recordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from songsight.audio.clips import Features
from songsight.audio.padding import fit_length
from songsight.audio.reader import AudioError, open_audio, read_mono
from songsight.errors import UserError

MOST_CLIPS = 64  # clips of 10 s at 48 kHz: 123 MB on each device


def load(urls: Sequence[str], features: Features, option: str) -> np.ndarray:
    """One clip of each of up to `MOST_CLIPS` recordings, drawn by the features' seed; undecodable ones are passed over.

    Args:
        urls: the recordings.
        features: what a clip is.
        option: the option that named the folder, for the error line.

    Returns:
        float32 [clips, clip_samples], as loud as they were recorded.

    Raises:
        UserError: none can be decoded.
    """
    rng = np.random.default_rng([features.seed, 77])
    length_s = features.clip_samples / features.sample_rate_hz
    clips: list[np.ndarray] = []
    for place in rng.permutation(len(urls)):
        if len(clips) == MOST_CLIPS:
            break
        try:
            with open_audio(urls[place]) as reader:
                start_s = rng.uniform(0, max(0.0, reader.info.duration_s - length_s))
                end_s = min(reader.info.duration_s, start_s + length_s)
                samples = read_mono(reader, start_s, end_s, features.sample_rate_hz)
        except AudioError:
            continue
        if len(samples):
            clips.append(fit_length(samples[: features.clip_samples], features.clip_samples, "repeat"))
    if not clips:
        raise UserError(f"{option}: none of the {len(urls)} recordings there can be decoded")
    return np.stack(clips)
