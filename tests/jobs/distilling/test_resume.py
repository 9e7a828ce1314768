"""Trainings that are killed: they end as if they had not been, under the same MLflow run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import torch
from ray._private.node import Node
from ray.cluster_utils import Cluster

from distill.train import launch, work
from jobs.shared import tracking
from songsight.errors import JobError, UserError
from songsight.models import student
from tests.conftest import World
from tests.jobs.test_distill import curve, last_run, train
from tests.servers import free_ports, kill_all_of, wait_for

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 16, 64  # 32 training rows in batches of 8
NOTICE_S = 10
OPTIONS: dict[str, object] = {"epochs": EPOCHS, "checkpoint_every": 8, "seed": 3}


@pytest.fixture(scope="module")
def undisturbed(
    world: World, clap: Path, teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory, ray_started: None
) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    train(world, clap, teacher_dir, out, **OPTIONS)
    losses = curve(last_run().info.run_id, "loss")
    assert len(losses) == STEPS
    return out, losses


def words(world: World, clap: Path, teacher_dir: Path, out: Path) -> dict[str, object]:
    """The options of the same training on the command line."""
    return {
        "--recordings": world.recordings,
        "--teacher": teacher_dir,
        "--student": clap,
        "--out": out,
        "--batch-size": 8,
        "--lr": 1e-3,
        "--precision": "fp32",
        "--epochs": EPOCHS,
        "--checkpoint-every": 8,
        "--seed": 3,
        "--register-as": "songsight-test",
    }


def by_step(run_id: str, metric: str) -> dict[int, list[float]]:
    """Every value that was logged at a step: a resumed run logs those behind its checkpoint again."""
    found: dict[int, list[float]] = {}
    for point in mlflow.MlflowClient(tracking_uri=tracking.store()).get_metric_history(run_id, metric):
        found.setdefault(point.step, []).append(point.value)
    return found


def assert_steps(run_id: str, undisturbed: list[float], rtol: float) -> None:
    """Every step was taken, over the same rows, and none before the first checkpoint was taken twice."""
    assert by_step(run_id, "resumed_from_step")  # else it was not disturbed
    losses = by_step(run_id, "loss")
    assert sorted(losses) == list(range(1, STEPS + 1))
    # Killed behind step 9 and the checkpoint at 8: a run that began anew would have logged the first steps twice.
    assert [len(losses[step]) for step in range(1, 9)] == [1] * 8
    for step, values in losses.items():  # the same rows, texts, crops and dropout, also where steps were repeated
        np.testing.assert_allclose(values, undisturbed[step - 1], rtol=rtol)
    assert max(max(seen) for seen in by_step(run_id, "recordings_seen").values()) == STEPS * 8


def assert_as_undisturbed(run_id: str, out: Path, undisturbed: tuple[Path, list[float]]) -> None:
    assert_steps(run_id, undisturbed[1], 1e-3)
    waves = torch.randn(4, 48000, generator=torch.Generator().manual_seed(0)) * 0.1
    one, other = student.load(str(out)).embed(waves), student.load(str(undisturbed[0])).embed(waves)
    assert float((one * other).sum(-1).min()) > 0.9999


def wait_for_steps(run_ids: set[str], steps: int) -> str:
    """The id of a training's run that is not among `run_ids`, once it has taken so many steps."""
    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    end = time.monotonic() + 240
    while time.monotonic() < end:
        experiment = client.get_experiment_by_name("songsight-distill")
        for run in client.search_runs([experiment.experiment_id], max_results=1) if experiment else ():
            if run.info.run_id not in run_ids and run.data.metrics.get("recordings_seen", 0) >= steps * 8:
                return run.info.run_id
        time.sleep(0.2)
    raise AssertionError(f"no training took {steps} steps")


def own_workers() -> list[psutil.Process]:
    """Ray Train's workers below this process, and none of another Ray on this machine."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                found.append(process)
    return found


def rows_by_step(folder: Path, world_size: int) -> dict[int, list[list[int]]]:
    """Of each step the rows that were trained on, sorted, for each time that all its ranks took it.

    A rank's file is of one process; those of one attempt lie between the same two starts.
    """
    taken: dict[int, dict[int, list[list[int]]]] = {}  # step → rank → rows of each process
    for file in folder.glob("rows-*.csv"):
        rank = int(file.name.split("-")[1])
        of_step: dict[int, list[int]] = {}
        for line in file.read_text().splitlines():
            step, row = map(int, line.split(","))
            of_step.setdefault(step, []).append(row)
        for step, rows in of_step.items():
            taken.setdefault(step, {}).setdefault(rank, []).append(sorted(rows))
    for step, by_rank in taken.items():
        for rank, several in by_rank.items():
            assert all(rows == several[0] for rows in several), (step, rank)  # a repeated step takes the same rows
        assert sorted(by_rank) == list(range(world_size)), step
    return {step: [rows for several in by_rank.values() for rows in several[:1]] for step, by_rank in taken.items()}


def assert_rows_accounted(folder: Path, world_size: int) -> None:
    """Every step took the rows that the seed's order has there, each once."""
    found = rows_by_step(folder, world_size)
    assert sorted(found) == list(range(1, STEPS + 1))
    for step, shares in found.items():
        epoch, within = divmod(step - 1, 4)
        wanted = np.random.default_rng([3, epoch]).permutation(32)[within * 8 : within * 8 + 8]
        assert sorted(row for share in shares for row in share) == sorted(wanted.tolist()), step


