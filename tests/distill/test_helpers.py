from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from distill import helpers

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no SCHED_IDLE")

RAY = Path(ray.__file__).parent
AGENT = str(RAY / "agent.py")
OTHER_PROGRAM = "/home/ray/agent.py"
CHILD = """
import json, sys, threading, time
from distill import helpers
for _ in range(2):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    worker = threading.Thread(target=lambda: print(json.dumps(helpers.step_aside()), flush=True))
    worker.start()
    worker.join()
"""


def started(title: str) -> subprocess.Popen[str]:
    """A process of this one's that calls itself so, with three threads."""
    command = [title, "-c", CHILD]
    pipe = subprocess.PIPE
    # By its own name Python would find its packages, not by this one.
    packages = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    made = subprocess.Popen(command, executable=sys.executable, stdin=pipe, stdout=pipe, text=True, env=packages)
    assert made.stdout
    assert made.stdout.readline() == "ready\n"
    return made


@pytest.fixture
def family() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A worker's siblings, as if this process were the raylet."""
    names = ["ray::RayTrainWorker", "ray::_StatsActor", "ray::TrainController.run", "ray::IDLE", "SynchronizationActor"]
    made = {name: started(name) for name in [*names, AGENT, OTHER_PROGRAM]}
    yield made
    for process in made.values():
        process.kill()
        process.wait()


def policies(process: subprocess.Popen[str]) -> set[int]:
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{process.pid}/task")}


def niceness(process: subprocess.Popen[str]) -> set[int]:
    threads = os.listdir(f"/proc/{process.pid}/task")
    return {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads}


def test_what_a_step_does_not_wait_for_steps_aside(family: dict[str, subprocess.Popen[str]]) -> None:
    worker = family["ray::RayTrainWorker"]
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    found = json.loads(worker.stdout.readline())
    # Other tests may have started a Ray of this process's, whose own processes are named too.
    assert {"TrainController", "_StatsActor"} <= set(found["idle"])
    assert not {"RayTrainWorker", "IDLE", "SynchronizationActor"} & set(found["idle"])
    assert "IDLE" in found["batch"]
    assert policies(family["ray::_StatsActor"]) == policies(family["ray::TrainController.run"]) == {os.SCHED_IDLE}
    assert policies(family["ray::IDLE"]) == policies(family[AGENT]) == {os.SCHED_BATCH}
    for other in ("SynchronizationActor", OTHER_PROGRAM):
        assert policies(family[other]) == {os.SCHED_OTHER}
    assert niceness(family["ray::_StatsActor"]) == niceness(family["ray::IDLE"]) == {helpers.NICENESS}
    for other in ("ray::RayTrainWorker", AGENT, OTHER_PROGRAM):
        assert niceness(family[other]) == {os.getpriority(os.PRIO_PROCESS, 0)}
    # The worker's own main thread, which listens, and its others.
    assert os.sched_getscheduler(worker.pid) == os.SCHED_BATCH
    others = set(os.listdir(f"/proc/{worker.pid}/task")) - {str(worker.pid)}
    assert {os.sched_getscheduler(int(thread)) for thread in others} == {os.SCHED_OTHER}


def test_those_of_another_ray_stay(family: dict[str, subprocess.Popen[str]]) -> None:
    """They have another parent than this process."""
    assert helpers.step_aside() == {"idle": [], "batch": []}
    assert policies(family["ray::_StatsActor"]) == {os.SCHED_OTHER}
    assert policies(family[AGENT]) == {os.SCHED_OTHER}


def test_what_cannot_be_read_is_left(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "cmdline").write_bytes(b"ray::_StatsActor\0")
    assert helpers.step_aside(tmp_path) == {"idle": [], "batch": []}


def in_a_thread(work: Callable[[], object]) -> None:
    """A thread that has become idle can't go back everywhere: not this one."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_thread_and_those_it_starts_run_when_idle() -> None:
    found: list[int] = []

    def work() -> None:
        helpers.run_when_idle()
        found.append(os.sched_getscheduler(0))
        in_a_thread(lambda: found.append(os.sched_getscheduler(0)))

    in_a_thread(work)
    assert found == [os.SCHED_IDLE] * 2
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_worker_begins_as_usual() -> None:
    found: list[int] = []

    def work() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        helpers.run_as_usual()
        found.append(os.sched_getscheduler(0))

    in_a_thread(work)
    assert found == [os.SCHED_OTHER]
