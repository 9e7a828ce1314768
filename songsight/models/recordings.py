"""Recordings to vectors, without Ray and without an archive: what `songsight.load` gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from songsight.audio.padding import fit_length
from songsight.audio.reader import open_audio, read_mono
from songsight.models import encoder
from songsight.models import precision as precisions
from songsight.reasons import AudioError


class RecordingEncoder:
    """A model and what it takes to read recordings for it.

    Args:
        name, device, precision: see `songsight.load`.

    Attributes:
        model: a `Student`, or a `ClapEncoder` of an untouched ClapModel.
        width: numbers in a vector.
    """

    def __init__(self, name: str, device: str | None = None, precision: str = "auto") -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = encoder.load(name, device, precisions.resolve(precision, device != "cpu"))
        self.width = encoder.width(self.model)

    def embed(self, paths: Sequence[str]) -> np.ndarray:
        """The vector of each recording's beginning, as much of it as the model hears at once.

        Args:
            paths: files or URLs.

        Returns:
            float32 [recordings, `width`], unit rows; a row of NaN for a recording that cannot be decoded.
        """
        mel = self.model.mel
        vectors = np.full((len(paths), self.width), np.nan, np.float32)
        for vector, path in zip(vectors, paths, strict=True):
            try:
                with open_audio(str(path)) as reader:
                    wave = read_mono(reader, 0.0, min(mel.clip_s, reader.info.duration_s), mel.sample_rate_hz)
            except AudioError:
                continue
            if len(wave):
                clip = fit_length(wave[: mel.clip_samples], mel.clip_samples, mel.padding)
                vector[:] = self.model.embed(torch.from_numpy(clip[None])).float().cpu().numpy()[0]
        return vectors
