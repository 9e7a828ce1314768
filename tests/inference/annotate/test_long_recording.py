"""A day of sound in one file costs the memory of a minute of it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

RATE_HZ = 48_000
HOURS = 24

MEASURED = """
import json, pickle, resource, sys
import psutil, pyarrow as pa, torch
from songsight.audio.reader import probe
from inference.annotate import annotator, ledger, plan
from inference.archive import inventory
from inference.archive.spans import Windows

settings = pickle.load(open(sys.argv[1], "rb"))
name = sys.argv[2]
actor = annotator.Annotator(settings)
model = actor.student
waves = torch.zeros(settings.batch_size, model.mel.clip_samples)
model.embed(waves)  # the model's own memory is what it needs for a batch
base = psutil.Process().memory_info().rss / 1024
info = probe(f"{settings.archive}/{name}")
row = {"path": name, "size_bytes": 1, "etag_or_mtime": "", "duration_s": info.duration_s, "site": "s", "reason": ""}
row |= {"sample_rate_hz": info.sample_rate_hz, "detail": "", "cut_short": ""}
seen = pa.Table.from_pylist([row], inventory.SEEN)
planned = plan.make(seen, settings.windows, ledger.gather([]))
texts = [actor.work(annotator.encode_unit(unit, facts))[0] for unit, facts in planned.each()]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
files = [file for text in texts for file in json.loads(text)["files"]]
sums = {key: sum(file[key] for file in files) for key in ("windows", "silent", "hits")}
print(json.dumps(sums | {"units": len(texts), "duration_s": info.duration_s, "format": info.format,
    "base_mb": base / 1024, "above_mb": (peak - base) / 1024, "reasons": [file["reason"] for file in files]}))
"""


def day_long(path: Path, hours: float = HOURS) -> None:
    """An RF64 of 48 kHz, 16 bit, mono: 8.3 GB for a day, sparse on the disk but for ten noisy minutes."""
    rng = np.random.default_rng(0)
    frames = round(hours * 3600 * RATE_HZ)
    held = frames * 2
    head = b"RF64" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE"
    head += b"ds64" + struct.pack("<IQQQI", 28, held + 72, held, frames, 0)
    head += b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16)
    head += b"data" + struct.pack("<I", 0xFFFFFFFF)
    with open(path, "wb") as handle:
        handle.write(head)
        for part in range(10):
            minute = rng.integers(-3000, 3000, 60 * RATE_HZ, dtype=np.int16)
            handle.seek(len(head) + round(part / 10 * frames) // 2 * 2 * 2)
            handle.write(minute.tobytes())
        handle.truncate(len(head) + held)


@pytest.mark.slow
def test_a_day_of_rf64_fits_the_memory(gallery_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    import pickle

    from inference.annotate import annotator
    from inference.archive.spans import Windows

    folder = tmp_path / "archive"
    folder.mkdir()
    day_long(folder / "day.rf64")
    assert (folder / "day.rf64").stat().st_size > 8.2e9
    settings = annotator.Settings(
        run_id="r",
        archive=str(folder),
        out=str(tmp_path / "out"),
        model=str(model_dir),
        gallery=str(gallery_dir),
        windows=Windows(3.0, 3.0),
        top_k=1,
        min_score=-1.0,
        species=None,
        batch_size=16,
        device="cpu",
        threads=1,
    )
    (tmp_path / "settings").write_bytes(pickle.dumps(settings))
    words = [sys.executable, "-c", MEASURED, str(tmp_path / "settings"), "day.rf64"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=590)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    print(found)
    assert found["format"].startswith("RF64")
    assert found["duration_s"] == HOURS * 3600
    assert found["windows"] == HOURS * 1200
    # Ten minutes of twenty windows, and those beside them that the resampler's filter reaches into.
    assert 200 <= found["hits"] == found["windows"] - found["silent"] <= 220
    assert set(found["reasons"]) == {""}
    assert found["above_mb"] < 2000
