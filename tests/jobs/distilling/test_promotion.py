from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from transformers import ClapModel, ClapProcessor

from jobs import cli
from jobs.distilling import promotion, register
from jobs.distilling.promotion import Rule
from jobs.shared import tracking
from songsight.errors import UserError
from songsight.models import clap as claps
from songsight.models import student, teacher
from songsight.store import checkpoints
from tests.conftest import World
from tests.jobs.test_distill import train

NAME = "songsight-promotion"


def aliases() -> dict[str, str]:
    return {alias: str(version) for alias, version in client().get_registered_model(NAME).aliases.items()}


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking.store())


@pytest.fixture(scope="module")
def registered(
    world: World,
    clap: Path,
    teacher_dir: Path,
    model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_started: None,
) -> Path:
    """Two versions: the first, distilled, is champion for there was none; the second comes behind it.

    Returns:
        the first one's folder; the second is `model_dir`.
    """
    folder = tmp_path_factory.mktemp("registered") / "m1"
    train(world, clap, teacher_dir, folder, epochs=0, seed=3, register_as=NAME, promote_if="text_mAP>champion")
    with tracking.run("distill", {}):
        version = register.new_version(str(model_dir), 48, NAME)
    promotion.set_tags(NAME, version, {"val_text_mAP": 0.01})
    promotion.set_aliases(NAME, version, {"val_text_mAP": 0.01}, Rule.parse("val_text_mAP > champion"))
    return folder


def fingerprint(name: str) -> str:
    return checkpoints.fingerprint(student.load(name))


def test_versions_have_their_measures_and_aliases(registered: Path) -> None:
    assert aliases() == {"candidate": "2", "champion": "1"}
    tags = client().get_model_version(NAME, "1").tags
    assert set(tags) == {"val_text_mAP", "val_naming_top1"}
    assert 0.01 < float(tags["val_text_mAP"]) < 1


def test_every_name_of_a_version_is_its_folder(registered: Path, model_dir: Path) -> None:
    first, second = fingerprint(str(registered)), fingerprint(str(model_dir))
    assert first != second
    assert fingerprint(f"models:/{NAME}/1") == fingerprint(f"models:/{NAME}@champion") == first
    assert fingerprint(f"models:/{NAME}/latest") == fingerprint(f"models:/{NAME}@candidate") == second
    # What workers are told holds when the alias has moved on.
    at = checkpoints.portable(f"models:/{NAME}@champion")
    assert Path(at).is_absolute()
    assert fingerprint(at) == first


