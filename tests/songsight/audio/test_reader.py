"""Sound that is written here comes back as it was, from any span of any container, and damage is named."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import soundfile
import soxr

from songsight.audio import decoders
from songsight.audio.reader import (
    AUDIO_EXTENSIONS,
    REASONS,
    AudioError,
    Reader,
    StorageError,
    is_audio_path,
    is_silent,
    open_audio,
    probe,
    read_mono,
)
from songsight.errors import UserError

RATE = 48_000
SHARED = Path(os.environ.get("SONGSIGHT_SHARED", Path(__file__).parents[4] / "shared")) / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no recordings at {SHARED}: set SONGSIGHT_SHARED to a folder that has data/ in it"
)


def sound(seconds: float = 5.0, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """A rising tone with noise, different in each channel: float32 [frames, channels]."""
    rng = np.random.default_rng(7)
    time = np.arange(round(seconds * rate)) / rate
    tones = [np.sin(2 * np.pi * (300 + 200 * channel + 150 * time) * time) for channel in range(channels)]
    noise = 0.02 * rng.standard_normal((len(time), channels))
    return (0.4 * np.stack(tones, axis=1) + noise).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> str:
    """Writes a file with libsndfile, a second at a time: its Vorbis encoder does not survive long writes."""
    with soundfile.SoundFile(path, "w", rate, samples.shape[1], **options) as file:
        for start in range(0, len(samples), rate):
            file.write(samples[start : start + rate])
    return str(path)


def encode(path: Path, samples: np.ndarray, codec: str, rate: int = RATE, container: str | None = None) -> str:
    """Writes a file with FFmpeg."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = {1: "mono", 2: "stereo", 8: "7.1"}[samples.shape[1]]
        fit = av.AudioResampler(
            format=stream.format.name, layout=stream.layout.name, rate=rate, frame_size=stream.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=stream.layout.name)
        frame.sample_rate = rate
        for piece in [*fit.resample(frame), *fit.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return str(path)


def riff(path: Path, data: bytes, data_size: int, riff_size: int | None = None, behind: bytes = b"") -> str:
    """A mono 16-bit WAV whose sizes say what the test wants them to say."""
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", data_size) + data + behind
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body)
    return str(path)


def pcm16(samples: np.ndarray) -> bytes:
    return (samples[:, 0] * 32767).astype("<i2").tobytes()


