"""The recipe of docs/cluster.md to try a cluster on this machine, as it stands there but for ports and folders."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import doc_blocks
from tests.conftest import World
from tests.servers import free_ports

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = "source .venv/bin/activate"
STOP = "ray stop"  # ends every Ray of this machine, those of others too


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short, for Ray keeps sockets in it; what runs with it as `RAY_TMPDIR` is ended."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as name:
        yield Path(name)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == name:
                    process.kill()


def recipe(changed: dict[str, str]) -> str:
    """The commands of the page, each part of which is put in its place exactly once."""
    script = next(block.text for block in doc_blocks.blocks("docs/cluster.md") if STOP in block.text)
    for old, new in changed.items():
        assert script.count(old) == 1, (old, script)
        script = script.replace(old, new)
    return script


@pytest.mark.slow
@pytest.mark.parametrize("token", [secrets.token_hex(32), None], ids=["after a local Ray", "on a fresh machine"])
def test_the_recipe(
    token: str | None, folder: Path, world: World, model_dir: Path, gallery_dir: Path, tmp_path: Path
) -> None:
    home, out, archive = tmp_path / "home", tmp_path / "annotated", tmp_path / "archive"
    (home / ".ray").mkdir(parents=True)
    if token:
        (home / ".ray" / "auth_token").write_text(token)
    archive.mkdir()
    shutil.copy(world.folder / "0-0.wav", archive / "20240514_053000.WAV")
    head, dashboard, agent, grpc = free_ports(4)
    ports = f"--port={head} --dashboard-port={dashboard} --dashboard-agent-listen-port={agent}"
    answers = f"until (: </dev/tcp/127.0.0.1/{dashboard} && : </dev/tcp/127.0.0.1/{agent}) 2>&-; do sleep 1; done"
    script = recipe(
        {
            ENVIRONMENT: f"export PATH={BIN}:$PATH",
            "ray start --head": f"ray start --head {ports} --dashboard-agent-grpc-port={grpc}; {answers}",
            "http://127.0.0.1:8265": f"http://127.0.0.1:{dashboard}",
            "$PWD/demo-out/archive": str(archive),
            "$PWD/demo-out/gallery": str(gallery_dir),
            "$PWD/demo-out/model": str(model_dir),
            "/tmp/annotated": str(out),
            STOP: "",
        }
    )
    gone = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment |= {"HOME": str(home), "RAY_TMPDIR": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/m.db"}
    with (tmp_path / "said").open("w+") as said:  # no pipe: what `ray start` leaves running would keep it open
        command = ["bash", "-ec", script]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=said, stderr=said, timeout=500)
        said.seek(0)
        lines = said.read()
    assert done.returncode == 0, lines
    assert "1 recordings in = 1 annotated + 0 quarantined" in lines
    assert json.loads((out / "run.json").read_text())["annotated"] == 1
    if token:
        assert (home / ".ray" / "auth_token").read_text() == token
