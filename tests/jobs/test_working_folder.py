"""Of the folder that a command is given in: relative paths mean it, and no code of a user's own there is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import World

SONGSIGHT = Path(sys.executable).with_name("songsight")
SETTINGS = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")


@pytest.fixture(scope="module")
def folder(
    world: World, clap: Path, teacher_dir: Path, gallery_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A user's own folder: data, models, and scripts that happen to have the names of songsight's packages."""
    folder = tmp_path_factory.mktemp("own") / "folder"
    shutil.copytree(world.folder, folder)
    shutil.copytree(clap, folder / "base")
    shutil.copytree(teacher_dir, folder / "teacher")
    shutil.copytree(gallery_dir, folder / "gallery")
    for name in ("inference.py", "distill.py", "songsight.py", "demoworld.py", "jobs/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(folder / 'executed')!r}, 'a').write(__name__)\nraise OSError('mine')\n")
    return folder


def run(folder: Path, words: str) -> str:
    """Gives the installed command there; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [SONGSIGHT, *words.split()], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert not (folder / "executed").exists(), (folder / "executed").read_text()
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "\x1b" not in done.stderr  # no library's colours
    return done.stdout


@pytest.mark.slow
def test_relative_paths_mean_the_working_folder_and_nothing_there_is_run(folder: Path) -> None:
    training = "--recordings recordings.parquet --teacher teacher --student base --gallery gallery --noise archive"
    run(folder, f"distill {training} --out model --epochs 1 --batch-size 8")
    run(folder, "annotate --archive archive --gallery gallery --model model --out annotated")
    assert json.loads((folder / "annotated" / "run.json").read_text())["windows"] > 0
    run(
        folder, "evaluate --model models:/songsight@candidate --gallery gallery --recordings recordings.parquet --out e"
    )
    assert (folder / "mlflow.db").exists()
