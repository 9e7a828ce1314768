from dataclasses import replace

import numpy as np
import pytest

from demoworld import pictures, songs
from demoworld.species import make_species

SPECIES = make_species(12, seed=2)


def with_song(**traits: float):
    """A plain whistler with some of its song traits set, by their place in the vector."""
    plain = {"pitch": 0.4, "span": 0.0, "slope": 0.5, "bend": 0.5, "trill": 0.0, "harmonics": 0.0, "buzz": 0.0}
    places = {"pitch": 0, "span": 1, "slope": 2, "bend": 3, "trill": 7, "harmonics": 8, "buzz": 9}
    song = [0.5] * len(SPECIES[0].song)
    for name, value in (plain | traits).items():
        song[places[name]] = value
    return replace(SPECIES[0], song=tuple(song))


def peak_hz(sound: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * songs.SAMPLE_RATE_HZ / len(sound))


def test_a_picture_comes_of_looks_and_draw_alone():
    draw = lambda bird, seed=0: np.asarray(pictures.render(bird, np.random.default_rng(seed)))  # noqa: E731
    first, second = SPECIES[0], SPECIES[1]
    assert draw(first).shape == (96, 96, 3)
    assert (draw(first) == draw(replace(first, song=second.song))).all()
    assert (draw(first) != draw(replace(first, looks=second.looks))).any()
    assert (draw(first) != draw(first, seed=1)).any()
    assert pictures.render(first, np.random.default_rng(0), size=64).size == (64, 64)


def test_two_pictures_of_a_species_share_its_colours():
    def colours(bird, seed):
        middle = np.asarray(pictures.render(bird, np.random.default_rng(seed)), float)[24:72, 24:72]
        return np.histogramdd(middle.reshape(-1, 3), bins=5, range=[(0, 256)] * 3)[0].ravel() ** 0.5

    known = np.stack([sum(colours(bird, seed) for seed in range(12)) for bird in SPECIES])
    asked = np.stack([colours(bird, seed) for bird in SPECIES for seed in range(100, 104)])
    named = (asked @ (known / np.linalg.norm(known, axis=1, keepdims=True)).T).argmax(axis=1)
    assert (named == np.repeat(np.arange(12), 4)).mean() > 0.35  # chance is 0.08


def test_a_song_comes_of_song_traits_and_draw_alone():
    sing = lambda bird, seed=0: songs.sing(bird, np.random.default_rng(seed), 2.0)  # noqa: E731
    first, second = SPECIES[0], SPECIES[1]
    assert sing(first).dtype == np.float32
    assert sing(first).shape == (32_000,)
    assert (sing(first) == sing(replace(first, looks=second.looks))).all()
    assert (sing(first) != sing(replace(first, song=second.song))).any()
    assert (sing(first) != sing(first, seed=1)).any()


@pytest.mark.parametrize("bird", SPECIES, ids=lambda bird: bird.scientific_name)
def test_every_song_is_peak_normalised_and_finite(bird):
    for seconds in (0.6, 3.0, 6.0):
        song = songs.sing(bird, np.random.default_rng(0), seconds)
        assert np.isfinite(song).all()
        assert np.abs(song).max() == pytest.approx(0.9, rel=1e-4)


def test_pitch_and_contour_sound_as_their_traits_say():
    rng = np.random.default_rng(0)
    low, high = (songs.sing(with_song(pitch=pitch), rng, 3.0) for pitch in (0.1, 0.8))
    assert peak_hz(high) > 2 * peak_hz(low)
    bird = with_song(span=1.0, slope=1.0)
    syllable = songs._syllable(songs.voice(bird), 2000.0, 0.2, songs.SAMPLE_RATE_HZ)
    assert peak_hz(syllable[-800:]) > 1.3 * peak_hz(syllable[:800])
    assert "rising" in songs.describe(bird)
    assert "falling" in songs.describe(with_song(span=1.0, slope=0.0))


def test_snr_is_what_was_asked_for():
    rng = np.random.default_rng(1)
    background = songs.noise(rng, 3.0)
    assert background.dtype == np.float32
    assert np.mean(background**2) == pytest.approx(1.0, rel=1e-3)
    for snr_db in (-3.0, 10.0):
        song = songs.at_snr(songs.sing(SPECIES[3], rng, 3.0), snr_db)
        start, stop = songs.extent(song)
        assert 10 * np.log10(np.mean(song[start:stop] ** 2)) == pytest.approx(snr_db, abs=0.01)