def test_the_champion_embeds_paths_through_mlflow(
    registered: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which MLflow adds the model's code
    paths = [str(world.folder / "0-0.wav"), str(world.folder / "1-0.wav")]
    vectors = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(paths)
    assert vectors.shape == (2, 48)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_run_is_its_weights_not_their_name(
    registered: Path, world: World, gallery_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["annotate", "--archive", str(world.archive), "--gallery", str(gallery_dir), "--out", str(tmp_path / "a")]
    cli.main([*words, "--model", f"models:/{NAME}@champion"])
    assert json.loads((tmp_path / "a" / "run.json").read_text())["windows"] > 0
    capsys.readouterr()
    cli.main([*words, "--model", str(registered)])
    assert "already holds this run" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--model", f"models:/{NAME}@candidate"])
    assert stop.value.code == 2
    assert "of another archive, model or options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"models:/{NAME}/7", f"{NAME} has no version 7 (the latest is 2)"),
        (f"models:/{NAME}@winner", "has the alias 'winner' (aliases: candidate, champion)"),
        ("models:/nobody/1", "has no model 'nobody'"),
        (f"models:/{NAME}", "should be models:/name/version, models:/name/latest or models:/name@alias"),
    ],
)
@pytest.mark.parametrize("job", ["evaluate", "annotate"])
def test_a_wrong_name_is_one_line(
    job: str,
    uri: str,
    message: str,
    registered: Path,
    world: World,
    gallery_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = {"evaluate": ["--recordings", str(world.recordings)], "annotate": ["--archive", str(world.archive)]}
    with pytest.raises(SystemExit) as stop:
        cli.main([job, "--model", uri, "--gallery", str(gallery_dir), "--out", str(tmp_path / "o"), *more[job]])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith(f"songsight {job}: error: --model {uri}: ")
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("store", "message"),
    [("http://127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9"), ("sqlite:////no/m.db", "there is no")],
)
def test_a_store_that_is_not_there_is_one_line(store: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(UserError, match=message):
        checkpoints.local_folder("models:/songsight/1", "--model")


class _Folder(mlflow.pyfunc.PythonModel):
    """A model that is there for its artifact."""

    def predict(self, context, model_input, params=None):
        return model_input


def test_teachers_and_bases_may_be_registered(clap: Path, teacher_dir: Path, ray_started: None) -> None:
    tracking.experiment("distill")
    base, processor = ClapModel.from_pretrained(clap), ClapProcessor.from_pretrained(clap)
    parts = {"model": base, "tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    with mlflow.start_run():
        mlflow.transformers.log_model(
            parts, name="clap", task="zero-shot-audio-classification", registered_model_name="a-clap"
        )
        mlflow.pyfunc.log_model(
            name="teacher",
            python_model=_Folder(),
            artifacts={"checkpoint": str(teacher_dir)},
            registered_model_name="a-teacher",
            pip_requirements=[],
        )
    client().create_registered_model("a-folder")
    client().create_model_version("a-folder", clap.as_uri())
    assert teacher.load("models:/a-teacher/latest").fingerprint == teacher.load(str(teacher_dir)).fingerprint
    expected = checkpoints.fingerprint(student.load_base(str(clap))[0])
    for name in ("models:/a-clap/1", "models:/a-folder/1"):
        found, preprocessor = student.load_base(name, "--base")
        assert checkpoints.fingerprint(found) == expected
        assert preprocessor == student.load_base(str(clap))[1]
        texts = claps.load(checkpoints.portable(name, "--model"))[1]
        assert texts.embed(["a bird"]).shape[0] == 1
    with pytest.raises(UserError, match=r"--teacher models:/a-clap/1.*is not an open_clip model"):
        teacher.load("models:/a-clap/1")


def test_a_registered_model_of_somebody_else_is_refused(ray_started: None) -> None:
    tracking.experiment("distill")

    class Other(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    with mlflow.start_run():
        mlflow.pyfunc.log_model(name="model", python_model=Other(), registered_model_name="other", pip_requirements=[])
    with pytest.raises(UserError, match=r"is neither one that `songsight distill` registered.*artifacts: none"):
        checkpoints.local_folder("models:/other/1", "--model")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("audio_to_image_mAP>champion", Rule("val_audio_to_image_mAP", False, "champion")),
        ("val_text_mAP >= 0.4", Rule("val_text_mAP", True, 0.4)),
    ],
)
def test_rules(text: str, rule: Rule) -> None:
    assert Rule.parse(text) == rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("text_mAP", "should be a measure, > or >=, and an alias or a number"),
        ("text_mAP<champion", "should be a measure, > or >=, and an alias or a number"),
        ("text_mAP>nan", "--promote-if text_mAP>nan: should compare with a finite number"),
        ("loss>champion", "no measure 'loss' (measures: val_audio_to_image_mAP"),
        ("audio_to_image_mAP>champion", "is measured only with a --gallery"),
        ("naming_top1>candidate", "has no val_naming_top1 to compare with"),
    ],
)
def test_a_wrong_rule_is_one_line_before_training(
    rule: str,
    message: str,
    registered: Path,
    world: World,
    clap: Path,
    teacher_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["distill", "--recordings", str(world.recordings), "--teacher", str(teacher_dir), "--student", str(clap)]
    with pytest.raises(SystemExit) as stop:
        cli.main(
            [*words, "--out", str(tmp_path / "m"), "--batch-size", "8", "--register-as", NAME, "--promote-if", rule]
        )
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("rule", "value", "champion", "said"),
    [
        ("text_mAP>0.6", 0.5, "1", "candidate, not champion (val_text_mAP 0.5000 against 0.6)"),
        ("text_mAP>champion", 0.4, "1", "candidate, not champion (val_text_mAP 0.4000 against 0.4000 of champion)"),
        (
            "text_mAP>winner",
            math.nan,
            "1",
            "candidate, not champion (val_text_mAP nan against winner, of which there is ",
        ),
        ("text_mAP>=champion", 0.4, "2", "candidate and champion (val_text_mAP 0.4000 against 0.4000 of champion)"),
        ("text_mAP>champion", 0.5, "2", "candidate and champion"),
        ("text_mAP>0.4", 0.5, "2", "candidate and champion"),
        ("text_mAP>winner", 0.1, "2", "candidate and champion (val_text_mAP 0.1000 against winner, of which "),
    ],
)
def test_who_wins(registered: Path, rule: str, value: float, champion: str, said: str) -> None:
    client().set_registered_model_alias(NAME, "champion", "1")
    before = client().get_model_version(NAME, "1").tags["val_text_mAP"]
    client().set_model_version_tag(NAME, "1", "val_text_mAP", "0.4")
    try:
        assert promotion.set_aliases(NAME, "2", {"val_text_mAP": value}, Rule.parse(rule)).startswith(said)
        assert aliases() == {"candidate": "2", "champion": champion}
    finally:
        client().set_registered_model_alias(NAME, "champion", "1")
        client().set_model_version_tag(NAME, "1", "val_text_mAP", before)
