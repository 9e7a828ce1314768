"""An archive that takes some seconds to annotate, and what two runs over it have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from inference.annotate import publish

RATE_HZ = 16_000


def sing(path: Path, seconds: float, seed: int) -> None:
    """Writes a recording of tones that come and go."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wave = 0.02 * rng.standard_normal(len(time_s))
    for pitch_hz, tempo_hz in zip(rng.uniform(400, 7000, 3), rng.uniform(0.05, 0.5, 3), strict=True):
        wave += 0.3 * np.sin(2 * np.pi * pitch_hz * time_s) * (np.sin(2 * np.pi * tempo_hz * time_s) > 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave.astype(np.float32), RATE_HZ)


def fill(folder: Path, first: int, count: int, seconds: float = 20.0) -> None:
    """Adds recordings of three sites and two days, numbered from `first`."""
    for number in range(first, first + count):
        day, minute = 14 + number % 2, number // 2
        sing(folder / f"site-{number % 3}" / f"202405{day}_05{minute:02}00.wav", seconds, number)


def rows(out: Path | str) -> list[dict[str, Any]]:
    """The hits in order, without the run's name."""
    found = [row | {"run_id": None} for row in publish.read_hits(str(out)).to_pylist()]
    return sorted(found, key=lambda row: (row["recording"], row["start_s"], row["rank"]))


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Equal rows; scores but for the order of sums, since windows of two recordings may share a batch."""

    def words(some: list[dict[str, Any]]) -> list[Any]:
        return [row | {"score": None, "images": [image["image_id"] for image in row["images"]]} for row in some]

    def scores(some: list[dict[str, Any]]) -> list[float]:
        return [score for row in some for score in [row["score"], *(image["score"] for image in row["images"])]]

    assert len(one) == len(other)
    assert words(one) == words(other)
    np.testing.assert_allclose(scores(one), scores(other), atol=1e-5)
