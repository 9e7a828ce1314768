from __future__ import annotations

import csv
import itertools
import math
import shutil
import sys
from importlib import metadata
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import torch
from mlflow.types import DataType

from distill.train import optimizer
from jobs import cli, distill
from jobs.shared import tracking
from songsight.errors import UserError
from songsight.models import htsat, student
from songsight.store import tables
from tests.conftest import World


def train(world: World, clap: Path, teacher_dir: Path, out: Path, **options: object) -> dict[str, float]:
    # In float32, which gives the same on every machine that the tests run on.
    given = {"epochs": 2, "batch_size": 8, "register_as": "songsight-test", "lr": 1e-3, "precision": "fp32"}
    chosen = given | options
    return distill.main(
        distill.Options(
            recordings=str(chosen.pop("recordings", world.recordings)),
            teacher=str(teacher_dir),
            student=str(chosen.pop("student", clap)),
            out=str(out),
            **chosen,  # type: ignore[arg-type]
        )
    )


def last_run() -> mlflow.entities.Run:
    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    experiment = client.get_experiment_by_name("songsight-distill")
    assert experiment
    return client.search_runs([experiment.experiment_id], max_results=1)[0]


def curve(run_id: str, metric: str) -> list[float]:
    history = mlflow.MlflowClient(tracking_uri=tracking.store()).get_metric_history(run_id, metric)
    return [point.value for point in sorted(history, key=lambda point: point.step)]


@pytest.fixture(scope="module")
def trained(
    world: World,
    clap: Path,
    teacher_dir: Path,
    gallery_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_started: None,
) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("trained") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")  # a run this short ends before the usual first
        patch.setenv("SONGSIGHT_GIT_COMMIT", "abc123")
        measures = train(world, clap, teacher_dir, out, epochs=6, gallery=str(gallery_dir), alignment=1.0)
    assert set(measures) == {"val_naming_top1", "val_text_mAP", "val_audio_to_image_mAP"}
    return out, last_run().info.run_id


def test_the_loss_falls_and_is_in_mlflow(trained: tuple[Path, str]) -> None:
    _, run_id = trained
    losses = curve(run_id, "loss")
    assert len(losses) == 6 * 4  # 32 training rows in batches of 8
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.2
    run = mlflow.MlflowClient(tracking_uri=tracking.store()).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["objective"] == "infonce"
    assert run.data.tags["fingerprint.teacher"]
    assert run.data.tags["version.torch"] == metadata.version("torch")
    for metric in ("temperature", "recordings_per_s", "data_wait_fraction", "val_text_mAP", "lr", "head_lr"):
        assert metric in run.data.metrics, metric
    assert run.data.tags["git_commit"] == "abc123"
    counts = {name: run.data.tags[f"rows.{name}"] for name in ("recordings", "train", "val")}
    assert counts == {"recordings": "40", "train": "32", "val": "4"}
    # The cosine schedule's last step of 24, behind a warm-up of one: half a cosine has 1 of 23 steps left.
    assert curve(run_id, "head_lr")[-1] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * 22 / 23)))


def test_each_look_is_drawn(trained: tuple[Path, str], tmp_path: Path) -> None:
    from PIL import Image

    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    drawn = [artifact.path for artifact in client.list_artifacts(trained[1], "retrieval")]
    assert drawn == [f"retrieval/epoch_{epoch:03}.png" for epoch in range(1, 7)]
    with Image.open(client.download_artifacts(trained[1], drawn[0], str(tmp_path))) as picture:
        assert picture.width > 1000


def test_the_nodes_use_is_in_mlflow(trained: tuple[Path, str]) -> None:
    used = curve(trained[1], "system/cpu_utilization_percentage")
    assert used
    assert all(0 <= share <= 100 for share in used)
    assert curve(trained[1], "system/system_memory_usage_megabytes")


