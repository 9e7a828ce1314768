"""The demo world on disk: recordings, photographs, an archive, and the tables that describe them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import repeat
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import soundfile

from demoworld import pictures, songs, soundscapes
from demoworld.species import Species, make_species
from songsight.store import tables

CLIP_S = 3.0

_RECORDING, _IMAGE = 1, 2  # keep the two kinds' random streams apart
_SNR_DB = (0.0, 25.0)
_DESCRIBED = 0.85  # share of recordings with a caption about the sound itself, beside one of each name
_CHUNK = 48
_CREDITS = {"license": "CC0-1.0", "rights_holder": "songsight demo world", "source": "demoworld"}
_SCIENTIFIC = ("{}", "the sound of {}", "song of {}")
_COMMON = ("{}", "the sound of a {}", "a {} singing")
_DESCRIPTIVE = ("{}", "a bird with {}", "{} of a bird")


def build(
    out: str,
    seed: int = 0,
    species: int = 60,
    train: int = 20,
    val: int = 4,
    test: int = 10,
    sites: int = 3,
    files_per_site: int = 5,
    file_seconds: float = 60.0,
    processes: int = 2,
) -> None:
    """Writes `recordings/`, `images/`, `archive/` and `recordings.parquet`, `images.parquet`, `labels.parquet`.

    Args:
        out: the folder; made if it does not exist.
        seed: the same seed writes the same world.
        species: how many.
        train, val, test: recordings of each species in each split, and as many photographs.
        sites, files_per_site, file_seconds: the archive's.
        processes: how many draw and sing at once; 1 works in this process.
    """
    everyone = make_species(species, seed)
    for folder in ("recordings", "images", "archive"):
        os.makedirs(os.path.join(out, folder), exist_ok=True)
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    # One of each species, then the next of each: any first part of the tables holds every species about equally.
    plan = [(index, which, split) for index, (split, which) in enumerate(_every(splits, species))]
    chunks = [plan[start : start + _CHUNK] for start in range(0, len(plan), _CHUNK)]
    if processes == 1:
        made = list(map(_make_chunk, chunks, repeat(out), repeat(seed), repeat(everyone)))
        labels = soundscapes.write_archive(
            os.path.join(out, "archive"), everyone, seed, sites, files_per_site, file_seconds
        )
    else:
        # Spawned, not forked: whoever calls may have Ray's or torch's threads running.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            archive = pool.submit(
                soundscapes.write_archive,
                os.path.join(out, "archive"),
                everyone,
                seed,
                sites,
                files_per_site,
                file_seconds,
            )
            made = list(pool.map(_make_chunk, chunks, repeat(out), repeat(seed), repeat(everyone)))
            labels = archive.result()
    recordings = [row for chunk, _ in made for row in chunk]
    images = [row for _, chunk in made for row in chunk]
    tables.write_table(
        os.path.join(out, "recordings.parquet"), pa.Table.from_pylist(recordings, schema=tables.RECORDINGS)
    )
    tables.write_table(os.path.join(out, "images.parquet"), pa.Table.from_pylist(images, schema=tables.IMAGES))
    tables.write_table(os.path.join(out, "labels.parquet"), labels)


def _every(splits: list[str], species: int) -> Iterator[tuple[str, int]]:
    for split in splits:
        for which in range(species):
            yield split, which


def _make_chunk(
    plan: list[tuple[int, int, str]], out: str, seed: int, everyone: list[Species]
) -> tuple[list[dict], list[dict]]:
    """Makes some recordings and as many photographs: their rows for the two tables."""
    recordings, images = [], []
    for index, which, split in plan:
        bird = everyone[which]
        common = bird.names() | {"split": split} | _CREDITS
        recordings.append(
            _record(index, bird, np.random.default_rng([seed, _RECORDING, index]), out, seed, which) | common
        )
        images.append(_photograph(index, bird, np.random.default_rng([seed, _IMAGE, index]), out) | common)
    return recordings, images


def _record(index: int, bird: Species, rng: np.random.Generator, out: str, seed: int, which: int) -> dict:
    song = songs.at_snr(songs.sing(bird, rng, CLIP_S), rng.uniform(*_SNR_DB))
    heard = song + songs.noise(rng, CLIP_S)
    heard *= rng.uniform(0.3, 0.95) / np.abs(heard).max()
    path = f"recordings/{index:05d}.wav"
    samples = np.round(32767 * heard).astype(np.int16)
    soundfile.write(os.path.join(out, path), samples, songs.SAMPLE_RATE_HZ, subtype="PCM_16")
    home = np.random.default_rng([seed, 3, which]).uniform((-4.0, -80.0), (1.0, -76.0))  # the middle of its range
    latitude, longitude = home + rng.normal(0, 0.3, 2)
    dawn = datetime(int(rng.integers(2016, 2025)), 1, 1, 10, tzinfo=UTC) + timedelta(days=int(rng.integers(365)))
    return {
        "recording_id": f"recording-{index:05d}",
        "path": path,
        "start_s": 0.0,
        "end_s": CLIP_S,
        "captions": _captions(bird, rng),
        "latitude": round(latitude, 5),
        "longitude": round(longitude, 5),
        "recorded_at": dawn + timedelta(seconds=int(rng.integers(3 * 3600))),
    }


def _captions(bird: Species, rng: np.random.Generator) -> list[str]:
    captions = [
        str(rng.choice(_SCIENTIFIC)).format(bird.scientific_name),
        str(rng.choice(_COMMON)).format(bird.common_name),
    ]
    if rng.random() < _DESCRIBED:
        captions.append(str(rng.choice(_DESCRIPTIVE)).format(songs.describe(bird)))
    return captions


def _photograph(index: int, bird: Species, rng: np.random.Generator, out: str) -> dict:
    path = f"images/{index:05d}.jpg"
    pictures.render(bird, rng).save(os.path.join(out, path), quality=90)
    return {"image_id": f"image-{index:05d}", "path": path}
