"""A command's process ends with its own exit code, whatever Arrow's threads still hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import psutil
import pytest

from jobs.cli import JOBS, command
from tests.conftest import World

# Output is written at the end, as in a pipe of a user's.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

# Arrow reads ahead of the first batch, and is inside Python's `read` when the program ends.
ARROW_STILL_READS = """
import io, sys, time
import pyarrow.csv

class Slow(io.BytesIO):
    reads = 0

    def read(self, *size):
        Slow.reads += 1
        time.sleep(0 if Slow.reads < 3 else 0.3)
        return super().read(*size)

rows = pyarrow.csv.open_csv(
    Slow(b"a,b\\n" + b"1,2\\n" * 1_000_000), read_options=pyarrow.csv.ReadOptions(block_size=1 << 16)
)
print(len(rows.read_next_batch()) > 0)
"""
LEAVE = "from jobs.cli import leave; leave(2)"


def end(program: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", program]
    return subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, env=BUFFERED)


def test_a_thread_of_arrow_that_still_reads_changes_no_exit_code() -> None:
    run = end(ARROW_STILL_READS + LEAVE)
    assert (run.returncode, run.stdout, run.stderr) == (2, "True\n", "")


def test_ray_ends_with_the_process() -> None:
    start = "import psutil; from jobs.shared import cluster; cluster.connect();"
    run = end(start + "print(*(child.pid for child in psutil.Process().children()));" + LEAVE)
    assert (run.returncode, run.stderr) == (2, "")
    started = set(map(int, run.stdout.split()))
    assert len(started) > 1

    def alive() -> set[int]:
        running = psutil.process_iter(["pid", "status"])  # nobody may wait for a process whose parent is gone
        return {one.pid for one in running if one.info["status"] != psutil.STATUS_ZOMBIE} & started

    until = time.monotonic() + 10
    while alive() and time.monotonic() < until:
        time.sleep(0.1)
    assert alive() == set()


def test_output_that_cannot_be_written_is_said() -> None:
    with open("/dev/full", "w") as full:
        run = end("print('much');" + LEAVE, stdout=full.fileno())
    assert run.returncode == 1
    assert run.stderr == "songsight: error: what was printed cannot be written: No space left on device\n"


def test_a_reader_that_goes_away_ends_a_command_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys, time; print('much'); sys.stdin.read();" + LEAVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=BUFFERED,
    ) as run:
        for end_of_pipe in (run.stdout, run.stdin):
            assert end_of_pipe
            end_of_pipe.close()
        assert run.stderr
        assert (run.stderr.read(), run.wait(60)) == ("", 141)


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2), (["anotate"], 2), (["gallery", "--out"], 2)])
def test_the_commands_process_ends_with_its_code(words: list[str], code: int) -> None:
    run = end(ARROW_STILL_READS + f"sys.argv[1:] = {words}\nfrom jobs.cli import command; command()")
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("module", ["cli", *JOBS])
def test_each_module_that_is_run_ends_so(module: str) -> None:
    run_it = f"import runpy; sys.argv[1:] = ['--nonsense']; runpy.run_module('jobs.{module}', run_name='__main__')"
    run = end(ARROW_STILL_READS + run_it)
    assert run.returncode == 2, run.stderr
    assert "error: " in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, id="TERM"),
        pytest.param(signal.SIGHUP, 129, id="HUP", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, id="INT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_job_in_one_line_and_the_same_command_goes_on(
    number: int, code: int, tmp_path: Path, world: World, teacher_dir: Path
) -> None:
    words = [sys.executable, "-m", "jobs.gallery", "--images", str(world.images), "--teacher", str(teacher_dir)]
    out = tmp_path / "gallery"
    words += ["--out", str(out)]
    environment = {name: value for name, value in BUFFERED.items() if name != "RAY_ADDRESS"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}

    def heed_all() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests themselves were started by

    with subprocess.Popen(words, preexec_fn=heed_all, **pipes) as driver:  # type: ignore[call-overload]
        until = time.monotonic() + 60
        while not (out / ".claim").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1.5 if number == signal.SIGTERM else 0.0)  # Ray has a handler of its own when it has begun
        driver.send_signal(number)
        said, complained = driver.communicate(timeout=60)
    assert driver.returncode == code, complained
    assert said == ""
    last = f"songsight gallery: interrupted: --out {out} is not finished; give the same command again"
    assert complained.splitlines()[-1] == last
    assert not out.exists()  # the claim is given back, and nothing else was there


FULL = """
import ray, sys
from jobs import cli, gallery
from jobs.shared import cluster

def full(options):
    cluster.connect()
    def write():
        with open("/dev/full", "wb", buffering=0) as sink:
            sink.write(b"much")
    ray.get(ray.remote(write).remote())

gallery.main = full
sys.argv[1:] = ["--images", "i.csv", "--out", "far/gallery"]
cli.command("gallery")
"""


def test_a_full_disk_is_one_line_that_names_the_output() -> None:
    run = end(FULL)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.splitlines() == [
        "songsight gallery: error: No space left on device: --out far/gallery is not finished; "
        "give the same command again"
    ]


TALKING = """
import sys, threading
from jobs import cli

def usage():
    thread = threading.Thread(target=print, args=("of Ray's",))
    thread.start()
    thread.join()
    return "help"

cli.usage = usage
sys.argv[1:] = ["--help"]
cli.command()
"""


def test_what_threads_print_is_no_result() -> None:
    run = end(TALKING)
    assert (run.returncode, run.stdout, run.stderr) == (0, "help\n", "of Ray's\n")


def test_what_is_installed_is_the_command() -> None:
    (script,) = entry_points(group="console_scripts", name="songsight")
    assert script.load() is command
