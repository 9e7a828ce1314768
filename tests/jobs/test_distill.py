from __future__ import annotations

import itertools
from importlib import metadata
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import torch

from distill import htsat, student, tables, trainer
from distill.errors import UserError
from jobs import cli, distill, tracking
from tests.conftest import World


def train(world: World, clap: Path, teacher_dir: Path, out: Path, **options: object) -> dict[str, float]:
    chosen = {"epochs": 2, "batch_size": 8, "register_as": "songsight-test", "lr": 1e-3} | options
    return distill.main(
        distill.Options(
            recordings=str(chosen.pop("recordings", world.recordings)),
            teacher=str(teacher_dir),
            student=str(clap),
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
    for metric in ("temperature", "recordings_per_s", "data_wait_fraction", "val_text_mAP", "lr"):
        assert metric in run.data.metrics, metric


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
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
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


def test_the_registered_model_embeds_paths(trained: tuple[Path, str], world: World) -> None:
    from distill.audio import read_mono

    out, run_id = trained
    version = next(
        v
        for v in mlflow.MlflowClient(tracking_uri=tracking.store()).search_model_versions("name='songsight-test'")
        if v.run_id == run_id
    )
    loaded = mlflow.pyfunc.load_model(f"models:/songsight-test/{version.version}")
    path = str(world.folder / "0-0.wav")
    vectors = loaded.predict([path, "/no/such/file.wav"])
    by_hand = student.load(str(out)).embed(torch.from_numpy(read_mono(path, 0.0, 3.0, 16000)[None])).numpy()
    np.testing.assert_allclose(vectors[0], by_hand[0], atol=1e-5)
    assert np.isnan(vectors[1]).all()


def test_two_workers_take_the_steps_of_one(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    """Without dropout the two runs differ by the order of sums alone."""
    import json
    import shutil

    plain = tmp_path / "plain"
    shutil.copytree(clap, plain)
    config = json.loads((plain / "config.json").read_text())
    config["audio_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (plain / "config.json").write_text(json.dumps(config))
    losses = []
    for workers in (1, 2):
        train(world, plain, teacher_dir, tmp_path / f"m{workers}", workers=str(workers), objective="bank")
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


def test_undecodable_recordings_are_listed_and_too_many_fail_the_run(
    world: World, clap: Path, teacher_dir: Path, tmp_path: Path, ray_started: None
) -> None:
    table = tables.read_table(str(world.recordings), "--recordings", ())
    paths = [str(world.folder / path) for path in table["path"].to_pylist()]
    paths[0] = str(tmp_path / "gone.wav")
    table = table.set_column(table.schema.get_field_index("path"), "path", pa.array(paths))
    tables.write_table(str(tmp_path / "r.parquet"), table)
    with pytest.raises(UserError, match=r"1 of 32 recordings cannot be decoded, more than the share of 0.01"):
        train(world, clap, teacher_dir, tmp_path / "m", recordings=tmp_path / "r.parquet", epochs=2)
    run = last_run()
    assert run.info.status == "FAILED"
    assert run.data.metrics["recordings_seen"] == 32  # it ended behind its first epoch
    assert run.data.metrics["undecodable_recordings"] == 1
    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    listing = Path(client.download_artifacts(run.info.run_id, "undecodable_recordings.csv", str(tmp_path))).read_text()
    assert "gone.wav" in listing


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
        (["--objective", "best"], "invalid choice 'best' for argument '--objective'"),
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
    shares = [trainer.learning_rate(step, 100, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[-1] < 0.001
    assert all(later <= earlier for earlier, later in itertools.pairwise(shares[10:]))
