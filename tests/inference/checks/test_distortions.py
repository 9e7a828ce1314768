from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from inference.checks.distortions import STANDARD, DistortedClips, Distortion
from songsight.audio.clips import Clips, Features

RATE_HZ = 48000


def power_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def tones(*hz: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    time_s = np.arange(2 * rate_hz) / rate_hz
    return np.sum([0.2 * np.sin(2 * np.pi * f * time_s) for f in hz], axis=0).astype(np.float32)


def level_at(samples: np.ndarray, hz: float, rate_hz: int = RATE_HZ) -> float:
    """The amplitude of a tone, away from the ends."""
    middle = samples[rate_hz // 4 : -rate_hz // 4]
    time_s = np.arange(len(middle)) / rate_hz
    return float(2 * np.abs(np.mean(middle * np.exp(-2j * np.pi * hz * time_s))))


@pytest.mark.parametrize("snr_db", [20, 0, -5])
def test_noise_is_as_loud_as_it_says_and_the_seeds_own(snr_db: float) -> None:
    clip = tones(2000)
    noisy = Distortion("noise", snr_db)(clip, RATE_HZ, np.random.default_rng(3))
    assert power_db(clip) - power_db(noisy - clip) == pytest.approx(snr_db, abs=0.1)
    assert np.array_equal(noisy, Distortion("noise", snr_db)(clip, RATE_HZ, np.random.default_rng(3)))
    assert not np.array_equal(noisy, Distortion("noise", snr_db)(clip, RATE_HZ, np.random.default_rng(4)))
    assert np.array_equal(Distortion("noise", snr_db)(0 * clip, RATE_HZ, np.random.default_rng(3)), 0 * clip)


def test_a_low_rate_loses_what_is_above_half_of_it() -> None:
    clip = tones(2000, 10000)
    found = Distortion("rate", 16000)(clip, RATE_HZ, np.random.default_rng(0))
    assert len(found) == len(clip)
    assert level_at(found, 2000) == pytest.approx(0.2, rel=0.01)
    assert level_at(found, 10000) < 1e-4
    assert np.array_equal(Distortion("rate", 96000)(clip, RATE_HZ, np.random.default_rng(0)), clip)
    kept = Distortion("rate", 22050)(clip, RATE_HZ, np.random.default_rng(0))
    assert level_at(kept, 10000) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("rate_hz", [48000, 16000, 11025, 96000])
def test_mp3_keeps_the_time_and_loses_detail(rate_hz: int) -> None:
    rng = np.random.default_rng(0)
    clip = tones(1000, 2500, rate_hz=rate_hz) + 0.02 * rng.standard_normal(2 * rate_hz).astype(np.float32)
    good, bad = (Distortion("mp3", kbit)(clip, rate_hz, rng) for kbit in (64, 32))
    assert len(good) == len(bad) == len(clip)
    inside = slice(rate_hz // 10, -rate_hz // 10)
    likeness = [np.corrcoef(clip[inside], each[inside])[0, 1] for each in (good, bad)]
    # A shift by a quarter period of the higher tone would leave nothing of it: the encoder's delay is taken away.
    assert likeness[0] > 0.98
    assert likeness[0] > likeness[1] > 0.9


def test_a_cheap_microphones_band_keeps_its_middle() -> None:
    found = Distortion("band", 300, 8000)(tones(100, 2000, 14000), RATE_HZ, np.random.default_rng(0))
    assert level_at(found, 2000) == pytest.approx(0.2, rel=0.02)
    assert level_at(found, 100) < 0.001
    assert level_at(found, 14000) < 0.01
    narrow = Distortion("band", 300, 8000)(tones(2000, rate_hz=16000), 16000, np.random.default_rng(0))
    assert level_at(narrow, 2000, 16000) == pytest.approx(0.2, rel=0.02)


def test_damaged_clips_are_the_clips_damaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(16000), 16000)
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    clips = Clips(
        pa.array(paths, pa.large_string()), np.zeros(3), np.full(3, np.nan), Features(16000, 16000, "repeat", 5)
    )
    damages = (Distortion("rate", 16000), Distortion("noise", 10))
    some = DistortedClips.damage(clips, np.array([2, 0]), damages)
    assert some.paths.to_pylist() == [paths[2], paths[0]]
    assert np.array_equal(some.clip(1, None), clips.clip(0, None))  # the encoder's own rate
    wanted = damages[1](clips.clip(2, None), 16000, np.random.default_rng([5, 0]))
    assert np.array_equal(some.clip(2, None), wanted)
    assert np.array_equal(some.clip(2, None), some.clip(2, None))


def test_the_standard_damages_have_names_of_their_own() -> None:
    names = [damage.name for damage in STANDARD]
    assert len(set(names)) == len(names) == 9
    assert names[0] == "white noise, SNR 20 dB"
    assert names[-1] == "band 300–8000 Hz"
