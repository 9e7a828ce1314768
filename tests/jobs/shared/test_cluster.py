from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from jobs.shared import cluster
from songsight.errors import UserError


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "https://cluster.example/api", "127.0.0.1", "head:", ":6379", "head:port"]
)
def test_an_address_that_is_no_clusters_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"RAY_ADDRESS should be a cluster's host:port"):
        cluster.connect()


def test_a_cluster_that_is_gone_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nothing else can answer there
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match="no Ray cluster answers there"):
            cluster.connect()


@pytest.mark.slow
def test_a_store_in_a_file_is_refused_where_the_work_is_on_other_nodes() -> None:
    """A head without CPUs, as cluster.yaml has: whatever trains does so on a node that is still to come."""
    ask = "from jobs.shared import cluster; cluster.connect(); cluster.require_shared('MLFLOW_TRACKING_URI', {uri!r})"
    said = {}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for cpus in (0, 1):
            for uri in ("sqlite:////data/m.db", "http://10.0.0.1:5000"):
                done = subprocess.run(
                    [sys.executable, "-c", ask.format(uri=uri)],
                    env=os.environ | {"RAY_ADDRESS": made.address},
                    capture_output=True,
                    text=True,
                    timeout=240,
                )
                said[cpus, uri[:4]] = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            made.add_node(num_cpus=1)
    finally:
        made.shutdown()
    assert said[0, "http"] == said[1, "http"] == said[1, "sqli"] == []  # another node of the same machine
    assert "workers on other nodes of the Ray cluster cannot write to this file" in said[0, "sqli"][0]


def test_a_cluster_that_was_killed_does_not_hold_up_the_next_job() -> None:
    """`ray start` notes its address down in Ray's folder; a killed cluster leaves the note."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: Ray keeps sockets below it
        Path(folder, "ray").mkdir()
        Path(folder, "ray", "ray_current_cluster").write_text("127.0.0.1:1")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        said = subprocess.run(
            [sys.executable, "-c", "from jobs.shared import cluster; cluster.connect(); print(cluster.slots(0) > 0)"],
            env=environment | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert said.stdout == "True\n", said.stderr


PLAIN = "from jobs.shared import cluster; cluster.connect(); import ray; print(ray.get(ray.remote(lambda: 7).remote()))"


@pytest.mark.parametrize("name", ["TMPDIR", "HOME"])
def test_it_starts_whatever_the_environment_is_like(name: str, tmp_path: Path) -> None:
    """Slurm's long folders for temporary files, and a container's user without a home."""
    folder = tmp_path / ("job-1355700-" + "x" * 80)
    folder.mkdir()
    value = "/dev/null/home" if name == "HOME" else str(folder)
    given = {key: old for key, old in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")} | {name: value}
    ran = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, env=given, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "7\n"), ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_longest_folder_that_is_left_to_ray_is_short_enough() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        folder = Path(above, "x" * (cluster.MOST_BYTES - len(above) - 1))
        folder.mkdir()
        given = {key: old for key, old in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH", "RAY_TMPDIR")}
        given["TMPDIR"] = str(folder)
        ran = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, env=given, timeout=120)
        assert (ran.returncode, ran.stdout) == (0, "7\n"), ran.stderr
        sockets = [len(str(path)) for path in folder.glob("ray/session_2*/sockets/*")]
        assert sockets
        assert max(sockets) <= 107 - 3  # a process's number may have three more digits


def test_a_long_folder_without_a_short_one_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)
    monkeypatch.setattr(cluster.os, "makedirs", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only")))
    with pytest.raises(UserError, match=r"set RAY_TMPDIR to a folder whose name has at most 32 bytes"):
        cluster._short_folder()
