"""Log-mel spectrograms in batched torch, equal to a checkpoint's own `ClapFeatureExtractor`.

The extractor works one clip at a time in numpy and costs as much as the encoder behind it. This module reads the same
`preprocessor_config.json` and gives the same features from a batch, on the device that the encoder runs on, without
importing transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from songsight.errors import UserError

_POWER_FLOOR = 1e-10  # the extractor's own floor before the logarithm: silence is -100 dB
_CACHED_BYTES = 1 << 21  # spectra of about this size stay in a core's cache from the transform to the filters
# What transformers' ClapFeatureExtractor takes where the file is silent.
_DEFAULTS: dict[str, Any] = {
    "feature_size": 64,
    "sampling_rate": 48_000,
    "hop_length": 480,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "frequency_min": 0,
    "frequency_max": 14_000,
    "truncation": "fusion",
    "padding": "repeatpad",
}


class LogMel(nn.Module):
    """Waveforms to the log-mel features of one CLAP checkpoint.

    Short-time Fourier transform with a periodic Hann window, centred frames with reflected ends, power, mel filter
    bank, decibels over 1. The filter bank is slaney's scale and norm, or for `truncation="fusion"` checkpoints HTK's
    without norm, as the extractor chooses it. A fusion checkpoint's extra crops exist only for clips longer than the
    encoder's window, which songsight never makes: its windows are at most that long.

    Args:
        preprocessor: the checkpoint's `preprocessor_config.json`, or `ClapFeatureExtractor.to_dict()`.

    Attributes:
        given: what decides the features, by the preprocessor's names.
        sample_rate_hz: the rate that waveforms must have.
        clip_samples: samples a clip must have; shorter ones go through `padding.fit_length` first.
        padding: how the checkpoint pads short clips.
    """

    filters_FM: torch.Tensor
    window: torch.Tensor

    def __init__(self, preprocessor: Mapping[str, Any]) -> None:
        super().__init__()
        given = _DEFAULTS | {key: value for key, value in preprocessor.items() if key in _DEFAULTS}
        if given["truncation"] not in ("fusion", "rand_trunc"):
            raise UserError(
                f"preprocessor_config.json: truncation {given['truncation']!r} is not one that CLAP has "
                "(fusion, rand_trunc)"
            )
        self.given = given
        self.sample_rate_hz = int(given["sampling_rate"])
        self.clip_samples = int(given["max_length_s"] * self.sample_rate_hz)
        self.padding = str(given["padding"])
        self.hop_length = int(given["hop_length"])
        self.fft_size = int(given["fft_window_size"])
        band = (float(given["frequency_min"]), float(given["frequency_max"]))
        slaney = given["truncation"] != "fusion"
        bank = mel_filters(self.sample_rate_hz, self.fft_size, int(given["feature_size"]), band, slaney)
        # Bins above the band are in no mel.
        self.bins = min(self.fft_size // 2, int(band[1] / (self.sample_rate_hz // 2) * (self.fft_size // 2))) + 1
        self.register_buffer("filters_FM", torch.from_numpy(bank[: self.bins].copy()), persistent=False)
        # PyTorch's float32 window is up to 2e-7 off: seen where a quiet mel lies beside a loud one.
        window = torch.hann_window(self.fft_size, dtype=torch.float64).float()
        self.register_buffer("window", window, persistent=False)

    @property
    def clip_s(self) -> float:
        """Seconds of sound in a clip."""
        return self.clip_samples / self.sample_rate_hz

    @property
    def frames(self) -> int:
        """Frames of a clip's features."""
        return self.clip_samples // self.hop_length + 1

    @property
    def band_hz(self) -> float:
        """The highest frequency of the features, in Hz."""
        heard = torch.nonzero(self.filters_FM.any(dim=1)).max()
        return float(heard) * self.sample_rate_hz / self.fft_size

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def forward(self, waves_BS: torch.Tensor) -> torch.Tensor:
        """Features of a batch of clips.

        Args:
            waves_BS: float [batch, clip_samples], mono, at `sample_rate_hz`.

        Returns:
            float32 [batch, 1, `frames`, mels] in dB.
        """
        waves_BS = waves_BS.float()
        if waves_BS.is_cuda:
            return self._decibels(self._frames(waves_BS))[:, None]
        return self._in_parts(waves_BS)[:, None]

    def _in_parts(self, waves_BS: torch.Tensor) -> torch.Tensor:
        """On a CPU, whose caches a batch's spectra are far larger than."""
        frames_BTN = self._frames(waves_BS)
        at_once = max(1, _CACHED_BYTES // ((self.fft_size // 2 + 1) * 8))
        clips = max(1, at_once // frames_BTN.shape[1])
        parts = [
            torch.cat([self._decibels(part) for part in some.split(at_once, 1)], 1) for some in frames_BTN.split(clips)
        ]
        return torch.cat(parts)

    def _frames(self, waves_BS: torch.Tensor) -> torch.Tensor:
        """A view of the waves, reflected at both ends: [batch, frames, fft_size]."""
        half = self.fft_size // 2
        first, last = waves_BS[:, 1 : half + 1].flip(1), waves_BS[:, -half - 1 : -1].flip(1)
        return torch.cat([first, waves_BS, last], 1).unfold(1, self.fft_size, self.hop_length)

    def _decibels(self, frames_BTN: torch.Tensor) -> torch.Tensor:
        spectrum_BTF = torch.fft.rfft(frames_BTN * self.window)[..., : self.bins]
        power_BTF = spectrum_BTF.real.square().add_(spectrum_BTF.imag.square())
        return (power_BTF @ self.filters_FM).clamp_(min=_POWER_FLOOR).log10_().mul_(10.0)


def mel_filters(rate_hz: int, fft_size: int, mels: int, band_hz: tuple[float, float], slaney: bool) -> np.ndarray:
    """Triangles over the bins of a spectrum, evenly spaced in mels.

    Args:
        rate_hz: of the waveforms.
        fft_size: samples of a transform.
        mels: how many triangles.
        band_hz: the lowest one's lower and the highest one's upper end.
        slaney: the scale of Slaney's Auditory Toolbox (1998: linear below 1 kHz, logarithmic above), each triangle of
            the same area; else the scale of HTK (2595·log10(1 + f/700)), each triangle of height 1.

    Returns:
        float32 [fft_size // 2 + 1, mels].
    """
    to_mel, to_hz = (_slaney_mel, _slaney_hz) if slaney else (_htk_mel, _htk_hz)
    lowest, highest = to_mel(np.array(band_hz))
    corners = to_hz(np.linspace(lowest, highest, mels + 2))
    bins_F1 = np.linspace(0, rate_hz // 2, fft_size // 2 + 1)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins_F1 - low) / (middle - low), (high - bins_F1) / (high - middle)
    bank_FM = np.clip(np.minimum(rising, falling), 0, None)
    if slaney:
        bank_FM *= 2 / (high - low)
    return bank_FM.astype(np.float32)


_BREAK_HZ, _BREAK_MEL, _LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27  # Slaney: 66.7 Hz a mel, then 27 mels to 6.4 kHz


def _slaney_mel(hz: np.ndarray) -> np.ndarray:
    return np.where(
        hz < _BREAK_HZ,
        hz * _BREAK_MEL / _BREAK_HZ,
        _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP,
    )


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _BREAK_HZ / _BREAK_MEL, above)


def _htk_mel(hz: np.ndarray) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + hz / 700.0)


def _htk_hz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
