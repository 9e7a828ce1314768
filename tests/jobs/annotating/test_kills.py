"""Annotations whose processes are killed: they end with exactly the rows of an undisturbed run.

Each runs in processes of its own, so that nothing of the tests' Ray is hurt. Only children of those are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.jobs.annotating import archives
from tests.songsight.audio.test_reader import encode

pytestmark = pytest.mark.slow

OPTIONS = {"--min-score": "-1", "--top-k": "2", "--hop-s": "0.25", "--actors": "2", "--batch-size": "8"}
WAIT_S = 240.0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    archives.fill(folder, 0, 40, seconds=30.0)
    (folder / "site-0" / "20240514_0450.wav").write_bytes(b"")
    return folder


def command(archive: Path, gallery_dir: Path, model_dir: Path, out: Path) -> list[str]:
    words: dict[str, object] = {"--archive": archive, "--gallery": gallery_dir, "--model": model_dir, "--out": out}
    return [sys.executable, "-m", "jobs.annotate", *(str(w) for pair in (words | OPTIONS).items() for w in pair)]


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | more


@contextlib.contextmanager
def started(words: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A driver; behind the block neither it nor any of its children is left."""
    with open(log, "ab") as sink:
        driver = subprocess.Popen(words, stdout=sink, stderr=sink, env=environment(**more), start_new_session=True)
    family: set[psutil.Process] = set()
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.5):
            with contextlib.suppress(psutil.Error):
                family.update(psutil.Process(driver.pid).children(recursive=True))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield driver
    finally:
        watching.set()
        thread.join()
        for process in [*family, driver]:
            with contextlib.suppress(psutil.Error):  # psutil knows a process by its start time too, not the id alone
                process.kill()
        driver.wait()


def finished(words: list[str], log: Path, **more: str) -> str:
    """Runs a driver to its good end; returns what it said."""
    with started(words, log, **more) as driver:
        assert driver.wait(480) == 0, log.read_text()[-3000:]
    return log.read_text()


@pytest.fixture(scope="module")
def undisturbed(
    archive: Path, gallery_dir: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finished(command(archive, gallery_dir, model_dir, folder / "out"), folder / "log")
    return archives.rows(folder / "out"), json.loads((folder / "out" / "run.json").read_text())


def outcomes(out: Path) -> int:
    return len(list(out.glob(".state/*/units/*.json")))


def wait_for_outcomes(out: Path, driver: subprocess.Popen[bytes], count: int, log: Path) -> None:
    end = time.monotonic() + WAIT_S
    while outcomes(out) < count:
        assert driver.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.02)


def assert_as(undisturbed: tuple[list[dict[str, Any]], dict[str, Any]], out: Path) -> None:
    archives.assert_same(archives.rows(out), undisturbed[0])
    record = json.loads((out / "run.json").read_text())
    for key in ("run_id", "files_found", "annotated", "quarantined", "windows", "hits", "hours"):
        assert record[key] == undisturbed[1][key]
    assert len(pq.read_table(out / "recordings")) == record["files_found"]
    assert not (out / ".state").exists()


