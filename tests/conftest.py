"""What several tests need: small models with random weights, a few recordings and photographs, one Ray for all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from songsight.store import tables
from tests import checkpoints, s3_server

SPECIES = [
    ("Turdus merula", "Eurasian Blackbird"),
    ("Turdus philomelos", "Song Thrush"),
    ("Parus major", "Great Tit"),
    ("Strix aluco", None),
]


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow writes to a folder of the tests', no test asks the network for a model, and trainings end at once."""
    before = dict(os.environ)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Ray Train looks after its workers every 2 s, which each checkpoint and each training's end waits for.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real recordings and photographs, which lie beside the project where it is developed."""
    folder = Path(os.environ.get("SONGSIGHT_SHARED") or Path(__file__).parents[2] / "shared") / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real recordings and photographs that are not part of the project: no {folder}")
    return folder


@pytest.fixture(scope="session")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ClapModel checkpoint: 16 kHz, 3 s."""
    return checkpoints.clap(tmp_path_factory.mktemp("models") / "clap")


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip checkpoint of width 48."""
    return checkpoints.open_clip_dir(tmp_path_factory.mktemp("models") / "teacher")


@dataclass(frozen=True)
class World:
    """A handful of species, each a tone of its own and a colour of its own."""

    folder: Path
    recordings: Path
    images: Path
    archive: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Recordings, photographs and an archive, with their tables."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    recordings, images = [], []
    for number, (name, common) in enumerate(SPECIES):
        for take in range(10):
            tone = np.sin(2 * np.pi * (600 + 700 * number) * np.arange(16000 * 4) / 16000)
            samples = 0.5 * tone + 0.02 * rng.standard_normal(len(tone))
            soundfile.write(folder / f"{number}-{take}.wav", samples.astype(np.float32), 16000)
            recordings.append(
                {
                    "recording_id": f"{number}-{take}",
                    "path": f"{number}-{take}.wav",
                    "scientific_name": name,
                    "common_name": common,
                    "family": "Paridae" if "Parus" in name else None,
                    "captions": [f"the song of {name}", "a bird"],
                }
                | {"split": (["train"] * 8 + ["val", "test"])[take]}
            )
        for take in range(3):
            colour = tuple(int(c) for c in rng.integers(0, 256, 3))
            Image.new("RGB", (50, 40), colour).save(folder / f"{number}-{take}.jpg")
            images.append({"path": f"{number}-{take}.jpg", "scientific_name": name, "common_name": common})
    tables.write_table(str(folder / "recordings.parquet"), pa.Table.from_pylist(recordings))
    tables.write_table(str(folder / "images.parquet"), pa.Table.from_pylist(images))
    archive = folder / "archive" / "site-a"
    archive.mkdir(parents=True)
    long = np.sin(2 * np.pi * 1300 * np.arange(16000 * 65) / 16000).astype(np.float32)
    soundfile.write(archive / "20240514_053000.wav", 0.5 * long, 16000)
    soundfile.write(archive / "short.flac", 0.5 * long[:16000], 16000)
    soundfile.write(archive / "silence.wav", np.zeros(16000 * 7), 16000)
    (archive / "empty.wav").write_bytes(b"")
    (archive / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    whole = (archive / "20240514_053000.wav").read_bytes()
    (archive / "half.wav").write_bytes(whole[: len(whole) // 2])
    (archive / "notes.txt").write_text("batteries changed")
    return World(folder, folder / "recordings.parquet", folder / "images.parquet", folder / "archive")


@pytest.fixture(scope="session")
def model_dir(clap: Path, teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student of `clap` for `teacher_dir`."""
    import torch

    from songsight.models import student, teacher

    taught_by = teacher.load(str(teacher_dir))
    torch.manual_seed(0)
    made = student.from_base(
        str(clap),
        taught_by.width,
        base_model=str(clap),
        teacher=str(teacher_dir),
        teacher_fingerprint=taught_by.fingerprint,
    )
    folder = tmp_path_factory.mktemp("models") / "student"
    student.save(made, str(folder), card="# a card")
    return folder


@pytest.fixture(scope="session")
def ray_started() -> Iterator[None]:
    """Ray on this machine, kept for all tests that need it."""
    import ray

    from jobs.shared import cluster

    # Workers import what the tests hand them.
    path = filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    cluster.connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.Store]:
    """An S3 store on this machine; skips where its Debian packages are not installed."""
    folder = tmp_path_factory.mktemp("s3")
    if why := s3_server.lacking(folder):
        pytest.skip(why)
    with s3_server.running(folder) as store:
        yield store


@pytest.fixture(scope="session")
def gallery_dir(world: World, teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory, ray_started: None) -> Path:
    """A gallery of the world's photographs, made by the job."""
    from jobs import gallery

    out = tmp_path_factory.mktemp("models") / "gallery"
    gallery.main(gallery.Options(images=str(world.images), teacher=str(teacher_dir), out=str(out)))
    return out
