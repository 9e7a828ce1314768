"""The jobs on a real S3 store, as a user runs them: in a process of their own that the AWS_* variables are set for.

That process starts a Ray of its own: the tests' Ray was started without those variables, and its workers would not
have them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import s3fs

from inference.annotate import publish
from inference.match import gallery as galleries
from jobs import annotate
from songsight.errors import UserError
from songsight.models import htsat, student
from songsight.store import lease, urls
from tests.conftest import World
from tests.faulty_proxy import Fault, standing_before
from tests.jobs.distilling.test_resume import by_step, wait_for_steps
from tests.s3_server import Store
from tests.servers import kill_all_of

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 16, 64  # 32 training rows in batches of 8
ANNOTATE = {"--min-score": "-1", "--top-k": "2", "--timezone": "+02:00", "--actors": "1", "--precision": "fp32"}


def run(jobs: dict[str, dict[str, object]], environment: dict[str, str], folder: Path) -> str:
    """Runs jobs to their good end, one behind the other in one process, and returns what they printed.

    Args:
        jobs: a job's name → its options; what follows a space in a name tells two of the same job apart.
        environment: what to set besides this process's own variables.
        folder: for the process's caches and MLflow's store.
    """
    given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
    given |= {"XDG_CACHE_HOME": str(folder / "cache"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    lines = [
        [job.split()[0], *(str(word) for pair in options.items() for word in pair)] for job, options in jobs.items()
    ]
    program = "import json, sys; from jobs import cli; [cli.main(line) for line in json.loads(sys.argv[1])]"
    words = [sys.executable, "-c", program, json.dumps(lines)]
    ended = subprocess.run(words, env=given, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def top_names(url: str) -> set[str]:
    """What lies right below a folder."""
    fs, path = urls.filesystem(url)
    return {name.removeprefix(f"{path}/").split("/")[0] for name in fs.find(path)}


def hits(out: str) -> list[dict]:
    """The rows of hits in order, without what names the run: its number and its model."""
    rows = publish.read_hits(out).to_pylist()
    rows = [{key: value for key, value in row.items() if key not in ("run_id", "model")} for row in rows]
    return sorted(rows, key=lambda row: (row["recording"], row["start_s"], row["rank"]))


def assert_same_hits(one: list[dict], other: list[dict]) -> None:
    """Equal rows; scores but for the order of sums, since windows of two recordings may share a batch."""

    def scores(rows: list[dict]) -> list[float]:
        return [score for row in rows for score in [row["score"], *(image["score"] for image in row["images"])]]

    def words(rows: list[dict]) -> list[dict]:
        return [row | {"score": None, "images": [image["image_id"] for image in row["images"]]} for row in rows]

    assert words(one) == words(other)
    np.testing.assert_allclose(scores(one), scores(other), atol=1e-5)


@pytest.fixture(scope="module", autouse=True)
def _in_this_process(s3: Store) -> Iterator[None]:
    """The tests themselves read the store too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def on_s3(s3: Store, world: World, clap: Path, teacher_dir: Path, model_dir: Path) -> str:
    """URL of a folder that holds the world and its models."""
    url = f"{s3.bucket}/field"
    for name, folder in {"world": world.folder, "clap": clap, "teacher": teacher_dir, "model": model_dir}.items():
        urls.store_folder(str(folder), f"{url}/{name}")
    return url


