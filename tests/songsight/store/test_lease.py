from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import s3fs

from songsight.errors import JobError, UserError
from songsight.store import lease, urls
from tests.servers import free_ports, kill_all_of, wait_for

HOLDING = """
import sys, time
from songsight.store import lease
with lease.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """On a store that knows conditional requests."""
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        try:
            wait_for(f"http://127.0.0.1:{port}/moto-api/")
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir("bucket")
            yield "s3://bucket"
        finally:
            kill_all_of(server)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["disk", "S3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "somewhere" / "out")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def claim(out: str) -> lease.Holder:
    found = lease.Holder.parse(urls.read_bytes(urls.join(out, lease.NAME)))
    assert found
    return found


def write_claim(out: str, holder: lease.Holder) -> None:
    urls.write_bytes(urls.join(out, lease.NAME), json.dumps(asdict(holder)).encode())


def files(out: str) -> list[str]:
    fs, path = urls.filesystem(out)
    fs.invalidate_cache()
    return [name.rsplit("/", 1)[1] for name in fs.find(path)]


def test_of_two_runs_one_is_refused_in_a_line_and_changes_nothing(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = {"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_7"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    with lease.held(out):
        who = claim(out)
        with pytest.raises(UserError) as refused, lease.held(out, "--out"):
            raise AssertionError("two runs")
        told = str(refused.value)
        assert "\n" not in told
        assert f"--out {out}: another run is at it (host {socket.gethostname()}, process {os.getpid()}, " in told
        assert "Ray job raysubmit_7, since 20" in told
        assert claim(out) == who
        assert files(out) == [lease.NAME]
        lease.check()
    assert files(out) == []
    with lease.held(out):
        pass


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bad input"), lease.held(str(tmp_path / "a" / "b")):
        raise UserError("bad input")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_frees_it_at_once(out: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDING, out], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {process.pid}, since"), lease.held(out):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lease.held(out):
        assert claim(out).pid == os.getpid()


def test_another_hosts_claim_is_free_when_it_is_not_renewed(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_claim(out, replace(lease.Holder.here(), host="node-7", pid=2**22 + 1))
    with pytest.raises(UserError, match="host node-7, process 4194305, since"), lease.held(out):
        pass
    monkeypatch.setattr(lease, "FREE_S", 2.0)
    time.sleep(3.1)  # a store's times may be whole seconds
    with lease.held(out):
        assert claim(out).host == socket.gethostname()


def test_a_number_that_was_given_anew_is_another_process(out: str) -> None:
    here = lease.Holder.here()
    write_claim(out, replace(here, started_s=here.started_s - 3600))
    with lease.held(out):
        pass
    # In a container the same number is another process, which cannot be looked at from here.
    write_claim(out, replace(here, first_s=here.first_s - 3600, pid=2**22 + 1))
    with pytest.raises(UserError, match="another run"), lease.held(out):
        pass


def test_who_lost_it_publishes_nothing(out: str) -> None:
    with lease.held(out):
        lease.check()
        write_claim(out, replace(lease.Holder.here(), host="node-7"))
        with pytest.raises(JobError, match=r"--out .* lost its claim there; now it is host node-7, process"):
            lease.check()
    assert claim(out).host == "node-7"  # which is not this run's to give back
    lease.check()


def test_it_is_renewed(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_S", 0.2)
    with lease.held(out):
        first = lease.Lease._modified(urls.join(out, lease.NAME))
        time.sleep(2.5)
        then = lease.Lease._modified(urls.join(out, lease.NAME))
    assert first
    assert then
    assert then > first


def test_a_store_without_conditions_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another wrote at the same moment counts, if it came last."""
    monkeypatch.setattr(lease, "SETTLED_S", 0.3)
    monkeypatch.setattr(lease.Lease, "_create", lambda self: False)
    out = str(tmp_path)
    with lease.held(out):
        assert claim(out).pid == os.getpid()
    other = replace(lease.Holder.here(), host="node-7")
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: write_claim(out, other))
    with pytest.raises(UserError, match="host node-7"), lease.held(out):
        pass


def test_a_folder_that_cannot_be_written_is_a_line_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; give a folder"), lease.held(str(tmp_path / "file")):
        pass
    with lease.held(str(tmp_path / "file"), or_read_only=True):
        lease.check()


@pytest.mark.parametrize(
    "changed", [{"pid": "abc"}, {"pid": 10**30}, {"first_s": "x"}, {"since": 5}, {"started_s": None}]
)
def test_a_claim_of_another_kind_is_somebodys_until_it_is_old(
    changed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / lease.NAME).write_text(json.dumps(asdict(lease.Holder.here()) | changed))
    with pytest.raises(UserError, match="one that has just begun"), lease.held(str(tmp_path)):
        pass
    monkeypatch.setattr(lease, "SETTLED_S", 0.0)
    os.utime(tmp_path / lease.NAME, (1e9, 1e9))
    with lease.held(str(tmp_path)):
        pass
