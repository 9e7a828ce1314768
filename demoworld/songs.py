"""Song traits to sound: whistles, trills and buzzes in phrases, over wind, rain and insects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demoworld.species import Species

SAMPLE_RATE_HZ = 16_000

_PEAK = 0.9
_CEILING_SHARE = 0.48  # of the sample rate: no tone above, so that nothing folds back
_SILENT = 0.02  # of the peak (-34 dB): what lies under it at either end is not song


@dataclass(frozen=True)
class Voice:
    """What a species' song traits mean, in physical units."""

    pitch_hz: float
    span_octaves: float  # how far a syllable's pitch moves
    slope: float  # -1 falls, 1 rises
    bend: float  # 1 goes up and comes back, -1 the other way
    syllable_s: float
    gap: float  # silence between syllables, as a share of a syllable
    trill_hz: float
    trill_octaves: float
    harmonics: float  # 0 a pure whistle, 1 nasal
    buzz: float  # depth of the amplitude modulation, 0 to 1
    buzz_hz: float
    syllables: int  # in a phrase
    answer_octaves: float  # pitch of every second syllable against the first
    drift_octaves: float  # over the phrase


def voice(species: Species) -> Voice:
    """Reads a species' song traits."""
    t = species.song
    return Voice(
        pitch_hz=950.0 * 2 ** (2.5 * t[0]),
        span_octaves=0.05 + 0.8 * t[1],
        slope=2 * t[2] - 1,
        bend=2 * t[3] - 1,
        syllable_s=0.07 * 5 ** t[4],
        gap=0.25 + t[5],
        trill_hz=5.0 * 5 ** t[6],
        trill_octaves=0.2 * max(0.0, t[7] - 0.35),
        harmonics=t[8] ** 2,
        buzz=max(0.0, (t[9] - 0.5) / 0.5),
        buzz_hz=15.0 * 5 ** t[10],
        syllables=2 + int(7 * t[11]),
        answer_octaves=1.2 * t[12] - 0.6,
        drift_octaves=1.0 * t[13] - 0.5,
    )


def describe(species: Species) -> str:
    """A caption about the sound alone, as a listener without a field guide would write it."""
    v = voice(species)
    pitch = "low" if v.pitch_hz < 1700 else "high" if v.pitch_hz > 3000 else "mid-pitched"
    tempo = v.syllable_s * (1 + v.gap)
    pace = "rapid" if tempo < 0.2 else "slow" if tempo > 0.4 else "steady"
    kind = "buzzes" if v.buzz > 0.4 else "trills" if v.trill_octaves > 0.06 else "whistles"
    bent, sloped = abs(v.bend) > abs(v.slope), v.span_octaves > 0.25
    if not sloped:
        shape = "level"
    elif bent:
        shape = "arched" if v.bend > 0 else "dipping"
    else:
        shape = "rising" if v.slope > 0 else "falling"
    return f"{pace} {pitch} {shape} {kind}"


