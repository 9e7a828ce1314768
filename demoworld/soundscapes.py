"""An archive as field recorders leave it: AudioMoth files by site, songs over noise, and the faults that occur.

The headers are those of the recorder's own firmware: 488 bytes, a comment of 384 and an artist of 32, and at one site
a GUANO chunk behind the samples, as newer firmware writes it.
"""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from demoworld import songs
from demoworld.species import Species

LABELS = pa.schema(
    [
        pa.field("path", pa.string()),  # relative to the archive
        pa.field("start_s", pa.float64()),  # the first syllable's begin
        pa.field("end_s", pa.float64()),  # the last syllable's end
        pa.field("scientific_name", pa.string()),
        pa.field("snr_db", pa.float64()),  # mean power of song over mean power of noise
    ]
)

_SITES = ("ridge", "creek", "mangrove", "meadow", "orchard", "cliff")
_FIRST_DAWN = datetime(2024, 5, 14, 5, 30, tzinfo=UTC)
_BETWEEN = timedelta(minutes=10)
_COMMENT_BYTES, _ARTIST_BYTES = 384, 32
_NOISE_RMS = 0.012  # of full scale: leaves 38 dB for songs
_SNRS_DB = (0.0, 5.0, 10.0, 15.0, 20.0)
_SONG_S = (2.5, 6.0)
_SECONDS_PER_SONG = 6.5
_FADE = 320  # samples
_FAULTS = ("empty", "half", "pointer", "silence")
_HEADER_BYTES = 488


