"""The hash that results, calibrations and trainings know a model by."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import open_clip
import pytest
import torch
from torch import nn
from transformers import ClapConfig, ClapModel

from songsight.models import encoder, precision, student
from songsight.models.clap import ClapEncoder
from songsight.store import checkpoints
from tests.checkpoints import SMALL_AUDIO, SMALL_CLIP, SMALL_TEXT

PREPROCESSOR = {"sampling_rate": 16000, "hop_length": 188, "max_length_s": 3, "frequency_max": 8000}
OTHER_TOWER = {
    "patch_embeds_hidden_size": 8,
    "depths": [1, 2, 1],
    "num_attention_heads": [1, 2, 4],
    "enable_patch_layer_norm": False,
    "qkv_bias": False,
    "projection_hidden_act": "gelu",
}


def filled(model: Any) -> Any:
    """The model with weights that are the same everywhere: quarters from 0 to 3.75, which every float holds."""
    for tensor in model.state_dict().values():
        tensor.copy_((torch.arange(tensor.numel()) % 16 / 4).view(tensor.shape))
    return model


def a_student(head: student.Head = "linear", **audio: Any) -> student.Student:
    config = student.StudentConfig(SMALL_AUDIO | audio, 48, head)
    return filled(student.Student(config, PREPROCESSOR | {"truncation": "rand_trunc"})).eval()


def a_clap(**audio: Any) -> ClapEncoder:
    model = ClapModel(ClapConfig(audio_config=SMALL_AUDIO | audio, text_config=SMALL_TEXT, projection_dim=24))
    return filled(ClapEncoder(student.Base(model), PREPROCESSOR, 0.1)).eval()


@pytest.mark.parametrize(
    ("make", "weights", "whole"),
    [
        (a_student, "ed1ba8715939b976", "dffcc97cf47ed0e0"),
        (partial(a_student, "mlp", **OTHER_TOWER), "0f449947bae4aa8f", "4d570863a5c9189f"),
        (a_clap, "41b0d75d6c2ebd0f", "8be8134223ecec83"),
        (partial(a_clap, **OTHER_TOWER), "494e01fc46df55db", "60822bd919c20132"),
    ],
)
def test_a_model_is_known_by_the_hash_that_0_1_gave_it(make: Callable[[], Any], weights: str, whole: str) -> None:
    """The values are of version 0.1's own code. Folders of results, trainings and calibrations hold such."""
    model = make()
    assert (checkpoints.fingerprint(model), encoder.fingerprint(model)) == (weights, whole)


def test_so_are_bases_and_teachers() -> None:
    """Theirs are by the names that transformers and open_clip give weights: a release that changes one is told here."""
    base = ClapModel(ClapConfig(audio_config=SMALL_AUDIO, text_config=SMALL_TEXT, projection_dim=24))
    teacher = open_clip.CLIP(**SMALL_CLIP)
    assert checkpoints.fingerprint(filled(base.audio_model)) == "da8102d4621d0ccf"
    assert checkpoints.fingerprint(filled(teacher)) == "5fb2f703199c6a68"


def test_classes_have_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renamed(student.Student):
        pass

    class Block(nn.Module):
        """What a block could become: one that holds more modules than before."""

    model = a_student()
    before = encoder.fingerprint(model)
    model.__class__ = Renamed
    model.tower.blocks[0].more = Block()
    assert encoder.fingerprint(model) == before


def test_what_decides_vectors_has() -> None:
    def with_a_weight() -> student.Student:
        model = a_student()
        model.tower.blocks[0].out.bias.data[0] += 1
        return model

    features = student.Student(a_student().config, PREPROCESSOR)  # of a fusion checkpoint
    several = [
        a_student(),
        a_student("mlp"),
        a_student(hidden_act="relu"),
        a_student(window_size=8),
        with_a_weight(),
        filled(features),
        a_clap(),
    ]
    assert len({encoder.fingerprint(model) for model in several}) == len(several)


def test_a_prepared_model_is_not_hashed() -> None:
    model = a_student()
    precision.prepare(model, "fp32", model.mel.frames)
    with pytest.raises(TypeError, match="before it is prepared"):
        encoder.fingerprint(model)
