"""The README's recipe: a job submitted to a cluster that `ray start` made on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import World

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_S = 120


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """(the dashboard's address, the environment to talk to it with) of a cluster in a folder of its own."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: Ray keeps sockets below it
    head, dashboard, agent, grpc = free_ports(4)
    gone = ("RAY_ADDRESS", "RAY_AUTH_MODE", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment |= {
        # A node of a cluster has songsight's Python as `python`, as a user's activated environment has.
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/m.db",
    }
    ports = [f"--port={head}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    process = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--block", f"--dashboard-agent-grpc-port={grpc}", *ports],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(f"http://127.0.0.1:{agent}/api/local_raylet_healthz")
        wait_for(f"{address}/api/version")
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str) -> None:
    """Returns once something answers at a URL."""
    end = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def test_annotate_runs_as_a_submitted_job(
    cluster: tuple[str, dict[str, str]], world: World, model_dir: Path, gallery_dir: Path, tmp_path: Path
) -> None:
    address, environment = cluster
    out = tmp_path / "annotated"
    archive = tmp_path / "archive"
    archive.mkdir()
    shutil.copy(world.folder / "0-0.wav", archive / "20240514_053000.WAV")
    job = ["python", "-m", "jobs.annotate", "--archive", archive, "--gallery", gallery_dir, "--model", model_dir]
    submitted = subprocess.run(
        [BIN / "ray", "job", "submit", "--address", address, "--working-dir", REPOSITORY, "--", *job, "--out", out],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert submitted.returncode == 0, submitted.stdout
    assert "1 recordings in = 1 annotated + 0 quarantined" in submitted.stdout
    assert json.loads((out / "run.json").read_text())["annotated"] == 1