def killing(before: set[str], which: slice, steps: int = 9) -> tuple[threading.Thread, list[int]]:
    """A thread that kills some of a training's workers behind a step, and the list of those."""
    killed: list[int] = []

    def kill() -> None:
        wait_for_steps(before, steps)
        for process in own_workers()[which]:
            killed.append(process.pid)
            process.kill()

    return threading.Thread(target=kill), killed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced(
    workers: int,
    undisturbed: tuple[Path, list[float]],
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The only worker, or one of two ranks."""
    monkeypatch.setenv(work.ROWS_TO, str(tmp_path))
    killer, killed = killing({last_run().info.run_id}, slice(0, 1))
    killer.start()
    train(world, clap, teacher_dir, tmp_path / "m", **OPTIONS, workers=str(workers))
    killer.join()
    assert len(killed) == 1
    run_id = last_run().info.run_id
    if workers == 1:
        assert_as_undisturbed(run_id, tmp_path / "m", undisturbed)
    else:
        assert_steps(run_id, undisturbed[1], 0.5)  # two workers draw other dropout than one
    assert_rows_accounted(tmp_path, workers)


def test_a_worker_that_fails_too_often_is_one_line_and_the_same_command_goes_on(
    undisturbed: tuple[Path, list[float]], world: World, clap: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    killer, killed = killing({last_run().info.run_id}, slice(None), steps=41)
    killer.start()
    with pytest.raises(JobError) as error:
        train(world, clap, teacher_dir, tmp_path / "m", **OPTIONS, max_failures=0)
    killer.join()
    assert killed
    assert "worker 0 failed once more than --max-failures allows: " in str(error.value)
    assert "\n" not in str(error.value)
    kept = [path.name for path in (tmp_path / "m" / ".train" / "run").glob("checkpoint_*") if path.is_dir()]
    assert 1 <= len(kept) <= launch.KEPT_CHECKPOINTS + 2, kept  # five were made; one comes and one goes
    train(world, clap, teacher_dir, tmp_path / "m", **OPTIONS)
    assert_as_undisturbed(last_run().info.run_id, tmp_path / "m", undisturbed)


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A server with its files in a folder."""
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'm.db'}", "--artifacts-destination", str(folder / "files")]
    command = [Path(sys.executable).parent / "mlflow", "server", *words]
    with open(folder / "server.log", "a") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield
    finally:
        kill_all_of(server)