def test_the_model_is_a_folder_that_loads_and_has_learnt(trained: tuple[Path, str], clap: Path) -> None:
    out, run_id = trained
    names = {path.name for path in out.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "training.json"}
    made, base = student.load(str(out)), student.load_base(str(clap))[0]
    assert made.config.base_model == str(clap)
    tower = htsat.from_clap(base.audio_model.state_dict(), made.tower.config)
    before = tower["blocks.0.widen.weight"]
    after = made.tower.state_dict()["blocks.0.widen.weight"]
    assert not torch.equal(before, after)
    assert torch.equal(tower["batch_norm.running_mean"], made.tower.batch_norm.running_mean)
    card = (out / "README.md").read_text()
    assert run_id in card
    assert "val_text_mAP" in card


def test_the_registered_model_embeds_paths(
    trained: tuple[Path, str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from songsight.audio.reader import read_mono

    monkeypatch.setattr(sys, "path", [*sys.path])  # to which MLflow adds the model's code
    out, run_id = trained
    version = next(
        v
        for v in mlflow.MlflowClient(tracking_uri=tracking.store()).search_model_versions("name='songsight-test'")
        if v.run_id == run_id
    )
    loaded = mlflow.pyfunc.load_model(f"models:/songsight-test/{version.version}")
    assert loaded.metadata.signature.inputs.input_types() == [DataType.string]
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 48)
    path = str(world.folder / "0-0.wav")
    vectors = loaded.predict([path, "/no/such/file.wav"])
    by_hand = student.load(str(out)).embed(torch.from_numpy(read_mono(path, 0.0, 3.0, 16000)[None])).numpy()
    np.testing.assert_allclose(vectors[0], by_hand[0], atol=1e-5)
    assert np.isnan(vectors[1]).all()


# What the bank's loss does not need of the other ranks, the others do: their recordings are its negatives. That each of
# those has the gradient of one process is in `tests/distill/test_objectives.py`.
@pytest.mark.slow
@pytest.mark.parametrize("objective", ["infonce", "bank"])
def test_two_workers_take_the_steps_of_one(
    objective: str, world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    """Without dropout the two runs differ by the order of sums alone."""
    import json

    plain = tmp_path / "plain"
    shutil.copytree(clap, plain)
    config = json.loads((plain / "config.json").read_text())
    config["audio_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (plain / "config.json").write_text(json.dumps(config))
    losses = []
    for workers in (1, 2):
        train(world, plain, teacher_dir, tmp_path / f"m{workers}", workers=str(workers), objective=objective)
        losses.append(curve(last_run().info.run_id, "loss"))
    assert len(losses[0]) == len(losses[1]) == 8
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)
    one, two = (student.load(str(tmp_path / f"m{workers}")) for workers in (1, 2))
    waves = torch.randn(4, 48000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert float((one.embed(waves) * two.embed(waves)).sum(-1).min()) > 0.99


def test_no_epochs_saves_the_untrained_student(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    train(world, clap, teacher_dir, tmp_path / "m", epochs=0, seed=7)
    made = student.load(str(tmp_path / "m"))
    torch.manual_seed(7)
    fresh = student.from_base(str(clap), 48)
    torch.testing.assert_close(made.head.weight, fresh.head.weight)


def with_paths(world: World, paths: dict[int, str], table_path: Path) -> Path:
    """The world's recordings table with some rows' files elsewhere."""
    table = tables.read_table(str(world.recordings), "--recordings", ())
    named = [str(world.folder / path) for path in table["path"].to_pylist()]
    for row, path in paths.items():
        named[row] = path
    table = table.set_column(table.schema.get_field_index("path"), "path", pa.array(named))
    tables.write_table(str(table_path), table)
    return table_path


def listed(run_id: str, folder: Path) -> list[dict[str, str]]:
    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    with open(client.download_artifacts(run_id, "undecodable_recordings.csv", str(folder)), newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_too_many_bad_recordings_fail_the_run_which_goes_on_when_they_are_repaired(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / 'a "gone", one.wav'
    recordings = with_paths(world, {10: str(gone), 8: str(tmp_path / "held.wav")}, tmp_path / "r.parquet")
    options = {"recordings": recordings, "epochs": 2, "checkpoint_every": 1}
    with pytest.raises(
        UserError, match=r"1 of .* recordings cannot be decoded, more than the share of 0\.01"
    ) as failed:
        train(world, clap, teacher_dir, tmp_path / "m", **options)
    assert f"the first is {gone} (vanished)" in str(failed.value)
    run = last_run()
    assert run.info.status == "FAILED"
    assert run.data.metrics["undecodable_recordings"] == 1
    wanted = {"row": "10", "recording_id": "1-0", "path": str(gone), "split": "train", "reason": "vanished"}
    assert listed(run.info.run_id, tmp_path) == [wanted]

    shutil.copy(world.folder / "1-0.wav", gone)
    capsys.readouterr()
    train(world, clap, teacher_dir, tmp_path / "m", **options)
    again = last_run()
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert again.data.metrics["undecodable_recordings"] == 0
    assert again.data.metrics["undecodable_held_out"] == 1
    assert again.data.metrics["recordings_seen"] == 64
    (held,) = listed(again.info.run_id, tmp_path)
    assert (held["row"], held["split"], held["reason"]) == ("8", "val", "vanished")
    said = capsys.readouterr().err
    assert "cannot be decoded: 0 of 32 to train on, 1 of 4 held out" in said
    assert "64 recordings: val_naming_top1 " in said


def test_a_finished_training_is_left_as_it_is(
    trained: tuple[Path, str],
    world: World,
    clap: Path,
    teacher_dir: Path,
    gallery_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, run_id = trained
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    same = {"epochs": 6, "gallery": str(gallery_dir), "alignment": 1.0}
    run = mlflow.MlflowClient(tracking_uri=tracking.store()).get_run(run_id)
    measures = train(world, clap, teacher_dir, out, **same)
    assert measures == {name: run.data.metrics[name] for name in measures}
    assert len(measures) == 3
    assert f"{out} already holds this model: nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--alignment 2.0: the model in .* has 1.0; give another --out"):
        train(world, clap, teacher_dir, out, **same | {"alignment": 2.0})
    other = shutil.copytree(clap, tmp_path / "clap")  # another name of the same weights is another option
    with pytest.raises(UserError, match="--student "):
        train(world, other, teacher_dir, out, **same)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_model_of_unknown_origin_is_not_overwritten(
    world: World, clap: Path, teacher_dir: Path, model_dir: Path
) -> None:
    with pytest.raises(UserError, match=r"holds a model, and no training\.json says how it was made"):
        train(world, clap, teacher_dir, model_dir)


@pytest.mark.slow
def test_no_held_out_recording_can_be_decoded(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    gone = {row: str(tmp_path / "gone.wav") for row in (8, 18, 28, 38)}
    recordings = with_paths(world, gone, tmp_path / "r.parquet")
    assert train(world, clap, teacher_dir, tmp_path / "m", recordings=recordings, wise_ft="0,1") == {}
    assert last_run().data.metrics["undecodable_held_out"] == 4
    made, base = student.load(str(tmp_path / "m")), student.from_base(str(clap), 48)
    assert not torch.equal(made.tower.blocks[-1].out.weight, base.tower.blocks[-1].out.weight)  # what was trained


def test_more_gpus_than_there_are_is_one_line(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    with pytest.raises(
        UserError, match=r"--workers 2 and --gpus-per-worker 99 need 198 GPUs, and Ray finds \d on this"
    ):
        train(world, clap, teacher_dir, tmp_path / "m", workers="2", gpus_per_worker=99.0)


def test_a_songsight_model_is_no_teacher_and_no_base(
    world: World, clap: Path, teacher_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"--teacher .*: is a songsight model, a student, which has none of a teacher's"
    ):
        train(world, clap, model_dir, tmp_path / "m")
    with pytest.raises(UserError, match=r"--base .*: is a songsight model, which has no text tower; give a whole Clap"):
        student.load_base(str(model_dir), "--base")


@pytest.mark.slow
def test_a_songsight_model_can_go_on(
    trained: tuple[Path, str], world: World, clap: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    out, run_id = trained
    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    version = next(v for v in client.search_model_versions("name='songsight-test'") if v.run_id == run_id)
    name = f"models:/songsight-test/{version.version}"
    train(world, Path(name), teacher_dir, tmp_path / "m", student=name, epochs=0)
    one, other = student.load(str(out)), student.load(str(tmp_path / "m"))
    assert other.config.base_model == str(clap)
    for (key, weight), again in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(weight, again), key
    train(world, clap, teacher_dir, tmp_path / "mlp", student=name, epochs=0, head="mlp")  # another head is a new one
    assert torch.equal(student.load(str(tmp_path / "mlp")).tower.patches.weight, one.tower.patches.weight)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recordings", "/no/table.parquet"], "--recordings: no such file: /no/table.parquet"),
        (["--recordings", "{folder}/nameless.csv"], "has no column 'scientific_name' (it has path)"),
        (["--batch-size", "1000"], "--batch-size 1000 is more than the 32 rows"),
        (["--batch-size", "2", "--workers", "1:3"], "--batch-size 2 should be at least --workers 1:3"),
        (["--workers", "0"], "--workers should be a number such as 4, or a range such as 1:8 (got '0')"),
        (["--wise-ft", "0,2"], "--wise-ft should be shares from 0 to 1, such as 0,0.5,1 (got '2')"),
        (["--noise-snr-db", "20:0"], "--noise-snr-db should be two levels in dB such as 0:20 (got '20:0')"),
        (["--max-bad-fraction", "2"], "--max-bad-fraction should be a share from 0 to 1 (got 2)"),
        (["--parts", "0"], "--parts should be greater than 0 (got 0)"),
        (["--noise", "/no/noise"], "--noise: no such folder: /no/noise"),
        (["--noise", "{folder}"], "--noise: none of the 1 recordings there can be decoded"),
        (["--max-failures", "-2"], "--max-failures should be a number of times, or -1 for any (got -2)"),
        (["--freeze-stages", "9"], "--freeze-stages 9: the tower of {clap} has 2 stages"),
        (["--lr", "0"], "--lr should be greater than 0 (got 0)"),
        (["--warmup", "1"], "--warmup should be a share of the steps"),
        (["--text-types", "latin"], "--text-types: no type 'latin'"),
        (["--teacher", "/no/teacher"], "--teacher /no/teacher: no such folder"),
        (["--student", "nobody/nothing"], "--student nobody/nothing: neither a local folder nor reachable"),
        (["--objective", "best"], "--objective should be one of infonce, masked, "),
        (["--gallery", "/no/gallery"], "--gallery /no/gallery: no gallery is there"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    message: str,
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "nameless.csv").write_text("path\na.wav\n")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    good = {"--recordings": world.recordings, "--teacher": teacher_dir, "--student": clap, "--out": tmp_path / "m"}
    good |= {"--batch-size": 8}
    given = {
        word.format(folder=tmp_path): value.format(folder=tmp_path)
        for word, value in zip(*[iter(words)] * 2, strict=True)
    }
    with pytest.raises(SystemExit) as stop:
        cli.main(["distill", *[str(word) for pair in (good | given).items() for word in pair]])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.format(clap=clap) in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "m").exists()


def test_the_rate_rises_and_falls() -> None:
    shares = [optimizer.learning_rate(step, 100, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[-1] < 0.001
    assert all(later <= earlier for earlier, later in itertools.pairwise(shares[10:]))