def sing(species: Species, rng: np.random.Generator, seconds: float, sample_rate: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """One individual's song: phrases, with pauses between, from a random moment on.

    Returns:
        float32 [seconds * sample_rate], peak 0.9, exactly zero before the first syllable.
    """
    v = voice(species)
    total = round(seconds * sample_rate)
    pitch_hz = v.pitch_hz * 2 ** (0.05 * rng.standard_normal())
    tempo = float(np.exp(0.08 * rng.standard_normal()))
    song = np.zeros(total, np.float32)
    at_s, number = rng.uniform(0, 0.15) * seconds, 0
    while at_s < seconds - 0.05:
        place = number % v.syllables
        length_s = v.syllable_s * tempo * (1 + 0.05 * rng.standard_normal())
        step = v.drift_octaves * (place / max(1, v.syllables - 1) - 0.5) + v.answer_octaves * (place % 2 - 0.5)
        syllable = _syllable(v, pitch_hz * 2 ** (step + 0.015 * rng.standard_normal()), length_s, sample_rate)
        start = round(at_s * sample_rate)
        song[start : start + len(syllable)] = rng.uniform(0.7, 1.0) * syllable[: total - start]
        number += 1
        at_s += length_s + v.gap * v.syllable_s * tempo
        if number % v.syllables == 0:
            at_s += rng.uniform(0.25, 0.6)
    dry = song.copy()
    for delay_s in (0.031, 0.067):  # echoes off the trees
        delay = round(delay_s * sample_rate * rng.uniform(0.8, 1.2))
        song[delay:] += rng.uniform(0.05, 0.3) * dry[:-delay]
    song *= _PEAK / np.abs(song).max()
    return song


def _syllable(v: Voice, pitch_hz: float, length_s: float, sample_rate: int) -> np.ndarray:
    """One syllable about a pitch: float32 [length_s * sample_rate]."""
    x = np.linspace(0, 1, round(length_s * sample_rate), dtype=np.float32)
    swell = np.sin(np.pi * x)
    octaves = v.span_octaves * (v.slope * (x - 0.5) + v.bend * (swell - 0.5))
    octaves += v.trill_octaves * np.sin(2 * np.pi * v.trill_hz * length_s * x)
    frequency = np.minimum(pitch_hz * np.exp2(octaves), _CEILING_SHARE * sample_rate)
    phase = np.cumsum((2 * np.pi / sample_rate) * frequency)
    sound = np.sin(phase)
    for order, weight in ((2, 0.8 * v.harmonics), (3, 0.5 * v.harmonics)):
        if weight > 0.05:
            sound += weight * np.sin(order * phase) * (order * frequency < _CEILING_SHARE * sample_rate)
    if v.buzz:
        sound *= 1 - v.buzz * (0.5 + 0.5 * np.cos(2 * np.pi * v.buzz_hz * length_s * x))
    return sound * np.sqrt(np.abs(swell))


def noise(rng: np.random.Generator, seconds: float, sample_rate: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """Background of wind, rain and insects in a random blend: float32 [seconds * sample_rate], power 1."""
    total = round(seconds * sample_rate)
    frequency = np.fft.rfftfreq(total, 1 / sample_rate).astype(np.float32)
    wind, rain, insects = rng.uniform(0.2, 1), rng.uniform(0.0, 0.4), rng.uniform(0.0, 0.5) * (rng.random() < 0.5)
    band = rng.uniform(0.3, 0.46) * sample_rate
    shape = wind / (1 + (frequency / 250) ** 1.5) + 0.1 * rain + 0.02
    shape += 0.5 * insects * np.exp(-0.5 * ((frequency - band) / 120) ** 2)
    shape[0] = 0
    # Random phases alone make Gaussian noise (the sum of many tones), at a tenth of the price of normal draws.
    angle = np.float32(2 * np.pi) * rng.random(len(shape), np.float32)
    spectrum = np.empty(len(shape), np.complex64)
    spectrum.real, spectrum.imag = shape * np.cos(angle), shape * np.sin(angle)
    sound = np.fft.irfft(spectrum, total)
    clock_s = np.arange(total, dtype=np.float32) / np.float32(sample_rate)
    sound *= 1 + 0.35 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.4) * clock_s + rng.random()))  # gusts
    return sound / np.sqrt(np.mean(sound**2))


def extent(song: np.ndarray) -> tuple[int, int]:
    """The samples from the first that is song to one after the last."""
    loud = np.flatnonzero(np.abs(song) > _SILENT * np.abs(song).max())
    return int(loud[0]), int(loud[-1]) + 1


def at_snr(song: np.ndarray, snr_db: float, noise_power: float = 1.0) -> np.ndarray:
    """A song scaled so that its mean power between first and last syllable stands `snr_db` over the noise's."""
    start, stop = extent(song)
    power = float(np.mean(song[start:stop] ** 2))
    return song * np.float32(np.sqrt(noise_power * 10 ** (snr_db / 10) / power))