def test_a_training_goes_on_while_mlflow_is_away(
    undisturbed: tuple[Path, list[float]],
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (port,) = free_ports(1)
    rows = tmp_path / "rows"
    rows.mkdir()
    monkeypatch.setenv(work.ROWS_TO, str(rows))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")

    def steps_taken() -> int:
        lines = [line for file in rows.glob("*.csv") for line in file.read_text().splitlines()]
        return max((int(line.split(",")[0]) for line in lines), default=0)

    def wait_until(steps: int) -> None:
        end = time.monotonic() + 240
        while steps_taken() < steps:
            assert time.monotonic() < end
            time.sleep(0.2)

    with contextlib.ExitStack() as second:
        first = contextlib.ExitStack()
        first.enter_context(mlflow_server(tmp_path, port))

        def go_and_come_back() -> None:
            wait_until(9)
            first.close()
            wait_until(min(STEPS, steps_taken() + 20))  # without it
            second.enter_context(mlflow_server(tmp_path, port))

        with first:
            away = threading.Thread(target=go_and_come_back)
            away.start()
            train(world, clap, teacher_dir, tmp_path / "m", **OPTIONS)
            away.join()
        losses = by_step(last_run().info.run_id, "loss")
        assert [losses[step] for step in range(1, STEPS + 1)] == [[pytest.approx(x, rel=1e-3)] for x in undisturbed[1]]
        assert last_run().info.status == "FINISHED"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and two more nodes, each with two CPUs, on this machine."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=2)
    yield made
    made.shutdown()


def node_of_a_worker(cluster: Cluster) -> Node:
    """A node behind the head that a Ray Train worker runs on."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    for process in psutil.process_iter(["cmdline", "ppid"]):
        name, parent = " ".join(process.info["cmdline"] or []), process.info["ppid"]
        if name.startswith("ray::RayTrainWorker") and parent in raylets:
            return raylets[parent]
    raise AssertionError("no Ray Train worker runs on a node of the cluster's")


def start_on(cluster: Cluster, options: dict[str, object]) -> subprocess.Popen:
    """`songsight distill` in a process of its own."""
    given = [str(word) for pair in options.items() for word in pair]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    return subprocess.Popen([sys.executable, "-m", "jobs.distill", *given], env=environment)


def test_a_lost_node_is_done_without(
    undisturbed: tuple[Path, list[float]],
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    cluster: Cluster,
) -> None:
    before = {last_run().info.run_id}
    given = words(world, clap, teacher_dir, tmp_path / "m") | {"--workers": "1:2"}
    driver = start_on(cluster, given)
    try:
        run_id = wait_for_steps(before, 9)
        cluster.remove_node(node_of_a_worker(cluster), allow_graceful=False)
        assert driver.wait(300) == 0
    finally:
        driver.kill()
    assert_steps(run_id, undisturbed[1], 0.5)  # two workers draw other dropout than one, and the paths part slowly


def test_an_announced_loss_of_a_node_costs_no_step_before_it(
    undisturbed: tuple[Path, list[float]],
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    cluster: Cluster,
) -> None:
    before = {last_run().info.run_id}
    longer = {"--epochs": 50, "--checkpoint-every": 10_000}  # the notice alone makes it save itself
    driver = start_on(cluster, words(world, clap, teacher_dir, tmp_path / "m") | longer)
    try:
        run_id = wait_for_steps(before, 9)
        going = node_of_a_worker(cluster)
        drain = [Path(sys.executable).parent / "ray", "drain-node", "--address", cluster.address]
        notice = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        notice += ["--node-id", going.node_id, "--deadline-remaining-seconds", str(NOTICE_S)]
        subprocess.run([*drain, *notice], check=True)
        time.sleep(NOTICE_S)
        cluster.remove_node(going, allow_graceful=False)
        assert driver.wait(400) == 0
    finally:
        driver.kill()
    losses = by_step(run_id, "loss")
    assert sorted(losses) == list(range(1, 201))
    resumed = int(next(iter(by_step(run_id, "resumed_from_step"))))
    assert resumed >= 9
    assert [len(losses[step]) for step in range(1, resumed + 1)] == [1] * resumed
    for values in losses.values():  # a step that was taken twice was the same step
        np.testing.assert_allclose(values, values[0], rtol=1e-3)


def test_a_killed_driver_goes_on_under_its_run(
    undisturbed: tuple[Path, list[float]], world: World, clap: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    before = {last_run().info.run_id}
    given = [str(word) for pair in words(world, clap, teacher_dir, out).items() for word in pair]
    driver = subprocess.Popen([sys.executable, "-m", "jobs.distill", *given], start_new_session=True)
    try:
        run_id = wait_for_steps(before, 9)
    finally:
        kill_all_of(driver)
    assert not (out / "model.safetensors").exists()
    with pytest.raises(UserError, match=r"--lr 0.002: the unfinished training in .* has 0.001"):
        train(world, clap, teacher_dir, out, **OPTIONS, lr=0.002)
    train(world, clap, teacher_dir, out, **OPTIONS)
    assert last_run().info.run_id == run_id
    assert last_run().info.status == "FINISHED"
    assert_as_undisturbed(run_id, out, undisturbed)
    assert not (out / ".train").exists()


def test_all_the_options_work_together(
    world: World, clap: Path, teacher_dir: Path, gallery_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    measures = train(
        world,
        clap,
        teacher_dir,
        tmp_path / "m",
        workers="1:2",
        objective="siglip",
        alignment=0.5,
        preserve=0.5,
        wise_ft="0,0.5,1",
        parts=2,
        freeze_stages=1,
        gain_db=6.0,
        shift_s=0.5,
        noise=str(world.folder),
        time_mask=20,
        freq_mask=6,
        gallery=str(gallery_dir),
    )
    found = last_run().data.metrics
    assert found["preserved"] > 0.5
    tried = {share: found[f"wise_ft_{share}.val_audio_to_image_mAP"] for share in ("0", "0.5", "1")}
    assert measures["val_audio_to_image_mAP"] == max(tried.values())
    assert tried[f"{found['wise_ft']:g}"] == max(tried.values())
    made, base = student.load(str(tmp_path / "m")), student.from_base(str(clap), 48)
    assert torch.equal(made.tower.patches.weight, base.tower.patches.weight)
    if found["wise_ft"]:
        assert not torch.equal(made.tower.blocks[-1].out.weight, base.tower.blocks[-1].out.weight)
