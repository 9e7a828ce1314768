from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapModel

from songsight.errors import UserError
from songsight.models import student
from tests import checkpoints

LOAD_OFFLINE = """
import torch
from songsight.models import student
made = student.from_base("davidrrobinson/BioLingual", 768)
mel = made.mel(torch.zeros(1, 480000))
print(sum(p.numel() for p in made.tower.parameters()), mel.shape, made(mel).shape,
      float(made.tower.batch_norm.running_mean.sum()))
"""


@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
def test_loads_biolingual_from_the_hub_cache(tmp_path: Path, as_bin: bool) -> None:
    """The published architecture, in both of the files that the hub may hold it in, with the hub out of reach."""
    made = checkpoints.clap(tmp_path / "made", small=False, as_bin=as_bin)
    assert (made / ("pytorch_model.bin" if as_bin else "model.safetensors")).is_file()
    checkpoints.lay_in_hub_cache(made, tmp_path / "hub", "davidrrobinson/BioLingual")
    run = subprocess.run(
        [sys.executable, "-c", LOAD_OFFLINE],
        env={"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = ClapModel.from_pretrained(made).audio_model.audio_encoder.batch_norm.running_mean.sum()
    numbers, rest = run.stdout.split(" ", 1)
    assert 27.4e6 < int(numbers) < 27.6e6
    assert rest.startswith("torch.Size([1, 1, 1001, 64]) torch.Size([1, 768])")
    assert float(rest.rsplit(" ", 1)[1]) == pytest.approx(float(expected), rel=1e-5)


def test_pooled_is_the_checkpoints_own(clap: Path) -> None:
    made = student.from_base(str(clap), 48)
    waves = torch.randn(3, made.mel.clip_samples, generator=torch.Generator().manual_seed(1)) * 0.1
    expected = ClapModel.from_pretrained(clap).eval().audio_model(made.mel(waves)).pooler_output
    torch.testing.assert_close(made.embed_pooled(waves), expected)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_saved_and_loaded_it_says_the_same(clap: Path, tmp_path: Path, head: student.Head) -> None:
    made = student.from_base(str(clap), 48, head, teacher="t", base_model=str(clap))
    student.save(made, str(tmp_path / "m"), card="# card")
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    again = student.load(str(tmp_path / "m"))
    waves = torch.randn(2, made.mel.clip_samples, generator=torch.Generator().manual_seed(1)) * 0.1
    vectors = again.embed(waves)
    torch.testing.assert_close(vectors, made.embed(waves))
    np.testing.assert_allclose(vectors.norm(dim=-1), 1, rtol=1e-5)
    assert again.config.teacher == "t"
    assert again.config.head == head


def test_a_fusion_checkpoint_uses_its_own_filters(tmp_path: Path) -> None:
    plain = student.from_base(str(checkpoints.clap(tmp_path / "a")), 8)
    fused = student.from_base(str(checkpoints.clap(tmp_path / "b", truncation="fusion")), 8)
    assert float((plain.mel.filters_FM - fused.mel.filters_FM).abs().max()) > 0.1


def test_a_name_that_is_nowhere_gives_one_line_that_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"neither a local folder nor reachable .*hf download nobody/nothing"):
        student.from_base("nobody/nothing", 8)
    with pytest.raises(UserError, match=r"--student /no/such/folder: no such folder"):
        student.from_base("/no/such/folder", 8)


def test_other_models_are_refused(clap: Path, teacher_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a 'clap' model, not a songsight one"):
        student.load(str(clap))
    with pytest.raises(UserError, match="is not a ClapModel checkpoint"):
        student.from_base(str(teacher_dir), 8)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "bert" / "preprocessor_config.json").write_bytes((clap / "preprocessor_config.json").read_bytes())
    with pytest.raises(UserError, match="'bert', not 'clap'"):
        student.from_base(str(tmp_path / "bert"), 8)