@pytest.fixture(scope="module")
def undisturbed(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    """The hits of the same archive on the local disk."""
    out = tmp_path_factory.mktemp("local") / "annotated"
    options = annotate.Options(archive=str(world.archive), gallery=str(gallery_dir), model=str(model_dir), out=str(out))
    annotate.main(
        dataclasses.replace(options, min_score=-1.0, top_k=2, timezone="+02:00", actors="1", precision="fp32")
    )
    return hits(str(out))


@pytest.fixture(scope="module")
def printed(s3: Store, on_s3: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the jobs said that read nothing and write nothing but on S3."""
    world, taught_by = f"{on_s3}/world", f"{on_s3}/teacher"
    annotate = {"--archive": f"{world}/archive", "--gallery": f"{on_s3}/gallery", "--model": f"{on_s3}/model"}
    annotate |= {"--out": f"{on_s3}/annotated", **ANNOTATE}
    distill = {"--recordings": f"{world}/recordings.parquet", "--teacher": taught_by, "--student": f"{on_s3}/clap"}
    distill |= {"--out": f"{on_s3}/trained", "--epochs": 1, "--batch-size": 16, "--lr": 0.001}
    jobs = {
        "gallery": {"--images": f"{world}/images.parquet", "--teacher": taught_by, "--out": f"{on_s3}/gallery"},
        "annotate": annotate,
        "annotate again": annotate,
        "distill": distill,
    }
    return run(jobs, s3.environment, tmp_path_factory.mktemp("process"))


def test_a_gallery_is_the_one_that_a_disk_has(printed: str, on_s3: str, gallery_dir: Path) -> None:
    assert "12 photographs of 4 species" in printed
    made, local = galleries.read(f"{on_s3}/gallery"), galleries.read(str(gallery_dir))
    assert made.images["path"].to_pylist() == local.images["path"].to_pylist()
    np.testing.assert_allclose(made.vectors, local.vectors, atol=1e-5)


def test_hits_are_those_that_a_disk_has(printed: str, on_s3: str, undisturbed: list[dict]) -> None:
    assert "6 recordings in = 3 annotated, 1 of them in part + 3 quarantined" in printed
    assert len(undisturbed) > 2 * 22
    assert_same_hits(hits(f"{on_s3}/annotated"), undisturbed)
    assert top_names(f"{on_s3}/annotated") == {"hits", "quarantine", "recordings", "run.json"}  # the state is gone


def test_the_same_command_again_does_nothing(printed: str, on_s3: str) -> None:
    assert f"{on_s3}/annotated already holds this run" in printed
    fs, path = urls.filesystem(f"{on_s3}/annotated")
    written = {name: info["LastModified"] for name, info in fs.find(path, detail=True).items()}
    assert max(written.values()) == written[f"{path}/run.json"]  # which is written last


def test_a_student_is_trained(printed: str, on_s3: str, clap: Path) -> None:
    assert f"model: {on_s3}/trained" in printed
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "training.json"}
    assert top_names(f"{on_s3}/trained") == names  # checkpoints are gone
    made, base = student.load(f"{on_s3}/trained"), student.load_base(str(clap))[0]
    before = htsat.from_clap(base.audio_model.state_dict(), made.tower.config)
    assert not made.tower.state_dict()["blocks.0.widen.weight"].equal(before["blocks.0.widen.weight"])


def test_one_run_at_a_time_where_the_store_knows_no_conditions(s3: Store) -> None:
    out = f"{s3.bucket}/claimed"
    with lease.held(out):
        with pytest.raises(UserError, match=f"{out}: another run is at it"), lease.held(out):
            raise AssertionError("two runs")
        lease.check()
        assert top_names(out) == {".claim"}
    fs, path = urls.filesystem(out)
    fs.invalidate_cache()
    assert fs.find(path) == []


def test_a_killed_training_goes_on_from_its_checkpoint(
    s3: Store, on_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    world, out = f"{on_s3}/world", f"{on_s3}/killed"
    options = {"--recordings": f"{world}/recordings.parquet", "--teacher": f"{on_s3}/teacher", "--out": out}
    options |= {"--student": f"{on_s3}/clap", "--epochs": EPOCHS, "--batch-size": 8, "--checkpoint-every": 8}
    given = [str(word) for pair in options.items() for word in pair]
    without = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen([sys.executable, "-m", "jobs.distill", *given], env=without | s3.environment)
    try:
        run_id = wait_for_steps(set(), 9)
    finally:
        kill_all_of(driver)
    assert top_names(out) == {".train", ".claim"}
    run({"distill": options}, s3.environment, tmp_path)
    assert ".train" not in top_names(out)
    losses = by_step(run_id, "loss")
    assert sorted(losses) == list(range(1, STEPS + 1))
    resumed = int(next(iter(by_step(run_id, "resumed_from_step"))))
    assert resumed >= 8
    assert [len(losses[step]) for step in range(1, resumed + 1)] == [1] * resumed
    for values in losses.values():  # a step that was taken twice was the same step
        np.testing.assert_allclose(values, values[0], rtol=1e-3)


def test_faults_of_the_store_lose_no_photograph(s3: Store, on_s3: str, tmp_path: Path) -> None:
    faults = (Fault("500", "GET .*world/.*jpg", first=2), Fault("503", "GET .*world/.*jpg", skip=4, first=1))
    options = {"--images": f"{on_s3}/world/images.parquet", "--teacher": f"{on_s3}/teacher", "--out": tmp_path / "g"}
    with standing_before(s3.endpoint, *faults) as proxy:
        environment = s3.environment | {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_MAX_ATTEMPTS": "1"}
        printed = run({"gallery": options}, environment, tmp_path)
    assert proxy.injected["500"] >= 2
    assert "12 photographs of 4 species" in printed


def test_faults_of_the_store_change_no_row(
    s3: Store, on_s3: str, gallery_dir: Path, model_dir: Path, undisturbed: list[dict], tmp_path: Path
) -> None:
    recording = "world/archive/.*wav"
    faults = (
        Fault("500", f"HEAD .*{recording}", first=2),
        Fault("503", f"GET .*{recording}", skip=1, first=1),
        Fault("500", f"GET .*{recording}", skip=3, first=2),
        Fault("cut", "GET .*world/archive/.*flac", first=2),
        Fault("cut", f"GET .*{recording}", share=0.2),
        Fault("503", "GET .*list-type=2", share=0.3),
        Fault("500", "PUT .*disturbed/.state/", share=0.3),
        Fault("503", "GET .*disturbed/.state/", share=0.3),
        Fault("500", "PUT .*disturbed/(hits|recordings|run.json)", first=1),
    )
    out = f"{on_s3}/disturbed"
    options = {"--archive": f"{on_s3}/world/archive", "--gallery": gallery_dir, "--model": model_dir, "--out": out}
    with standing_before(s3.endpoint, *faults) as proxy:
        # botocore alone would hide most of it by trying each request five times.
        environment = s3.environment | {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_MAX_ATTEMPTS": "1"}
        run({"annotate": options | ANNOTATE}, environment, tmp_path)
    print(proxy.injected, *proxy.seen, sep="\n")
    assert proxy.injected["500"] > 5
    assert proxy.injected["503"] > 1
    assert proxy.injected["cut"] > 1
    written = {
        request.split("?")[0].split("/disturbed/")[-1].split("/")[0] for request in proxy.failed if request[:3] == "PUT"
    }
    assert {"hits", ".state"} <= written
    assert_same_hits(hits(out), undisturbed)
    record = json.loads(urls.read_bytes(f"{out}/run.json"))
    assert (record["files_found"], record["annotated"], record["quarantined"]) == (6, 3, 3)
    fs, path = urls.filesystem(f"{out}/quarantine")
    reasons = {row["reason"] for row in pq.read_table(fs.open(fs.find(path)[0])).to_pylist()}
    assert reasons == {"silent", "empty", "pointer"}
