"""One channel of several: the mean as it always was, but never the silence of channels that cancel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from songsight.audio import channels
from songsight.audio.clips import Clips, Features
from songsight.audio.reader import AudioError, is_silent, open_audio, read_mono
from songsight.errors import UserError

RATE = 16_000
RNG = np.random.default_rng(5)
SONG = (0.3 * np.sin(np.arange(5 * RATE) * 0.7)).astype(np.float32)
NOISE = (0.1 * RNG.standard_normal(len(SONG))).astype(np.float32)
NOTHING = np.zeros_like(SONG)


def stack(*several: np.ndarray) -> np.ndarray:
    return np.stack(several, axis=1).astype(np.float32)


@pytest.mark.parametrize("count", range(1, 12))
def test_the_mean_is_numpys_to_the_last_bit(count: int) -> None:
    samples = (RNG.standard_normal((200_001, count)) + RNG.standard_normal(count)).astype(np.float32)
    mixed, note = channels.mix(samples, "mean")
    np.testing.assert_array_equal(mixed, samples.mean(axis=1, dtype=np.float32))
    assert (mixed.dtype, note) == (np.float32, "")


@pytest.mark.parametrize(
    "samples",
    [
        stack(SONG, SONG),
        stack(SONG, NOISE),
        stack(SONG, NOTHING),  # a dead microphone halves the other
        stack(SONG, NOTHING + 0.5),
        stack(0.001 * NOISE + 0.5, 0.001 * NOISE[::-1] - 0.5),  # offsets cancel, sounds do not
        stack(*[NOTHING] * 7, SONG),
        stack(SONG, -0.5 * SONG),
        stack(NOTHING, NOTHING + 0.25),
        stack(SONG, NOISE)[:0],
        stack(SONG, -SONG)[:1],
    ],
)
def test_sound_that_does_not_cancel_is_left_alone(samples: np.ndarray) -> None:
    mixed, note = channels.mix(samples, "mean")
    np.testing.assert_array_equal(mixed, samples.mean(axis=1, dtype=np.float32))
    assert note == ""


@pytest.mark.parametrize(
    ("samples", "loudest"),
    [
        (stack(SONG, -SONG), 0),
        (stack(0.999 * SONG, -SONG), 1),
        (stack(SONG + 0.02 * NOISE, -0.9 * SONG), 0),
        (stack(SONG + 0.25, -SONG + 0.25), 0),
        (stack(1e-4 * SONG + 0.5, -1e-4 * SONG - 0.5), 0),
        (stack(0.01 * NOISE, SONG, -SONG), 1),
        (stack(SONG, -SONG, SONG, -SONG), 0),
        (stack(NOTHING, SONG, -1.01 * SONG, NOTHING + 0.5), 2),
        (stack(SONG, np.where(np.arange(len(SONG)) < 1 << 16, -SONG, SONG)), 0),  # for its first four seconds
    ],
)
def test_the_loudest_is_heard_where_the_mean_cancels(samples: np.ndarray, loudest: int) -> None:
    mixed, note = channels.mix(samples, "mean")
    np.testing.assert_array_equal(mixed, samples[:, loudest])
    assert note == channels.CANCELLED
    assert not is_silent(mixed)


def test_each_channel_can_be_chosen() -> None:
    samples = stack(NOTHING + 0.9, NOISE, SONG)
    chosen = {channel: channels.mix(samples, channel)[0] for channel in ("left", "right", "1", "2", "3", "loudest")}
    for channel, number in {"left": 0, "right": 1, "1": 0, "2": 1, "3": 2, "loudest": 2}.items():
        np.testing.assert_array_equal(chosen[channel], samples[:, number])
    assert channels.mix(stack(SONG, -SONG), "right")[1] == ""


@pytest.mark.parametrize(("given", "kept"), [("Left", "left"), (" mean", "mean"), (2, "2"), (3.0, "3"), ("12", "12")])
def test_what_names_a_channel(given: object, kept: str) -> None:
    assert channels.parse(given, "--channel") == kept


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "both", "", "left,right", "99999"])
def test_what_names_none(given: str) -> None:
    with pytest.raises(UserError, match=r"^--channel should be mean, left, right, loudest or .* from 1 \(got "):
        channels.parse(given, "--channel")


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_microphone_turned_over_is_heard(tmp_path: Path, rate: int) -> None:
    tone = (0.3 * np.sin(np.arange(3 * rate) * 2 * np.pi * 1000 / rate)).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", stack(tone, -tone), rate, subtype="FLOAT")
    soundfile.write(tmp_path / "one.wav", tone, rate, subtype="FLOAT")
    with open_audio(str(tmp_path / "two.wav")) as reader:
        heard = read_mono(reader, 0.5, 1.5, RATE)
        read_mono(reader, 1.5, 2.5, RATE)
        assert reader.notes == [channels.CANCELLED]
    np.testing.assert_array_equal(heard, read_mono(str(tmp_path / "one.wav"), 0.5, 1.5, RATE))


def test_a_channel_beyond_those_of_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", stack(SONG, NOISE), RATE)
    soundfile.write(tmp_path / "b.wav", SONG, RATE)
    for name, channel in (("a.wav", "3"), ("b.wav", "right")):
        with pytest.raises(AudioError, match="asked for, the file has") as caught:
            read_mono(str(tmp_path / name), 0.0, 1.0, RATE, channel)
        assert caught.value.reason == "channel"
    for channel in ("left", "mean", "loudest", "1"):
        assert len(read_mono(str(tmp_path / "b.wav"), 0.0, 1.0, RATE, channel)) == RATE


@pytest.mark.parametrize("column", [["left", "2", None, "3"], ["1", "right", "", "9"]])
def test_rows_of_a_table_say_which_they_mean(tmp_path: Path, column: list[str | None]) -> None:
    soundfile.write(tmp_path / "a.wav", stack(SONG, NOISE), RATE, subtype="FLOAT")
    rows = pa.table({"path": ["a.wav"] * 4, "start_s": [0.0] * 4, "end_s": [1.0] * 4, "channel": column})
    clips = Clips.of(rows, str(tmp_path / "rows.csv"), Features(RATE, RATE, "repeatpad", 0))
    for row, expected in enumerate((SONG, NOISE, (SONG + NOISE) / 2)):
        np.testing.assert_allclose(clips.clip(row, None), expected[:RATE], atol=1e-6)
    with pytest.raises(AudioError, match="channel"):
        clips.clip(3, None)


def test_a_column_of_numbers_and_one_of_nonsense(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", stack(SONG, NOISE), RATE, subtype="FLOAT")
    rows = pa.table({"path": ["a.wav"] * 2, "start_s": [0.0] * 2, "end_s": [1.0] * 2, "channel": [2.0, None]})
    clips = Clips.of(rows, str(tmp_path / "rows.parquet"), Features(RATE, RATE, "repeatpad", 0))
    np.testing.assert_allclose(clips.clip(0, None), NOISE[:RATE], atol=1e-6)
    with pytest.raises(UserError, match=r"rows\.csv: column channel should be mean, .* \(got B\)"):
        Clips.of(rows.set_column(3, "channel", [["1", "B"]]), "rows.csv", Features(RATE, RATE, "repeatpad", 0))
