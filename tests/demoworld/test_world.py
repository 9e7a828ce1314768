from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from demoworld import world
from demoworld.soundscapes import LABELS
from songsight.store import tables

from .conftest import SMALL


def test_tables_have_the_projects_schemas(tiny_world: Path):
    assert pq.read_schema(tiny_world / "recordings.parquet").equals(tables.RECORDINGS)
    assert pq.read_schema(tiny_world / "images.parquet").equals(tables.IMAGES)
    assert pq.read_schema(tiny_world / "labels.parquet").equals(LABELS)


def test_every_species_is_in_every_split(tiny_world: Path):
    for name in ("recordings", "images"):
        rows = pq.read_table(tiny_world / f"{name}.parquet").to_pylist()
        counts = Counter((row["scientific_name"], row["split"]) for row in rows)
        assert len(counts) == 12 * 3
        assert all(count == SMALL[split] for (_, split), count in counts.items())


def test_recordings_are_there_as_their_rows_say(tiny_world: Path):
    rows = pq.read_table(tiny_world / "recordings.parquet").to_pylist()
    assert len({row["path"] for row in rows}) == len({row["recording_id"] for row in rows}) == len(rows) == 60
    for row in rows:
        with soundfile.SoundFile(tiny_world / row["path"]) as file:
            assert (file.samplerate, file.channels, file.subtype) == (16_000, 1, "PCM_16")
            assert file.frames == (row["end_s"] - row["start_s"]) * 16_000
            assert np.abs(file.read(dtype="int16")).max() > 3000
        assert any(row["scientific_name"] in caption for caption in row["captions"])
        assert any(row["common_name"] in caption for caption in row["captions"])
        assert -90 <= row["latitude"] <= 90
        assert -180 <= row["longitude"] <= 180
    described = [caption for row in rows for caption in row["captions"] if row["genus"] not in caption]
    described = [caption for caption in described if any(w in caption for w in ("whistles", "trills", "buzzes"))]
    assert 0.6 < len(described) / len(rows) < 1


def test_images_open(tiny_world: Path):
    for row in pq.read_table(tiny_world / "images.parquet").to_pylist():
        with Image.open(tiny_world / row["path"]) as image:
            assert (image.size, image.mode) == ((96, 96), "RGB")


def test_labels_name_files_and_species_that_exist(tiny_world: Path):
    known = set(pq.read_table(tiny_world / "recordings.parquet")["scientific_name"].to_pylist())
    for label in pq.read_table(tiny_world / "labels.parquet").to_pylist():
        assert (tiny_world / "archive" / label["path"]).is_file()
        assert label["scientific_name"] in known
        assert 0 <= label["start_s"] < label["end_s"] <= SMALL["file_seconds"]


def test_same_seed_same_bytes_however_many_processes(tiny_world: Path, tmp_path: Path):
    world.build(str(tmp_path), seed=5, processes=2, **SMALL)
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tiny_world) for path in tiny_world.rglob("*") if path.is_file()}
    assert [name for name in files if (tmp_path / name).read_bytes() != (tiny_world / name).read_bytes()] == []


def test_another_seed_is_another_world(tiny_world: Path, tmp_path: Path):
    small = SMALL | {"species": 3, "train": 1, "val": 0, "test": 0, "sites": 1, "files_per_site": 1}
    world.build(str(tmp_path), seed=6, processes=1, **small)
    name = "recordings/00000.wav"
    assert (tmp_path / name).read_bytes() != (tiny_world / name).read_bytes()
