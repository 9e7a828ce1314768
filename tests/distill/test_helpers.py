from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill import helpers

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no SCHED_IDLE")

CHILD = """
import sys, threading, time
from distill import helpers
for _ in range(2):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(*helpers.step_aside(), flush=True)
"""


def started(title: str) -> subprocess.Popen[str]:
    """A process of this one's that calls itself so, with three threads."""
    command = [title, "-c", CHILD]
    pipe = subprocess.PIPE
    made = subprocess.Popen(command, executable=sys.executable, stdin=pipe, stdout=pipe, text=True)
    assert made.stdout
    assert made.stdout.readline() == "ready\n"
    return made


@pytest.fixture
def family() -> Iterator[dict[str, subprocess.Popen[str]]]:
    names = ["ray::RayTrainWorker", "ray::_StatsActor", "ray::TrainController.run", "ray::IDLE", "SynchronizationActor"]
    made = {name: started(name) for name in names}
    yield made
    for process in made.values():
        process.kill()
        process.wait()


def policies(process: subprocess.Popen[str]) -> set[int]:
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{process.pid}/task")}


def test_only_helpers_of_the_same_ray_step_aside(family: dict[str, subprocess.Popen[str]]) -> None:
    worker = family["ray::RayTrainWorker"]
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    assert sorted(worker.stdout.readline().split()) == ["TrainController", "_StatsActor"]
    changed = {name for name, process in family.items() if policies(process) == {os.SCHED_IDLE}}
    assert changed == {"ray::_StatsActor", "ray::TrainController.run"}
    same = set(family) - changed
    assert all(policies(family[name]) == {os.SCHED_OTHER} for name in same)


def test_those_of_another_ray_stay(family: dict[str, subprocess.Popen[str]]) -> None:
    """They have another parent than this process."""
    assert helpers.step_aside() == []
    assert policies(family["ray::_StatsActor"]) == {os.SCHED_OTHER}


def test_what_cannot_be_read_is_left(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "cmdline").write_bytes(b"ray::_StatsActor\0")
    assert helpers.step_aside(tmp_path) == []