def annotators(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith("ray::") and "Annotator" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_killed_driver_goes_on(
    undisturbed: tuple[list[dict[str, Any]], dict[str, Any]],
    archive: Path,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    words = command(archive, gallery_dir, model_dir, out)
    with started(words, log) as driver:
        wait_for_outcomes(out, driver, 3, log)
        driver.kill()
        driver.wait()
    done = outcomes(out)
    assert not (out / "run.json").exists()
    assert not (out / "hits").exists()  # nobody sees half a table
    said = finished(words, log)
    assert f"{done} units were annotated by an earlier start" in said  # none of them is done again
    assert_as(undisturbed, out)
    assert "already holds this run" in finished(words, tmp_path / "again")
    # Both starts were one run of MLflow, which ended.
    mine = [
        one
        for one in mlflow.search_runs(search_all_experiments=True, output_format="list")
        if one.data.params.get("out") == str(out)
    ]
    record = json.loads((out / "run.json").read_text())
    assert [(one.info.run_id, one.info.status) for one in mine] == [(record["mlflow_run"], "FINISHED")]


DYING = """
import os, sys
from songsight.store import urls
from jobs import cli
place, write_bytes, seen = os.environ["DIE_AT"], urls.write_bytes, 0
def die(url, data):
    global seen
    seen += place in url
    if seen == (3 if place == "/hits/site" else 1):
        os.kill(os.getpid(), 9)
    write_bytes(url, data)
urls.write_bytes = die
cli.run_job("annotate", sys.argv[1:])
"""


@pytest.mark.parametrize("place", ["/hits/site", "/recordings/", "/run.json"])
def test_a_driver_killed_while_it_publishes_goes_on(
    undisturbed: tuple[list[dict[str, Any]], dict[str, Any]],
    archive: Path,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
    place: str,
) -> None:
    """Between two files of hits, before the table of recordings and before `run.json`."""
    out, log = tmp_path / "out", tmp_path / "log"
    words = command(archive, gallery_dir, model_dir, out)
    with started([sys.executable, "-c", DYING, *words[3:]], log, DIE_AT=place) as driver:
        assert driver.wait(480) == -9, log.read_text()[-3000:]
    assert len(list(out.glob("hits/*/*/*.parquet"))) == (2 if place == "/hits/site" else 6)
    assert not (out / "run.json").exists()
    assert " windows in " not in finished(words, tmp_path / "again")  # none is heard again
    assert_as(undisturbed, out)


def test_a_killed_annotator_is_replaced(
    undisturbed: tuple[list[dict[str, Any]], dict[str, Any]],
    archive: Path,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with started(command(archive, gallery_dir, model_dir, out), log) as driver:
        for count in (2, 5):
            wait_for_outcomes(out, driver, count, log)
            victims = annotators(driver)
            assert victims
            victims[0].kill()
        assert driver.wait(480) == 0, log.read_text()[-3000:]
    assert_as(undisturbed, out)


@pytest.fixture(scope="module")
def long(
    gallery_dir: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """An archive of one recording that only decodes from its start, and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("long")
    archives.sing(folder / "long.wav", 900.0, seed=1)
    (folder / "archive").mkdir()
    samples, rate_hz = soundfile.read(folder / "long.wav", dtype="float32", always_2d=True)
    encode(folder / "archive" / "long.mka", samples, "libopus", rate_hz)
    finished(command(folder / "archive", gallery_dir, model_dir, folder / "whole"), folder / "log")
    whole = archives.rows(folder / "whole"), json.loads((folder / "whole" / "run.json").read_text())
    return folder / "archive", whole


@pytest.mark.parametrize("victim", ["driver", "annotator"])
def test_of_a_long_recording_only_what_was_in_flight_is_heard_again(
    long: tuple[Path, tuple[list[dict[str, Any]], dict[str, Any]]],
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
    victim: str,
) -> None:
    """Such a recording is one unit: seconds of it are lost, not all that was done."""
    archive, whole = long
    out, log = tmp_path / "out", tmp_path / "killed"
    words = command(archive, gallery_dir, model_dir, out)
    with started(words, log) as driver:
        wait_for_outcomes(out, driver, 2, log)
        before = [json.loads(path.read_text()) for path in out.glob(".state/*/units/*.json")]
        if victim == "annotator":
            annotators(driver)[0].kill()
            assert driver.wait(480) == 0, log.read_text()[-3000:]
        else:
            driver.kill()
            driver.wait()
    done = sum(file["windows"] for outcome in before for file in outcome["files"])
    assert done > 200
    if victim == "driver":
        said = finished(words, tmp_path / "again")
        (heard,) = re.findall(r"([\d,]+) windows in", said)
        assert int(heard.replace(",", "")) <= whole[1]["windows"] - done
    assert_as(whole, out)


def test_a_lost_node_is_survived(
    undisturbed: tuple[list[dict[str, Any]], dict[str, Any]],
    archive: Path,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    """The raylet of one of two nodes is killed, and with it the annotator there and what its object store held."""
    out, log = tmp_path / "out", tmp_path / "log"
    words = command(archive, gallery_dir, model_dir, out)
    with cluster_of_two() as (address, kill_second), started(words, log, RAY_ADDRESS=address) as driver:
        wait_for_outcomes(out, driver, 3, log)
        kill_second()
        assert driver.wait(480) == 0, log.read_text()[-3000:]
    assert_as(undisturbed, out)


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 2, "temp_dir": sys.argv[1], "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
raylet = second.all_processes["raylet"][0].process.pid
print(cluster.address, raylet, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextlib.contextmanager
def cluster_of_two() -> Iterator[tuple[str, Callable[[], None]]]:
    """Two raylets on this machine, in a folder of their own; yields the address, and what kills the second."""
    folder = tempfile.mkdtemp(prefix="sg-ray-")  # sockets' names have few characters
    with started_cluster(folder) as (process, line):
        address, raylet = line.split()
        yield address, psutil.Process(int(raylet)).kill
        process.communicate(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started_cluster(folder: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = [sys.executable, "-c", CLUSTER, folder]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    family: list[psutil.Process] = []
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line, "the cluster did not start"
        family = psutil.Process(process.pid).children(recursive=True)
        yield process, line
    finally:
        for child in family:
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.kill()
        process.wait()


CRASHING = """
import os, sys
from inference.annotate import annotator
real = annotator.open_audio
def crash(url, frames):
    if url.endswith("poison.wav"):
        os.kill(os.getpid(), 9)
    return real(url, frames)
annotator.open_audio = crash
import pickle
settings, unit = pickle.load(open(sys.argv[1], "rb"))
print(annotator.Annotator(settings).work(unit)[0])
"""


def test_a_file_that_ends_the_process_is_passed_over(gallery_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    """A decoder's bug that ends the whole process costs one file, not the run."""
    import pickle

    import pyarrow as pa

    from inference.annotate import annotator, ledger, plan
    from inference.archive import inventory as archive
    from inference.archive.spans import Windows

    folder = tmp_path / "archive"
    archives.fill(folder, 0, 3, seconds=13.0)
    shutil.copy(folder / "site-1" / "20240515_050000.wav", folder / "site-1" / "poison.wav")
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav"))
    rows = [
        {"path": path, "size_bytes": 1, "etag_or_mtime": "", "duration_s": 13.0, "sample_rate_hz": 16000, "site": "s"}
        | {"reason": "", "detail": "", "cut_short": ""}
        for path in paths
    ]
    planned = plan.make(pa.Table.from_pylist(rows, archive.SEEN), Windows(3.0, 3.0), ledger.gather([]))
    ((unit, facts),) = planned.each()
    out = tmp_path / "out"
    settings = annotator.Settings(
        run_id="r",
        archive=str(folder),
        out=str(out),
        model=str(model_dir),
        gallery=str(gallery_dir),
        windows=Windows(3.0, 3.0),
        top_k=1,
        min_score=-1.0,
        species=None,
        batch_size=8,
        device="cpu",
        threads=1,
    )
    (tmp_path / "unit").write_bytes(pickle.dumps((settings, annotator.encode_unit(unit, facts))))
    ends = []
    for _ in range(8):
        ran = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path / "unit")], capture_output=True, text=True)
        ends.append(ran.returncode)
        if ran.returncode == 0:
            break
    assert ends == [-9, -9, -9, -9, 0], ran.stderr  # two side by side, two with care, then without it
    files = {file["path"]: file for file in json.loads(ran.stdout)["files"]}
    assert {path for path, file in files.items() if file["reason"]} == {"site-1/poison.wav"}
    assert files["site-1/poison.wav"]["reason"] == "crashed"
    assert all(file["windows"] == 5 for path, file in files.items() if path != "site-1/poison.wav")