SNDFILE_FORMATS = [
    *[("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")],
    *[("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16")],
    *[("AIFF", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24", "FLOAT")],
    *[("AU", "PCM_16"), ("CAF", "PCM_16"), ("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
]
EXACTNESS = {
    "PCM_U8": 2e-2, "PCM_S8": 2e-2, "ULAW": 4e-2, "ALAW": 4e-2, "IMA_ADPCM": 0.3, "MS_ADPCM": 0.3, "VORBIS": 0.3,
    "OPUS": 0.5, "MPEG_LAYER_III": 0.3,
}  # fmt: skip
FFMPEG_FORMATS = [("a.m4a", "aac"), ("lossless.m4a", "alac"), ("a.mka", "libopus"), ("a.webm", "libopus")]
FFMPEG_FORMATS += [
    ("a.wv", "wavpack"),
    ("a.tta", "tta"),
    ("a.aac", "aac"),
    ("a.opus", "libopus"),
    ("a.mp3", "libmp3lame"),
]


@pytest.mark.parametrize(("container", "subtype"), SNDFILE_FORMATS)
def test_whole_file(tmp_path: Path, container: str, subtype: str) -> None:
    written = sound(3.0, channels=2)
    path = write(tmp_path / "a.bin", written, format=container, subtype=subtype)
    with open_audio(path) as reader:
        read = reader.read()
        assert (reader.info.sample_rate_hz, reader.info.channels) == (RATE, 2)
        assert not reader.info.truncated
        assert reader.info.duration_s == pytest.approx(3.0, abs=0.03)
        assert reader.info.claimed_duration_s == pytest.approx(3.0, abs=0.03)
    assert read.dtype == np.float32
    assert len(read) == pytest.approx(len(written), abs=1500)  # block codecs pad
    common = min(len(read), len(written))
    error = np.abs(read[:common] - written[:common])[RATE // 10 : -RATE // 10]
    assert error.max() < EXACTNESS.get(subtype, 2e-4)


def spans(reader: Reader, whole: np.ndarray) -> float:
    """The largest difference between spans read in any order and the same frames of the whole."""
    rate = reader.info.sample_rate_hz
    worst = 0.0
    for start_s in (3.0, 0.0, 4.2, 0.1, 2.0, 2.5, 2.4, 3.99):
        start = round(start_s * rate)
        read = reader.read(start_s, start_s + 0.5)
        expected = whole[start : start + rate // 2]
        assert read.shape == expected.shape
        worst = max(worst, float(np.abs(read - expected).max()))
    return worst


@pytest.mark.parametrize(("container", "subtype"), SNDFILE_FORMATS)
def test_spans_equal_the_whole(tmp_path: Path, container: str, subtype: str) -> None:
    path = write(tmp_path / "a.bin", sound(channels=2), format=container, subtype=subtype)
    with open_audio(path) as reader:
        whole = reader.read()
    with open_audio(path) as reader:
        assert spans(reader, whole) < 1e-6


@pytest.mark.parametrize(("name", "codec"), FFMPEG_FORMATS)
def test_spans_equal_the_whole_by_ffmpeg(
    tmp_path: Path, name: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "_SEEK_AHEAD_S", 0.25)  # so that five seconds are enough to make it seek
    samples = sound(channels=2)
    samples[:, 0] = np.sin(np.arange(len(samples)) * 0.05)  # pure tones: AAC's decoder makes its own noise
    samples[:, 1] = np.sin(np.arange(len(samples)) * 0.03)
    path = encode(tmp_path / name, 0.4 * samples, codec)
    with open_audio(path) as reader:
        assert reader.info.decoder == "pyav"
        assert reader.info.duration_s == pytest.approx(5.0, abs=0.06)
        whole = reader.read()
    with open_audio(path) as reader:
        assert spans(reader, whole) < 1e-5  # AAC adds noise of its own


def test_the_clock_is_right_in_lossy_formats(tmp_path: Path) -> None:
    """A click at 2 s is at 2 s, whatever delay the codec has."""
    samples = np.zeros((4 * RATE, 1), np.float32)
    samples[2 * RATE : 2 * RATE + 24] = 0.9
    paths = [write(tmp_path / "a.ogg", samples), write(tmp_path / "a.mp3", samples)]
    paths += [encode(tmp_path / "a.opus", samples, "libopus"), encode(tmp_path / "b.mp3", samples, "libmp3lame")]
    for path in paths:
        with open_audio(path) as reader:
            window = reader.read(1.5, 2.5)[:, 0]
        assert abs(int(np.abs(window).argmax()) - RATE // 2) < 100, path


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    samples = sound(1.0, channels=3)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    np.testing.assert_allclose(read_mono(path, 0.0, 1.0, RATE), samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_000, 22_050, 32_000, 44_100, 96_000, 384_000])
def test_windows_join_without_a_seam(tmp_path: Path, rate: int) -> None:
    samples = sound(6.0, rate=rate)
    path = write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    whole = soxr.resample(samples[:, 0], rate, RATE, quality="HQ")
    with open_audio(path) as reader:
        for start_s, end_s in [(0.0, 2.0), (2.0, 3.5), (3.5, 3.6), (3.6, 5.0), (5.0, 6.0), (1 / 3, 7 / 3), (4.0, 9.0)]:
            window = read_mono(reader, start_s, end_s, RATE)
            expected = whole[round(start_s * RATE) : round(end_s * RATE)]
            assert window.shape == expected.shape
            assert window.dtype == np.float32
            assert np.abs(window - expected).max() < 1e-5


@pytest.mark.parametrize("rate", [250_000, 384_000])
def test_ultrasound_does_not_fold_into_the_audible(tmp_path: Path, rate: int) -> None:
    time = np.arange(rate) / rate
    tones = 0.5 * np.sin(2 * np.pi * 100_000 * time) + 0.25 * np.sin(2 * np.pi * 10_000 * time)
    path = write(tmp_path / "bat.wav", tones[:, None].astype(np.float32), rate)
    heard = read_mono(path, 0.1, 0.9, RATE)
    assert len(heard) == round(0.8 * RATE)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) / len(heard) * 4
    frequency = np.fft.rfftfreq(len(heard), 1 / RATE)
    audible = np.abs(frequency - 10_000) < 50
    assert spectrum[audible].max() == pytest.approx(0.25, rel=0.02)
    assert spectrum[~audible].max() < 1e-4


def test_span_past_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", sound(2.0))
    with open_audio(path) as reader:
        assert reader.read(1.5, 9.0).shape == (RATE // 2, 1)
        assert reader.read(5.0, 9.0).shape == (0, 1)
        assert read_mono(reader, 5.0, 9.0, 16_000).shape == (0,)
        with pytest.raises(ValueError, match="span"):
            reader.read(2.0, 1.0)
        with pytest.raises(ValueError, match="span"):
            read_mono(reader, -1.0, 1.0, 16_000)


def test_eight_channels_of_aac(tmp_path: Path) -> None:
    """PyAV alone reads past the end of its list of planes here."""
    time = np.arange(RATE) / RATE
    tones = np.stack([0.3 * np.sin(2 * np.pi * 100 * (channel + 1) * time) for channel in range(8)], axis=1)
    path = encode(tmp_path / "a.m4a", tones.astype(np.float32), "aac")
    with open_audio(path) as reader:
        read = reader.read(0.2, 0.7)
    assert read.shape == (RATE // 2, 8)
    heard = np.abs(np.fft.rfft(read, axis=0)).argmax(axis=0) * 2  # the fourth channel keeps low frequencies only
    np.testing.assert_allclose(
        np.delete(heard, 3), np.delete(np.arange(100, 900, 100), 3), atol=4
    )  # 3: low frequencies


# Headers that lie


def test_half_a_wav(tmp_path: Path) -> None:
    samples = sound(4.0)
    path = riff(tmp_path / "a.wav", pcm16(samples)[: 2 * RATE * 3 + 1], data_size=8 * RATE)
    info = probe(path)
    assert (info.truncated, info.duration_s, info.claimed_duration_s) == (True, 3.0, 4.0)
    with open_audio(path) as reader:
        np.testing.assert_allclose(reader.read(2.0, 4.0), samples[2 * RATE : 3 * RATE], atol=1e-4)


@pytest.mark.parametrize("data_size", [0, 0xFFFFFFFF, 1000])
@pytest.mark.parametrize("riff_size", [0, 8, 36, 0xFFFFFFFF])
def test_data_size_that_is_no_use(tmp_path: Path, data_size: int, riff_size: int) -> None:
    samples = sound(2.0)
    path = riff(tmp_path / "a.wav", pcm16(samples), data_size, riff_size)
    with open_audio(path) as reader:
        assert reader.info.duration_s == 2.0
        np.testing.assert_allclose(reader.read(1.0, 2.0), samples[RATE:], atol=1e-4)


def test_a_silent_beginning_behind_a_header_never_brought_up_to_date(tmp_path: Path) -> None:
    samples = sound(3.0)
    samples[: RATE // 2] = 0
    assert probe(riff(tmp_path / "a.wav", pcm16(samples), 0, 0)).frames == 3 * RATE
    # The claimed size ends inside a silence, which the sound goes on behind.
    assert probe(riff(tmp_path / "b.wav", pcm16(samples), 2 * (RATE // 4))).frames == 3 * RATE
    with pytest.raises(AudioError, match="empty"):
        probe(riff(tmp_path / "c.wav", bytes(20_000), 0, 0))


def test_chunks_behind_the_sound_are_not_sound(tmp_path: Path) -> None:
    samples = sound(1.0)
    behind = b"guan" + struct.pack("<I", 20) + b"GUANO|Version:1.0\nX:"
    data = pcm16(samples)
    assert probe(riff(tmp_path / "a.wav", data, len(data), behind=behind)).frames == RATE
    assert probe(riff(tmp_path / "b.wav", data, len(data), behind=bytes(3000))).frames == RATE
    assert probe(riff(tmp_path / "d.wav", data, len(data), behind=bytes(512) + behind)).frames == RATE
    for claimed in (0, 0xFFFFFFFF, 1000, 10**6):  # of a header that was never brought up to date
        info = probe(riff(tmp_path / "e.wav", data, claimed, behind=behind))
        assert (info.frames, info.truncated) == (RATE, claimed == 10**6)
    with pytest.raises(AudioError) as empty:
        probe(riff(tmp_path / "c.wav", b"", 0, behind=behind))
    assert empty.value.reason == "empty"


def test_rf64_with_its_size_in_ds64(tmp_path: Path) -> None:
    samples = sound(1.0)
    data = pcm16(samples)
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    head = b"RF64" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE"
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, len(data) + 72, 2 * len(data), 2 * RATE, 0)
    path = tmp_path / "a.wav"
    path.write_bytes(head + ds64 + fmt + b"data" + struct.pack("<I", 0xFFFFFFFF) + data)
    info = probe(str(path))
    assert (info.duration_s, info.claimed_duration_s, info.truncated) == (1.0, 2.0, True)


def test_more_than_four_gibibytes(tmp_path: Path) -> None:
    """A day of sound in a plain WAV: the size wraps, the file is sparse, and the last window is still there."""
    path = tmp_path / "day.wav"
    samples = sound(10.0)
    frames = 86_400 * RATE
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    with path.open("wb") as file:
        file.write(
            b"RIFF" + struct.pack("<I", 2 * frames + 36 & 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
        )
        file.write(b"data" + struct.pack("<I", 2 * frames & 0xFFFFFFFF))
        wrapped = file.tell() + (2 * frames & 0xFFFFFFFF)
        file.seek(wrapped)
        file.write(b"\x07\xff\x91\xfe" * 100)  # sound, where the wrapped size would have the next chunk
        file.seek(44 + 2 * (frames - len(samples)))
        file.write(pcm16(samples))
    with open_audio(str(path)) as reader:
        assert reader.info.duration_s == 86_400.0
        np.testing.assert_allclose(reader.read(86_390.0, 86_400.0), samples, atol=1e-4)


def flac_with_total(path: Path, total: int, keep: float = 1.0) -> str:
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    path.write_bytes(content[: round(len(content) * keep)])
    return str(path)


@pytest.mark.parametrize("total", [0, RATE, 900 * RATE])
def test_flac_header_with_a_wrong_length(tmp_path: Path, total: int) -> None:
    samples = sound(8.0)
    write(tmp_path / "a.flac", samples)
    path = flac_with_total(tmp_path / "a.flac", total)
    with open_audio(path) as reader:
        assert reader.info.frames == len(samples)
        assert reader.info.truncated == (total > len(samples))
        np.testing.assert_allclose(reader.read(6.0, 8.0), samples[6 * RATE :], atol=1e-4)
        np.testing.assert_allclose(reader.read(3.0, 4.0), samples[3 * RATE : 4 * RATE], atol=1e-4)


def test_a_flac_header_with_a_wrong_size_of_block(tmp_path: Path) -> None:
    """Whole frames that follow on each other by their own size are right, whatever the header says of it."""
    path = tmp_path / "a.flac"
    samples = sound(4.0)
    write(path, samples)
    data = bytearray(path.read_bytes())
    assert data[8:12] == b"\x10\0\x10\0"  # 4096
    data[8:12] = b"\x04\0\x04\0"
    path.write_bytes(data)
    with open_audio(str(path)) as reader:
        assert (reader.info.frames, reader.info.decoder) == (len(samples), "soundfile")
        np.testing.assert_allclose(reader.read(0.0, 4.0), samples, atol=1e-4)


@pytest.mark.parametrize("junk", [b"ID3\x04\0\0\0\0\0\x0a" + bytes(10), b"TAG" + b"x" * 125], ids=["ID3v2", "ID3v1"])
def test_flacs_joined_with_tags_between(tmp_path: Path, junk: bytes) -> None:
    parts = []
    for number, seconds in enumerate((2.0, 1.25)):
        write(tmp_path / f"{number}.flac", sound(seconds))
        parts.append((tmp_path / f"{number}.flac").read_bytes())
    (tmp_path / "a.flac").write_bytes(parts[0] + junk + parts[1])
    with open_audio(str(tmp_path / "a.flac")) as reader:
        assert reader.info.frames == len(reader.read(0.0, 9.0)) == round(3.25 * RATE)


def test_half_a_flac(tmp_path: Path) -> None:
    samples = sound(8.0)
    write(tmp_path / "a.flac", samples)
    path = flac_with_total(tmp_path / "a.flac", len(samples), keep=0.5)
    with open_audio(path) as reader:
        assert reader.info.truncated
        assert 3.0 < reader.info.duration_s < 5.0
        assert reader.info.claimed_duration_s == 8.0
        there = reader.read(0.0, 8.0)
    assert abs(len(there) - reader.info.frames) <= 4096  # the block in which the file ends
    np.testing.assert_allclose(there, samples[: len(there)], atol=1e-4)


def test_damage_inside_a_flac_keeps_the_time_of_what_follows(tmp_path: Path) -> None:
    samples = sound(8.0)
    write(tmp_path / "a.flac", samples)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    (tmp_path / "a.flac").write_bytes(content)
    with open_audio(str(tmp_path / "a.flac")) as reader:
        read = reader.read(0.0, 8.0)
        np.testing.assert_allclose(reader.read(7.0, 8.0), samples[7 * RATE :], atol=1e-4)
    wrong = np.abs(read - samples[: len(read)]).max(axis=1) > 1e-3
    assert 0 < wrong.sum() <= 3 * 4096


def test_damage_in_a_flac_without_a_length_keeps_time_too(tmp_path: Path) -> None:
    samples = sound(8.0)
    content = bytearray(Path(flac_with_total(Path(write(tmp_path / "a.flac", samples)), 0)).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = bytes(30_000)
    (tmp_path / "a.flac").write_bytes(content)
    with open_audio(str(tmp_path / "a.flac")) as reader:
        assert (reader.info.frames, reader.info.sequential) == (len(samples), False)
        np.testing.assert_allclose(reader.read(7.0, 8.0), samples[7 * RATE :], atol=1e-4)
        np.testing.assert_allclose(reader.read(0.0, 8.0)[7 * RATE :], samples[7 * RATE :], atol=1e-4)


@pytest.mark.parametrize("total", [0, 18 * RATE, 6 * RATE + 1])
def test_a_flac_whose_frame_numbers_start_again(tmp_path: Path, total: int) -> None:
    """As of a recorder that pauses: by their numbers three times six seconds are six."""
    samples = sound(6.0)
    content = Path(flac_with_total(Path(write(tmp_path / "a.flac", samples)), total)).read_bytes()
    first = content.index(b"\xff\xf8", 42)
    (tmp_path / "a.flac").write_bytes(content[:first] + 3 * content[first:])
    whole = np.concatenate([samples] * 3)
    info = probe(str(tmp_path / "a.flac"))
    assert (info.frames, info.truncated, info.sequential) == (len(whole), False, True)
    for known in (None, info.frames):
        with open_audio(str(tmp_path / "a.flac"), known) as reader:
            assert reader.info == info
            for start_s in (13.0, 2.0, 7.0, 0.0, 17.0):
                start = round(start_s * RATE)
                np.testing.assert_allclose(reader.read(start_s, start_s + 1.0), whole[start : start + RATE], atol=1e-4)


def parted(path: Path) -> tuple[bytes, bytes]:
    """The header of a FLAC, and its frames."""
    content, at, last = path.read_bytes(), 4, False
    while not last:
        last = content[at] >= 0x80
        at += 4 + int.from_bytes(content[at + 1 : at + 4], "big")
    return content[:at], content[at:]


@pytest.mark.parametrize("total", ["unknown", "sum", "first"])
@pytest.mark.parametrize(
    "lasting", [(6, 6, 6), (6, 3.3, 6), (2, 6, 3), (20, 0.1), (0.05, 20), (0.1, 0.1), (1, 1, 1, 20)]
)
@pytest.mark.parametrize("whole_files", [True, False])
def test_flacs_joined_end_to_end(tmp_path: Path, lasting: tuple[float, ...], total: str, whole_files: bool) -> None:
    """With the headers of the further ones in their midst, or without; the first header knows of them, or does not."""
    songs = [0.5**number * sound(seconds, channels=2)[:: (-1) ** number] for number, seconds in enumerate(lasting)]
    for number, song in enumerate(songs):
        write(tmp_path / f"{number}.flac", song)
    whole = np.concatenate(songs)
    claimed = {"unknown": 0, "sum": len(whole), "first": len(songs[0])}[total]
    flac_with_total(tmp_path / "0.flac", claimed)
    parts = [parted(tmp_path / f"{number}.flac") for number in range(len(songs))]
    headers = [header if whole_files or not number else b"" for number, (header, _) in enumerate(parts)]
    path = tmp_path / "a.flac"
    path.write_bytes(b"".join(header + frames for header, (_, frames) in zip(headers, parts, strict=True)))
    info = probe(str(path))
    assert (info.frames, info.truncated) == (len(whole), False)
    for known in (None, info.frames):
        with open_audio(str(path), known) as reader:
            np.testing.assert_allclose(reader.read(), whole, atol=1e-4)
            tail = reader.read_frames(len(whole) - 3000, len(whole))
            np.testing.assert_allclose(tail, whole[-3000:], atol=1e-4)


@pytest.mark.parametrize("seconds", [0.001, 0.1, 2.0, 60.0])
@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
def test_a_whole_flac_is_taken_for_no_joined_one(tmp_path: Path, seconds: float, level: float) -> None:
    song = level * sound(seconds)
    info = probe(write(tmp_path / "a.flac", np.concatenate([song, sound(seconds), song])))
    assert (info.decoder, info.sequential, info.frames) == ("soundfile", False, 3 * len(song))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_oggs_joined_end_to_end(tmp_path: Path, subtype: str) -> None:
    content = b""
    for number, seconds in enumerate((4.0, 6.0)):
        path = Path(write(tmp_path / f"{number}.ogg", sound(seconds), format="OGG", subtype=subtype))
        content += path.read_bytes()
    (tmp_path / "a.ogg").write_bytes(content)
    with open_audio(str(tmp_path / "a.ogg")) as reader:
        assert reader.info.duration_s == pytest.approx(10.0, abs=0.1)
        assert len(reader.read(8.0, 9.0)) == RATE
        assert np.abs(reader.read(8.0, 9.0)).max() > 0.1


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def test_two_data_chunks_are_one_recording(tmp_path: Path) -> None:
    samples = sound(3.0)
    data = pcm16(samples)
    pieces = data[: 2 * RATE], data[2 * RATE :]
    for name, between, behind in (
        ("a.wav", chunk(b"LIST", b"INFOISFT\x04\0\0\0abc\0"), b""),
        ("b.wav", b"", chunk(b"guan", b"GUANO|Version: 1.0")),
    ):
        path = riff(tmp_path / name, pieces[0], len(pieces[0]), behind=between + chunk(b"data", pieces[1]) + behind)
        with open_audio(path) as reader:
            assert (reader.info.frames, reader.info.truncated) == (3 * RATE, False)
            assert reader.notes == ["2 data chunks, read as one recording"]
            np.testing.assert_allclose(reader.read(), samples, atol=1e-4)
            np.testing.assert_allclose(reader.read(0.9, 1.1), samples[round(0.9 * RATE) : round(1.1 * RATE)], atol=1e-4)


def test_wavs_joined_end_to_end(tmp_path: Path) -> None:
    samples = sound(3.0)
    halves = samples[:RATE], samples[RATE:]
    for number, half in enumerate(halves):
        write(tmp_path / f"{number}.wav", half)
    content = [(tmp_path / f"{number}.wav").read_bytes() for number in (0, 1)]
    (tmp_path / "a.wav").write_bytes(b"".join(content))
    with open_audio(str(tmp_path / "a.wav")) as reader:
        np.testing.assert_allclose(reader.read(), samples, atol=1e-4)
    soundfile.write(tmp_path / "other.wav", halves[1], RATE // 2)
    (tmp_path / "b.wav").write_bytes(content[0] + (tmp_path / "other.wav").read_bytes())
    with open_audio(str(tmp_path / "b.wav")) as reader:
        np.testing.assert_allclose(reader.read(), halves[0], atol=1e-4)
        assert reader.notes == ["1 further data chunk not read: of another format, or compressed"]


def test_mp3_that_claims_too_much_or_too_little(tmp_path: Path) -> None:
    samples = sound(6.0)
    content = Path(encode(tmp_path / "a.mp3", samples, "libmp3lame")).read_bytes()
    assert probe(str(tmp_path / "a.mp3")).frames == pytest.approx(len(samples), abs=1200)
    (tmp_path / "half.mp3").write_bytes(content[: len(content) // 2])
    half = probe(str(tmp_path / "half.mp3"))
    assert half.truncated
    assert half.duration_s == pytest.approx(3.0, abs=0.2)
    assert half.claimed_duration_s == pytest.approx(6.0, abs=0.2)
    (tmp_path / "three.mp3").write_bytes(content * 3)
    three = probe(str(tmp_path / "three.mp3"))
    assert three.duration_s == pytest.approx(18.0, abs=0.3)
    at = content.find(b"Info") if b"Info" in content else content.find(b"Xing")
    lying = content[: at + 8] + struct.pack(">I", 14 * 3600 * RATE // 1152) + content[at + 12 :]
    (tmp_path / "days.mp3").write_bytes(lying[: len(lying) // 3])
    assert probe(str(tmp_path / "days.mp3")).duration_s < 3.0


# Files that cannot be used


def fails(path: str | Path) -> AudioError:
    with pytest.raises(AudioError) as caught, open_audio(str(path)) as reader:
        reader.read(0.0, 10.0)
    assert caught.value.reason in REASONS
    assert "\n" not in caught.value.detail
    assert "0x" not in caught.value.detail
    assert caught.value.detail
    return caught.value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "pointer"),
        (b"/annex/objects/SHA256E-s1--e3b0.wav\n", "pointer"),
        (b"These are field notes, not a recording.\n" * 30, "unreadable"),
        (bytes(100_000), "unreadable"),
        (b"RIFF", "truncated"),
        (b"RIFF\x24\x10\x00\x00WAVEfmt ", "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "unreadable"),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://localhost:1/a.ts\n", "unreadable"),
        (b"fLaC" + bytes(40), "unreadable"),
        (b"\xff\xfb\x90\x00" * 3, "unreadable"),
        (b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f", "unreadable"),
    ],
)
def test_no_sound(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert fails(path).reason == reason


def test_headers_without_samples(tmp_path: Path) -> None:
    assert fails(riff(tmp_path / "a.wav", b"", 0)).reason == "empty"
    assert fails(riff(tmp_path / "b.wav", b"", 96_000)).reason == "truncated"
    assert fails(riff(tmp_path / "c.wav", b"\x01", 96_000)).reason == "truncated"


def test_video_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode(None))
    assert fails(path).reason == "no-audio"


def test_samples_that_are_not_finite(tmp_path: Path) -> None:
    samples = sound(3.0)
    samples[2 * RATE + 5] = np.nan
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with open_audio(path) as reader:
        assert len(reader.read(0.0, 2.0)) == 2 * RATE  # the damage is elsewhere
        with pytest.raises(AudioError, match="not-finite"):
            reader.read(2.0, 3.0)
        with pytest.raises(AudioError, match="not-finite"):
            read_mono(reader, 2.0, 3.0, 16_000)


def test_not_there_and_not_allowed(tmp_path: Path) -> None:
    assert fails(tmp_path / "gone.wav").reason == "vanished"
    assert fails("memory://nowhere/gone.wav").reason == "vanished"
    assert fails(tmp_path).reason == "unreadable"
    with pytest.raises(UserError, match="nosuch"):
        probe("nosuch://bucket/a.wav")
    locked = Path(write(tmp_path / "a.wav", sound(0.1)))
    locked.chmod(0)
    if os.access(locked, os.R_OK):
        pytest.skip("this user may read everything")
    assert fails(locked).reason == "permission"


def test_a_link_to_what_git_annex_keeps_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to("../.git/annex/objects/Xx/Yy/SHA256E-s1--0.wav/SHA256E-s1--0.wav")
    (tmp_path / "b.wav").symlink_to("nowhere.wav")
    assert [fails(tmp_path / name).reason for name in ("a.wav", "b.wav")] == ["pointer", "vanished"]


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert fails(tmp_path / "pipe.wav").reason == "unreadable"


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(AudioError("unreadable", "first line\nat <obj at 0x7f00aa00bb00>")))
    assert (error.reason, error.detail) == ("unreadable", "first line at")
    with pytest.raises(ValueError, match="REASONS"):
        AudioError("bad-luck", "")


def test_every_damaged_byte_is_an_audio_error_or_sound(tmp_path: Path) -> None:
    """Cuts and flips at fixed places in every container: sound or a reason comes back, and nothing else."""
    rng = np.random.default_rng(3)
    samples = sound(0.5, channels=2)
    names = [("a.wav", {}), ("a.flac", {}), ("a.ogg", {}), ("a.mp3", {}), ("a.aiff", {}), ("a.w64", {})]
    originals = [Path(write(tmp_path / name, samples, **options)) for name, options in names]
    originals += [
        Path(encode(tmp_path / name, samples, codec)) for name, codec in (("b.m4a", "aac"), ("b.mka", "libopus"))
    ]
    outcomes = set()
    for original in originals:
        content = Path(original).read_bytes()
        for trial in range(30):
            damaged = bytearray(content)
            for _ in range(rng.integers(1, 20)):
                reach = 200 if trial % 2 else len(damaged)
                damaged[rng.integers(min(reach, len(damaged)))] = rng.integers(256)
            if trial % 3 == 0:
                damaged = damaged[: rng.integers(1, len(damaged))]
            path = tmp_path / "damaged.bin"
            path.write_bytes(damaged)
            try:
                with open_audio(str(path)) as reader:
                    assert np.isfinite(reader.read(0.0, 1.0)).all()
                    read_mono(reader, 0.1, 0.4, 16_000)
                outcomes.add("sound")
            except AudioError as error:
                outcomes.add(error.reason)
    assert {"sound", "unreadable", "truncated"} <= outcomes <= {"sound", *REASONS}


# What reading costs


class CountingFile(io.BytesIO):
    """A file in memory that counts the bytes read from it, or fails at a given position."""

    count = 0
    fail_behind = 1 << 62

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= CountingFile.fail_behind:
            raise ConnectionError("the store hung up")
        data = super().read(size)
        CountingFile.count += len(data)
        return data


class CountingFileSystem(fsspec.AbstractFileSystem):
    """`counting://<local path>`: a remote file system, as far as the library can tell."""

    protocol = "counting"
    cachable = False

    def _open(self, path: str, mode: str = "rb", **options: object) -> CountingFile:  # type: ignore[override]
        return CountingFile(Path("/" + path.lstrip("/")).read_bytes())


@pytest.fixture
def counting() -> type[CountingFile]:
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    CountingFile.count, CountingFile.fail_behind = 0, 1 << 62
    return CountingFile


@pytest.mark.parametrize(
    ("name", "most_windows"), [("a.wav", 1.02), ("a.flac", 1.6), ("a.w64", 1.02), ("a.aiff", 1.02)]
)
def test_a_window_costs_its_own_bytes(
    tmp_path: Path, counting: type[CountingFile], name: str, most_windows: float
) -> None:
    samples = sound(60.0)
    path = write(tmp_path / name, samples)
    with open_audio(f"counting://{path}") as reader:
        assert counting.count < 300_000  # headers, and the tail of a FLAC
        counting.count = 0
        window = reader.read(40.0, 50.0)
        np.testing.assert_allclose(window, samples[40 * RATE : 50 * RATE], atol=1e-4)
        window_bytes = os.path.getsize(path) / 6
        assert window_bytes / 2 < counting.count < most_windows * window_bytes


def test_a_lost_connection_is_not_the_end_of_the_sound(tmp_path: Path, counting: type[CountingFile]) -> None:
    for path in (write(tmp_path / "a.wav", sound(20.0)), encode(tmp_path / "a.m4a", sound(20.0), "aac")):
        counting.fail_behind = 1 << 62
        with open_audio(f"counting://{path}") as reader:
            counting.fail_behind = os.path.getsize(path) // 2
            with pytest.raises(StorageError, match="hung up"):
                reader.read(0.0, 20.0)


def test_lossy_formats_decode_each_packet_once(tmp_path: Path) -> None:
    """Reading on in spans that overlap a little, as resampling needs, costs no more than reading once."""
    samples = sound(30.0)
    for path in (encode(tmp_path / "a.mp3", samples, "libmp3lame"), encode(tmp_path / "a.m4a", samples, "aac")):
        decoder = decoders.AvDecoder(path, os.path.getsize(path))
        for start in range(0, 28 * RATE, RATE):
            assert len(decoder.read(max(0, start - 500), start + RATE + 500)) >= RATE
        assert 28 * RATE <= decoder.decoded_frames < 31 * RATE
        decoder.close()


def test_which_formats_are_read_from_their_start(tmp_path: Path) -> None:
    samples = sound(2.0)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    soundfile.write(tmp_path / "a.ogg", samples, RATE)
    found = {path: probe(str(path)).sequential for path in (tmp_path / "a.wav", tmp_path / "a.ogg")}
    assert list(found.values()) == [False, True]
    assert not probe(str(encode(tmp_path / "a.mp3", samples, "libmp3lame"))).sequential


def test_an_mp3_without_a_length_is_walked_through_once(tmp_path: Path, counting: type[CountingFile]) -> None:
    content = Path(encode(tmp_path / "a.mp3", sound(60.0), "libmp3lame")).read_bytes()
    at = max(content.find(b"Xing"), content.find(b"Info"))
    path = tmp_path / "untagged.mp3"
    path.write_bytes(content[:at] + bytes(4) + content[at + 4 :])
    info = probe(f"counting://{path}")
    assert info.sequential  # a far span needs a walk to it
    assert info.duration_s == pytest.approx(60.0, abs=0.2)
    counting.count = 0
    with open_audio(f"counting://{path}", info.frames) as reader:
        assert reader.info == info
        opened = counting.count
        assert opened < len(content) / 2
        spans = [reader.read(start, start + 10.0) for start in range(0, 60, 10)]
    assert sum(map(len, spans)) == pytest.approx(60 * RATE, abs=0.2 * RATE)
    assert counting.count - opened < 1.1 * len(content)


def test_a_far_seek_in_mp3_does_not_decode_its_way_there(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", sound(30.0), "libmp3lame")
    decoder = decoders.AvDecoder(path, os.path.getsize(path))
    assert len(decoder.read(25 * RATE, 26 * RATE)) == RATE
    assert decoder.decoded_frames < 4 * RATE
    decoder.close()


def test_an_hour_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Ten windows of a three-hour WAV (1 GB, sparse) and of an MP3, in a process that may not grow by 300 MB."""
    wav = tmp_path / "a.wav"
    frames = 3 * 3600 * RATE
    riff(wav, b"", 2 * frames, 2 * frames + 36)
    os.truncate(wav, 44 + 2 * frames)
    mp3 = Path(encode(tmp_path / "a.mp3", sound(20.0), "libmp3lame"))
    mp3.write_bytes(mp3.read_bytes() * 40)
    code = (
        "import resource, sys\n"
        "from songsight.audio.reader import open_audio, read_mono\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    with open_audio(path) as reader:\n"
        "        for part in range(10):\n"
        "            start = reader.info.duration_s * part / 10\n"
        "            assert len(read_mono(reader, start, start + 10, 16_000)) == 160_000\n"
        "print(peak() - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(wav), str(mp3)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 300


# Small helpers


def test_silence() -> None:
    assert is_silent(np.zeros((10, 2), np.float32))
    assert is_silent(np.full(10, -0.25, np.float32))  # a dead microphone's offset
    assert not is_silent(np.array([0.0, 0.0, 1e-4], np.float32))


def test_endings() -> None:
    assert all(ending == ending.lower() for ending in AUDIO_EXTENSIONS)
    for path in ("s3://b/x/20190522_000000.WAV", "a.flac", "/x/y.Mp3", "b.webm", "c.rf64"):
        assert is_audio_path(path)
    for path in ("a.csv", "wav", "a.wav.txt", "._20190522_000000.WAV", "s3://b/a.wav/readme", "s3://b/.flac/x"):
        assert not is_audio_path(path)


# Real recordings


def real_files() -> list[Path]:
    folders = (SHARED / "soundscapes", SHARED / "odd_audio")
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if is_audio_path(str(path))]


@needs_shared
def test_every_real_file_is_sound_or_a_reason() -> None:
    files = real_files()
    assert len(files) > 100
    reasons: dict[str, int] = {}
    for path in files:
        try:
            with open_audio(str(path)) as reader:
                samples = reader.read()
                assert np.isfinite(samples).all()
                assert len(samples) > 0
                assert samples.shape[1] == reader.info.channels
                assert np.isfinite(read_mono(reader, 0.0, 10.0, RATE)).all()
        except AudioError as error:
            reasons[error.reason] = reasons.get(error.reason, 0) + 1
    assert reasons["pointer"] == sum("git_lfs" in str(path) for path in files)
    assert set(reasons) == {"pointer", "unreadable", "truncated", "empty"}
    assert reasons["unreadable"] <= 6


@needs_shared
def test_the_same_clip_in_five_formats() -> None:
    clips = [
        SHARED / "soundscapes" / "perch" / f"21100_36_48.{ending}" for ending in ("wav", "flac", "ogg", "mp3", "opus")
    ]
    if not all(clip.exists() for clip in clips):
        pytest.skip("the clip in five formats is not among the recordings")
    reference, *others = (read_mono(str(clip), 2.0, 6.0, 16_000) for clip in clips)
    for other in others:
        assert other.shape == reference.shape
        assert np.corrcoef(reference, other)[0, 1] > 0.95


@needs_shared
def test_spans_of_real_lossy_files_equal_the_whole() -> None:
    endings = (".mp3", ".ogg", ".m4a", ".opus", ".mp4", ".webm")
    files = sorted(
        path for path in SHARED.rglob("*") if path.suffix.lower() in endings and 9_000 < path.stat().st_size < 4e5
    )
    assert len(files) > 20
    for path in files[:30]:
        with open_audio(str(path)) as reader:
            whole = reader.read()
        with open_audio(str(path)) as reader:
            for share in (0.7, 0.2, 0.9, 0.0, 0.5):
                start = int(share * len(whole))
                read = reader.read_frames(start, min(start + 20_000, len(whole)))
                assert np.abs(read - whole[start : start + 20_000]).max() < 1e-6, path
