from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.clap.configuration_clap import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioModel

from songsight.errors import UserError
from songsight.models import htsat
from tests.checkpoints import SMALL_AUDIO

SMALL: dict[str, Any] = SMALL_AUDIO
ONE_WINDOW = SMALL | {"patch_size": 16, "patch_stride": [16, 16], "depths": [1, 2]}  # the last stage is one window
OTHERWISE = SMALL | {"qkv_bias": False, "hidden_act": "relu", "mlp_ratio": 2.0, "enable_patch_layer_norm": False}


def pair(settings: dict[str, Any]) -> tuple[ClapAudioModel, htsat.Tower]:
    torch.manual_seed(0)
    theirs = ClapAudioModel(ClapAudioConfig(**settings)).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if weight.ndim == 1 or "bias_table" in name:  # random, so that one left out is found out
                weight.normal_(0, 0.3)
        theirs.audio_encoder.batch_norm.running_mean.normal_(-30, 5)
        theirs.audio_encoder.batch_norm.running_var.uniform_(200, 400)
    config = htsat.TowerConfig.of(theirs.config.to_dict())
    ours = htsat.Tower(config).eval()
    ours.load_state_dict(htsat.from_clap(theirs.state_dict(), config))
    return theirs, ours


def features(frames: int, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 1, frames, 64, generator=torch.Generator().manual_seed(1)) * 15 - 30


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        (SMALL, 256),
        (SMALL, 201),
        (ONE_WINDOW, 256),
        (OTHERWISE, 256),
        (SMALL | {"enable_fusion": True}, 256),
        ({}, 1001),
    ],
    ids=["small", "stretched", "one-window", "otherwise", "fusion", "BioLingual"],
)
def test_is_the_tower_of_transformers(settings: dict[str, Any], frames: int) -> None:
    theirs, ours = pair(settings)
    mel = features(frames)
    # A fusion tower takes four crops, of which a window is the first: the rest is for longer clips.
    given = mel.expand(-1, 4, -1, -1) if settings.get("enable_fusion") else mel
    expected = theirs(given, is_longer=torch.zeros(3, 1, dtype=torch.bool)).pooler_output
    assert float(expected.detach().std()) > 0.01
    torch.testing.assert_close(ours(mel), expected, atol=2e-5, rtol=1e-4)


def test_its_gradients_are_those_of_transformers() -> None:
    theirs, ours = pair(SMALL)
    mel = features(256)
    theirs(mel, is_longer=torch.zeros(3, 1, dtype=torch.bool)).pooler_output.square().sum().backward()
    ours(mel).square().sum().backward()
    gradients = {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None}
    expected = htsat.from_clap(gradients | dict(theirs.named_buffers()), ours.config)
    compared = 0
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], atol=1e-4, rtol=1e-3)
        compared += 1
    assert compared == len(list(ours.named_parameters())) > 20


def test_to_clap_is_the_inverse() -> None:
    theirs, ours = pair(ONE_WINDOW)
    back = htsat.to_clap(ours.state_dict(), ours.config)
    missing = {name for name in theirs.state_dict() if name not in back}
    assert all(name.endswith("relative_position_index") for name in missing)
    for name, weight in back.items():
        assert torch.equal(weight, theirs.state_dict()[name])


def test_transformers_reads_a_saved_students_tower(model_dir: Path) -> None:
    from songsight.models import student

    made = student.load(str(model_dir))
    config = ClapAudioConfig(**made.config.audio_config)
    theirs = ClapAudioModel(config).eval()
    state = {k.removeprefix("audio_model."): v for k, v in load_file(model_dir / "model.safetensors").items()}
    found = theirs.load_state_dict(state, strict=False)
    assert all(name.endswith("relative_position_index") for name in found.missing_keys)
    mel = features(256)
    expected = theirs(mel, is_longer=torch.zeros(3, 1, dtype=torch.bool)).pooler_output
    torch.testing.assert_close(made.pooled(mel), expected, atol=2e-5, rtol=1e-4)


def test_in_training_dropout_and_stochastic_depth_are_drawn() -> None:
    _, ours = pair(SMALL | {"drop_path_rate": 0.5})
    mel = features(256)
    ours.train().batch_norm.eval()
    torch.manual_seed(3)
    first = ours(mel)
    assert not torch.equal(first, ours(mel))
    torch.manual_seed(3)
    assert torch.equal(first, ours(mel))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_stride": [4, 4]}, "overlap"),
        ({"hidden_act": "swish"}, "hidden_act 'swish'"),
        ({"enable_fusion": True, "fusion_type": "channel_map"}, "channel_map"),
        ({"spec_size": 96}, "multiple of num_mel_bins"),
        ({"window_size": 6}, "do not tile"),
    ],
)
def test_towers_it_cannot_compute_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        htsat.TowerConfig.of(SMALL | change)


def test_features_of_another_shape_are_refused() -> None:
    _, ours = pair(SMALL)
    with pytest.raises(ValueError, match="256 frames of 64"):
        ours(features(300))


def test_to_load_a_student_imports_no_transformers() -> None:
    code = "import sys, inference.annotate.annotator, songsight.models.student; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