def write_archive(
    folder: str, species: list[Species], seed: int = 0, sites: int = 3, files_per_site: int = 5, seconds: float = 60.0
) -> pa.Table:
    """Writes the archive: `files_per_site` good recordings a site, four faulty files and a text file in all.

    Args:
        folder: made if it does not exist.
        species: each site hears a random half of them.
        seed: the same seed writes the same bytes.
        sites: at least 1.
        files_per_site: at least 1.
        seconds: a recording's length.

    Returns:
        Who sings when, as `LABELS`; of the file that stops half way, only what it still holds.
    """
    rows: list[dict] = []
    for site_index in range(sites):
        rng = np.random.default_rng([seed, 10, site_index])
        site = _SITES[site_index % len(_SITES)] + (str(site_index) if site_index >= len(_SITES) else "")
        os.makedirs(os.path.join(folder, site), exist_ok=True)
        residents = rng.permutation(len(species))[: max(1, len(species) // 2)]
        serial = f"24{rng.integers(16**14):014X}"
        place = (round(rng.uniform(-2.0, 1.0), 6), round(rng.uniform(-79.0, -77.0), 6)) if site_index == 0 else None
        when = _FIRST_DAWN + timedelta(days=site_index)
        for _ in range(files_per_site):
            name = f"{when:%Y%m%d_%H%M%S}.WAV"
            heard, labels = soundscape([species[i] for i in residents], rng, seconds)
            rows += [{"path": f"{site}/{name}"} | label for label in labels]
            _write(folder, site, name, audiomoth_wav(heard, songs.SAMPLE_RATE_HZ, when, serial, place, rng))
            when += _BETWEEN
        # The faults go round the sites, each in the next slot of the recorder's schedule.
        for fault in _FAULTS[site_index::sites]:
            name = f"{when:%Y%m%d_%H%M%S}.WAV"
            heard, labels = soundscape([species[i] for i in residents], rng, seconds)
            whole = audiomoth_wav(heard, songs.SAMPLE_RATE_HZ, when, serial, place, rng)
            if fault == "empty":
                data = b""
            elif fault == "half":
                data = whole[: len(whole) // 2]
                left_s = (len(data) - _HEADER_BYTES) / 2 / songs.SAMPLE_RATE_HZ
                rows += [{"path": f"{site}/{name}"} | label for label in labels if label["end_s"] <= left_s]
            elif fault == "pointer":
                data = _lfs_pointer(whole, rng)
            else:
                data = audiomoth_wav(np.zeros_like(heard), songs.SAMPLE_RATE_HZ, when, serial, place, rng)
            _write(folder, site, name, data)
            when += _BETWEEN
    first = _SITES[0]
    notes = (
        "Recorder strapped to the dead oak, 1.6 m up, facing north-east.\nBatteries changed 14 May. Ants in the case.\n"
    )
    _write(folder, first, "notes.txt", notes.encode())
    return pa.Table.from_pylist(rows, schema=LABELS)


def soundscape(
    species: list[Species], rng: np.random.Generator, seconds: float, sample_rate: int = songs.SAMPLE_RATE_HZ
) -> tuple[np.ndarray, list[dict]]:
    """One recording: birds that come and go and sing over each other, over noise.

    Returns:
        int16 [seconds * sample_rate], and a row of `LABELS` less the path for every song.
    """
    total = round(seconds * sample_rate)
    heard = songs.noise(rng, seconds, sample_rate)
    labels = []
    # A few birds hold the place for the length of a recording, so that a species is heard more than once.
    present = rng.choice(len(species), size=min(4, len(species)), replace=False)
    for _ in range(max(1, round(seconds / _SECONDS_PER_SONG))):
        bird = species[rng.choice(present)]
        length = min(rng.uniform(*_SONG_S), 0.8 * seconds)
        snr_db = float(rng.choice(_SNRS_DB))
        song = songs.at_snr(songs.sing(bird, rng, length, sample_rate), snr_db)
        song[-_FADE:] *= np.linspace(1, 0, _FADE, dtype=np.float32)  # a bird stops; a cut would click
        start, stop = songs.extent(song)
        at = int(rng.integers(0, total - len(song)))
        heard[at : at + len(song)] += song
        labels.append(
            {
                "start_s": round((at + start) / sample_rate, 4),
                "end_s": round((at + stop) / sample_rate, 4),
                "scientific_name": bird.scientific_name,
                "snr_db": snr_db,
            }
        )
    loud = _NOISE_RMS * 32767 * heard
    return np.clip(np.round(loud), -32768, 32767).astype(np.int16), sorted(labels, key=lambda label: label["start_s"])


def audiomoth_wav(
    samples: np.ndarray,
    sample_rate: int,
    start: datetime,
    serial: str,
    place: tuple[float, float] | None,
    rng: np.random.Generator,
) -> bytes:
    """A recording's bytes as AudioMoth firmware writes them.

    Args:
        samples: int16 [n], mono.
        sample_rate: Hz.
        start: in UTC, to which the recorder is set.
        serial: the recorder's number, 16 hexadecimal digits.
        place: latitude and longitude in degrees: newer firmware, which writes GUANO too. None: older firmware.
        rng: battery and temperature.
    """
    volts, celsius = rng.uniform(3.8, 4.6), rng.uniform(9.0, 26.0)
    comment = (
        f"Recorded at {start:%H:%M:%S %d/%m/%Y} (UTC) by AudioMoth {serial} at medium gain while battery was "
        f"{volts:.1f}V and temperature was {celsius:.1f}C."
    )
    guano = b""
    if place is not None:
        text = (
            f"GUANO|Version:1.0\nMake:Open Acoustic Devices\nModel:AudioMoth\nSerial:{serial}\n"
            f"Firmware Version:AudioMoth-Firmware-Basic (1.11.0)\nTimestamp:{start:%Y-%m-%dT%H:%M:%S}Z\n"
            f"Loc Position:{place[0]:.6f} {place[1]:.6f}\nOAD|Loc Source:GPS\n"
            f"Original Filename:{start:%Y%m%d_%H%M%S}.WAV\nOAD|Recording Settings:{sample_rate} GAIN 2\n"
            f"OAD|Battery Voltage:{volts:.1f}\nTemperature Int:{celsius:.1f}"
        ).encode()
        guano = b"guan" + struct.pack("<I", len(text)) + text
    data = samples.astype("<i2").tobytes()
    information = (
        b"INFO"
        + b"ICMT" + struct.pack("<I", _COMMENT_BYTES) + comment.encode().ljust(_COMMENT_BYTES, b"\0")
        + b"IART" + struct.pack("<I", _ARTIST_BYTES) + f"AudioMoth {serial}".encode().ljust(_ARTIST_BYTES, b"\0")
    )  # fmt: skip
    body = (
        b"WAVE"
        + b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
        + b"LIST" + struct.pack("<I", len(information)) + information
        + b"data" + struct.pack("<I", len(data)) + data
        + guano
    )  # fmt: skip
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _lfs_pointer(whole: bytes, rng: np.random.Generator) -> bytes:
    """What git leaves where a large file was never fetched."""
    digest = rng.bytes(32).hex()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(whole)}\n".encode()


def _write(folder: str, site: str, name: str, data: bytes) -> None:
    with open(os.path.join(folder, site, name), "wb") as handle:
        handle.write(data)
