"""A training goes on with a version whose options are others than those of the version that began it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs import distill, sweep
from jobs.distilling import resume
from jobs.shared import options
from jobs.shared.options import Chosen
from songsight.errors import UserError

WORDS = ["--recordings", "r.csv", "--out", "m", "--lr", "0.001"]
PRINTS = {"recordings": "a", "teacher": "b", "student": "c"}
# What 0.1 did where the user said nothing.
DEFAULTS_OF_0_1 = {
    "teacher": "hf-hub:imageomics/bioclip-2",
    "student": "davidrrobinson/BioLingual",
    "head": "linear",
    "text_types": "sci:1,com:1,taxon:1,sci_com:1,taxon_com:1",
    "objective": "infonce",
    "alignment": 0.0,
    "preserve": 0.0,
    "wise_ft": "",
    "epochs": 10,
    "batch_size": 64,
    "parts": 1,
    "lr": 0.0001,
    "head_lr": 0.001,
    "weight_decay": 0.01,
    "warmup": 0.05,
    "freeze_encoder": False,
    "freeze_stages": 0,
    "gain_db": 0.0,
    "shift_s": 0.0,
    "noise": None,
    "noise_p": 0.5,
    "noise_snr_db": "0:20",
    "time_mask": 0,
    "freq_mask": 0,
    "max_bad_fraction": 0.01,
    "precision": "auto",
    "gallery": None,
    "eval_every": 1,
    "eval_recordings": 1000,
    "checkpoint_every": 500,
    "workers": "1",
    "gpus_per_worker": 0.0,
    "max_failures": 3,
    "threads": None,
    "seed": 0,
    "register_as": "songsight",
    "promote_if": None,
}


@dataclass(frozen=True)
class Later(distill.Options):
    """Options of a version to come: one has another default, one is new."""

    objective: Any = field(default="masked", metadata={"in_0_1": "infonce"})
    sharpness: float = field(default=0.5, metadata={"in_0_1": 0.0})


def of(cls: Any, *more: str) -> Any:
    return options.parse(cls, [*WORDS, *more], "songsight distill", "")


def begun_by_0_1(folder: Path, **changed: Any) -> None:
    """The record of `WORDS` as 0.1 wrote it."""
    told = dataclasses.asdict(distill.Options(recordings="r.csv", out="m")) | DEFAULTS_OF_0_1 | {"lr": 1e-3}
    record = {"options": told | changed, "fingerprints": PRINTS, "mlflow_run": "run"}
    (folder / "training.json").write_text(json.dumps(record))


def go_on(chosen: Any, folder: Path, **prints: str) -> Any:
    """The options with which a training goes on."""
    begun = resume.begun_with(Chosen.of(chosen), str(folder / "nothing"), str(folder))
    chosen = options.replace(chosen, begun)
    assert resume.unfinished(str(folder), Chosen.of(chosen), PRINTS | prints) == "run"
    return chosen


def test_what_0_1_did_by_default_is_known() -> None:
    assert (options.in_0_1(of(distill.Options)) | resume.GONE).items() >= DEFAULTS_OF_0_1.items()


def test_a_training_of_0_1_goes_on_as_it_began(tmp_path: Path) -> None:
    begun_by_0_1(tmp_path)
    chosen = go_on(of(Later), tmp_path)
    assert (chosen.objective, chosen.sharpness, chosen.lr) == ("infonce", 0.0, 1e-3)
    assert resume.begun_with(Chosen.of(of(Later)), str(tmp_path / "nothing")) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "masked"], "--objective masked: the unfinished training in .* has infonce"),
        (["--sharpness", "0.5"], "--sharpness 0.5: the unfinished training in .* has 0.0"),
        (["--lr", "0.002"], "--lr 0.002: the unfinished training in .* has 0.001"),
    ],
)
def test_what_the_user_says_is_not_overruled(words: list[str], message: str, tmp_path: Path) -> None:
    begun_by_0_1(tmp_path)
    (tmp_path / "run.yaml").write_text(f"{words[0][2:]}: {words[1]}")
    for said in [words] if "--lr" in words else [words, ["--config", str(tmp_path / "run.yaml")]]:
        with pytest.raises(UserError, match=message):
            go_on(of(Later, *said), tmp_path)


def test_what_the_user_said_then_has_to_be_said_again(tmp_path: Path) -> None:
    begun_by_0_1(tmp_path, objective="siglip")
    with pytest.raises(UserError, match=r"--objective masked: .* has siglip"):
        go_on(of(Later), tmp_path)
    assert go_on(of(Later, "--objective", "siglip"), tmp_path).objective == "siglip"


def test_a_training_of_this_version_goes_on_with_the_next(tmp_path: Path) -> None:
    """Its record says what was given: no table has to."""

    @dataclass(frozen=True)
    class Next(distill.Options):
        objective: Any = "masked"

    resume.begin(str(tmp_path), Chosen.of(of(distill.Options)), PRINTS, "run")
    for _ in range(2):  # what goes on writes its record anew
        chosen = go_on(of(Next), tmp_path)
        assert chosen.objective == "infonce"
        resume.begin(str(tmp_path), Chosen.of(chosen), PRINTS, "run")
    resume.begin(str(tmp_path), Chosen.of(of(distill.Options, "--objective", "infonce")), PRINTS, "run")
    with pytest.raises(UserError, match=r"--objective masked: .* has infonce"):
        go_on(of(Next), tmp_path)


def test_an_option_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resume.GONE, "loudness", 1.0)
    begun_by_0_1(tmp_path, loudness=1.0)
    go_on(of(distill.Options), tmp_path)
    begun_by_0_1(tmp_path, loudness=2.0)
    with pytest.raises(UserError, match=r"--loudness 2.0, which the unfinished training in .* has, is no option any"):
        go_on(of(distill.Options), tmp_path)


def test_an_input_that_another_version_did_not_hash(tmp_path: Path) -> None:
    begun_by_0_1(tmp_path)
    go_on(of(distill.Options), tmp_path, texts="d")
    with pytest.raises(UserError, match=r"--teacher: the unfinished training in .* began with others"):
        go_on(of(distill.Options), tmp_path, texts="d", teacher="e")


def test_a_sweep_of_0_1_goes_on(tmp_path: Path) -> None:
    """It kept `--set` as one text."""
    begun_by_0_1(tmp_path, set="epochs=1,2 seed=3,4", preset=None, samples=None, metric=None, concurrent=None)
    chosen = of(sweep.Options, "--set", "epochs=1,2", "--set", "seed=3,4")
    assert go_on(chosen, tmp_path) == chosen
    with pytest.raises(UserError, match=r"--set epochs=1,2: .* has epochs=1,2 seed=3,4"):
        go_on(of(sweep.Options, "--set", "epochs=1,2"), tmp_path)


def test_options_made_in_python_were_given_where_they_differ_from_the_default() -> None:
    assert options.given(distill.Options("r.csv", "m", lr=1e-3)) == {"recordings", "out", "lr"}
    assert options.given(of(distill.Options, "--no-freeze-encoder")) == {"recordings", "out", "lr", "freeze_encoder"}
