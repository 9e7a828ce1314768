"""Registered models are loaded and served where songsight is not installed, and those of 0.1 where it is."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import urllib.request
from importlib import metadata
from pathlib import Path

import mlflow
import numpy as np
import pytest

from jobs.distilling import register
from jobs.shared import tracking
from songsight.models import registered
from tests.conftest import World
from tests.servers import free_ports, kill_all_of, wait_for

OF_0_1 = Path(__file__).parents[1] / "fixtures" / "registered_0_1.py"  # as songsight 0.1 logged it with its models
NAME = "songsight-elsewhere"

LOAD = """
import importlib.util, json, sys
packages, uri, *paths = sys.argv[1:]
packages = packages.split()
assert not any(importlib.util.find_spec(name) for name in packages)
import mlflow
vectors = mlflow.pyfunc.load_model(uri).predict(paths)
files = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] in packages]
print(json.dumps({"vectors": vectors.tolist(), "files": files}))
"""
# Takes away what an editable install of songsight lets Python find.
WITHOUT_SONGSIGHT = (
    'import sys\nsys.meta_path[:] = [one for one in sys.meta_path if "editable" not in one.__module__]\n'
)


@pytest.fixture(scope="module")
def uri(model_dir: Path) -> str:
    with tracking.run("distill", {}):
        return f"models:/{NAME}/{register.new_version(str(model_dir), 48, NAME)}"


@pytest.fixture(scope="module")
def path(world: World) -> str:
    return str(world.folder / "0-0.wav")


@pytest.fixture(scope="module")
def vector(model_dir: Path, path: str) -> np.ndarray:
    """Of the recording, by the code of this version: [1, 48]."""
    made = registered.SongsightModel()
    made.load_context(type("Context", (), {"artifacts": {"student": str(model_dir)}}))
    return made.predict(None, [path])


def test_it_brings_our_code_and_names_the_rest(uri: str, path: str, vector: np.ndarray, tmp_path: Path) -> None:
    words = [sys.executable, "-S", "-c", LOAD, " ".join(registered.CODE), uri, path]  # -S: no editable installs
    env = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    said = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    np.testing.assert_allclose(found["vectors"], vector, atol=1e-5)
    needed = set()
    for file in found["files"]:
        for node in ast.parse(Path(file).read_text()).body:
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                needed.add(node.module.partition(".")[0])
    distributions = metadata.packages_distributions()
    needed = {distributions[name][0] for name in needed - sys.stdlib_module_names - {*registered.CODE}}
    asked = Path(mlflow.artifacts.download_artifacts(f"{uri}/requirements.txt", dst_path=str(tmp_path))).read_text()
    pinned = dict(line.split("==") for line in asked.splitlines())
    assert needed <= pinned.keys()
    assert {"torch", "soundfile", "s3fs"} <= pinned.keys()
    assert not any("songsight" in name or "+" in version for name, version in pinned.items())


@pytest.mark.slow
def test_it_is_served(uri: str, path: str, vector: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SONGSIGHT)
    (port,) = free_ports(1)
    bin_dir = Path(sys.executable).parent
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}"}
    command = [bin_dir / "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--port", str(port)]
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping")
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": [path]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            np.testing.assert_allclose(json.load(answer)["predictions"], vector, atol=1e-5)
    finally:
        kill_all_of(server)


def test_a_model_of_0_1_is_loaded(model_dir: Path, path: str, vector: np.ndarray, tmp_path: Path) -> None:
    """It has none of our code: what its file imports of songsight has to stay where it was."""
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=str(OF_0_1),
        artifacts={"student": str(model_dir)},
        signature=registered.signature(48),
        pip_requirements=["songsight"],
    )
    assert not (tmp_path / "model" / "code").exists()
    imported = set(re.findall(r"from (distill\S*) import", (tmp_path / "model" / OF_0_1.name).read_text()))
    assert imported == {"distill", "distill.audio", "distill.padding"}
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.predict([path]), vector, atol=1e-5)
