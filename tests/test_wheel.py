"""What `uv build` makes: a wheel of the packages alone, which runs from any folder, whatever lies there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import World

ROOT = Path(__file__).parents[1]
PACKAGES = ("songsight", "distill", "inference", "jobs", "demoworld")
PLACES = (ROOT / ".uv" / "bin" / "uv", Path(sys.executable).parents[2] / ".uv" / "bin" / "uv", shutil.which("uv"))
OURS = ("PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS", "MLFLOW_TRACKING_URI")
"""Settings of the tests' environment that a stranger's has not."""

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    """What a command prints, in a stranger's environment."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> Path:
    """uv, which `make setup` installs beside the environment."""
    for place in PLACES:
        if place and Path(place).exists():
            return Path(place)
    pytest.skip("needs uv, which `make setup` puts into .uv")


@pytest.fixture(scope="module")
def wheel(uv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that git knows, built by way of a source distribution as `uv build` does."""
    source = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in run(*listed, cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(uv, "build", "--quiet", "--build-constraints", "constraints.txt", "--out-dir", "dist", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(uv: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that the wheel was installed into, with what it asks for and nothing else."""
    fresh = tmp_path_factory.mktemp("fresh")
    run(uv, "venv", "--quiet", "--python", sys.executable, fresh, cwd=fresh)
    python = fresh / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt", wheel, cwd=fresh)
    return python


def test_it_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        asked = message_from_bytes(archive.read(about))
    info = about.removesuffix("METADATA")
    files = [file for package in PACKAGES for kind in ("*.py", "*.j2") for file in (ROOT / package).rglob(kind)]
    ours = {str(file.relative_to(ROOT)) for file in files}
    assert {name for name in names if not name.startswith(info)} == ours
    assert any(name.endswith(".j2") for name in ours)
    assert asked["Version"] == metadata.version("songsight")
    assert not [line for line in asked.get_all("Requires-Dist", []) if "pytest" in line and "extra" not in line]


def test_it_runs_from_any_folder(
    python: Path, world: World, model_dir: Path, gallery_dir: Path, tmp_path: Path
) -> None:
    """A user's own modules have the names of ours; none of them is run."""
    for name in (*(f"{package}.py" for package in PACKAGES if package != "jobs"), "jobs/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"open({str(tmp_path / 'was-run')!r}, 'a').write({name!r})\nraise OSError\n")
    (tmp_path / "sounds" / "Parus major").mkdir(parents=True)
    shutil.copy(world.folder / "2-0.wav", tmp_path / "sounds" / "Parus major")
    songsight = python.with_name("songsight")
    assert run(songsight, "--version", cwd=tmp_path) == f"songsight {metadata.version('songsight')}\n"
    assert "annotate" in run(songsight, "--help", cwd=tmp_path)
    made = run(songsight, "manifest", "--source", "folder", "--root", "sounds", "--out", "made.parquet", cwd=tmp_path)
    assert "recordings: 1 rows of 1 species" in made
    given = ("--archive", "sounds", "--gallery", gallery_dir, "--model", model_dir, "--out", "annotated")
    assert "1 recordings in = 1 annotated" in run(songsight, "annotate", *given, cwd=tmp_path)
    assert json.loads((tmp_path / "annotated" / "run.json").read_text())["hits"] > 0
    assert "report.html" in run(songsight, "report", "--annotated", "annotated", cwd=tmp_path)
    embed = f"import songsight; print(songsight.load({str(model_dir)!r}).embed(['sounds/Parus major/2-0.wav']).shape)"
    assert run(python, "-P", "-c", embed, cwd=tmp_path) == "(1, 48)\n"
    assert not (tmp_path / "was-run").exists(), (tmp_path / "was-run").read_text()
