import io
import re
import struct
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from demoworld import songs, soundscapes
from demoworld.species import make_species

SPECIES = make_species(12, seed=2)
START = datetime(2024, 5, 14, 5, 30, tzinfo=UTC)
SERIAL = "24F319045CA0B1D2"
COMMENT = re.compile(
    r"Recorded at 05:30:00 14/05/2024 \(UTC\) by AudioMoth 24F319045CA0B1D2 at medium gain "
    r"while battery was \d\.\dV and temperature was -?\d+\.\dC\."
)


def wav(place=None) -> tuple[bytes, np.ndarray]:
    samples = np.arange(-500, 501, dtype=np.int16)
    made = soundscapes.audiomoth_wav(samples, 16_000, START, SERIAL, place, np.random.default_rng(0))
    return made, samples


def test_header_is_the_recorders_byte_by_byte():
    made, samples = wav()
    riff, riff_size, wave = struct.unpack_from("<4sI4s", made, 0)
    assert (riff, riff_size, wave) == (b"RIFF", len(made) - 8, b"WAVE")
    assert struct.unpack_from("<4sIHHIIHH", made, 12) == (b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    assert struct.unpack_from("<4sI4s", made, 36) == (b"LIST", 4 + 8 + 384 + 8 + 32, b"INFO")
    assert struct.unpack_from("<4sI", made, 48) == (b"ICMT", 384)
    assert COMMENT.fullmatch(made[56:440].rstrip(b"\0").decode())
    assert struct.unpack_from("<4sI", made, 440) == (b"IART", 32)
    assert made[448:480].rstrip(b"\0") == f"AudioMoth {SERIAL}".encode()
    assert struct.unpack_from("<4sI", made, 480) == (b"data", 2 * len(samples))
    assert made[488:] == samples.tobytes()


def test_guano_stands_behind_the_samples():
    made, samples = wav(place=(-1.25, -78.5))
    at = 488 + 2 * len(samples)
    chunk, size = struct.unpack_from("<4sI", made, at)
    assert (chunk, size) == (b"guan", len(made) - at - 8)
    assert struct.unpack_from("<I", made, 4) == (len(made) - 8,)
    pairs = [line.split(":", 1) for line in made[at + 8 :].decode().split("\n")]
    assert pairs[0] == ["GUANO|Version", "1.0"]
    values = dict(pairs)
    assert values["Loc Position"] == "-1.250000 -78.500000"
    assert datetime.fromisoformat(values["Timestamp"]) == START
    read, rate = soundfile.read(io.BytesIO(made), dtype="int16")
    assert rate == 16_000
    assert (read == samples).all()


def test_labels_lie_where_the_energy_is():
    checked = 0
    for seed in range(20):
        heard, labels = soundscapes.soundscape(SPECIES, np.random.default_rng(seed), 9.0)
        (label,) = labels
        if label["snr_db"] < 15:
            continue
        checked += 1
        # Wind lies low and a song above it: what is left over 800 Hz, in frames of 20 ms.
        spectrum = np.fft.rfft(heard.astype(float))
        spectrum[: round(800 * 9.0)] = 0
        power = (np.fft.irfft(spectrum).reshape(-1, 320) ** 2).mean(axis=1)
        begin, end = label["start_s"], label["end_s"]
        time_s = (np.arange(len(power)) + 0.5) * 0.02
        inside = (time_s > begin) & (time_s < end)
        assert power[inside].mean() > 3 * power[~inside].mean(), label
        loud = time_s[power > 0.1 * np.percentile(power[inside], 95)]
        assert loud[0] == pytest.approx(begin, abs=0.08)
        assert loud[-1] == pytest.approx(end, abs=0.12)
    assert checked >= 4


def test_every_fault_is_there_and_real(tiny_world: Path):
    archive = tiny_world / "archive"
    empty, silent, short, pointers, good, other = [], [], [], [], [], []
    for path in sorted(path for path in archive.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix != ".WAV":
            other.append(path)
        elif not data:
            empty.append(path)
        elif data.startswith(b"version https://git-lfs"):
            pointers.append(path)
        elif struct.unpack_from("<I", data, 484)[0] > len(data) - 488:
            short.append(path)
        elif not soundfile.read(io.BytesIO(data), dtype="int16")[0].any():
            silent.append(path)
        else:
            good.append(path)
    assert [len(found) for found in (empty, silent, short, pointers, other)] == [1, 1, 1, 1, 1]
    assert len(good) == 4
    assert not other[0].read_bytes().startswith(b"RIFF")
    labels = pq.read_table(tiny_world / "labels.parquet").to_pylist()
    labelled = {archive / label["path"] for label in labels}
    assert set(good) <= labelled <= {*good, *short}
    left_s = (short[0].stat().st_size - 488) / 2 / songs.SAMPLE_RATE_HZ
    assert all(label["end_s"] <= left_s for label in labels if archive / label["path"] == short[0])


def test_file_names_are_their_start_times_and_one_site_writes_guano(tiny_world: Path):
    sites = sorted(path for path in (tiny_world / "archive").iterdir())
    with_guano = set()
    for path in (tiny_world / "archive").rglob("*.WAV"):
        data = path.read_bytes()
        if data.startswith(b"RIFF"):
            start = datetime.strptime(path.stem, "%Y%m%d_%H%M%S")
            assert f"Recorded at {start:%H:%M:%S %d/%m/%Y} (UTC)".encode() in data[:488]
            if b"Loc Position:" in data:
                with_guano.add(path.parent)
    assert len(sites) == 2
    assert len(with_guano) == 1
    assert not list((tiny_world / "archive").rglob("labels*"))
