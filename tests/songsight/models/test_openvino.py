from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from songsight.models import htsat, openvino, precision, student
from songsight.store import cache
from tests.songsight.models.test_htsat import SMALL, features, pair

if not openvino.is_available("fp32"):
    pytest.skip("OpenVINO has no wheel for this machine", allow_module_level=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(("settings", "frames"), [(SMALL, 256), (SMALL, 201), ({}, 1001)])
def test_it_is_the_tower(settings: dict[str, object], frames: int) -> None:
    _, tower = pair(settings)
    mel = features(frames, batch=2)
    with torch.inference_mode():
        expected = tower(mel)
    found = openvino.OpenVinoTower(tower, frames, "fp32")(mel)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_bf16_keeps_the_direction_of_vectors() -> None:
    if not openvino.is_available("bf16"):
        pytest.skip("this CPU does not multiply bfloat16")
    _, tower = pair({})
    mel = features(1001, batch=2)
    with torch.inference_mode():
        expected = tower(mel)
    found = openvino.OpenVinoTower(tower, 1001, "bf16")(mel)
    assert float(torch.cosine_similarity(found, expected).min()) >= 0.999
    assert not torch.equal(found, expected)


def test_it_is_converted_once_for_each_set_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tower = pair(SMALL)
    converted = []
    convert = openvino._convert
    monkeypatch.setattr(openvino, "_convert", lambda *given: (converted.append(given), convert(*given)))
    first = openvino.OpenVinoTower(tower, 256, "fp32")(features(256))
    again = openvino.OpenVinoTower(tower, 256, "fp32")(features(256))
    assert (len(converted), torch.equal(first, again)) == (1, True)
    with torch.no_grad():
        tower.norm.bias.add_(1)
    assert not torch.allclose(openvino.OpenVinoTower(tower, 256, "fp32")(features(256)), first)
    assert len(converted) == 2
    assert len(list((Path(cache.folder()) / "openvino").glob("*/tower.bin"))) == 2


def test_nobody_is_told_that_a_model_was_converted() -> None:
    _, tower = pair(SMALL)
    openvino.OpenVinoTower(tower, 256, "fp32")
    assert sys.modules["openvino_telemetry"] is None


def test_without_openvino_pytorch_embeds(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = torch.randn(2, 48000, generator=torch.Generator().manual_seed(0))
    expected = student.load(str(model_dir)).embed(waves)
    monkeypatch.setitem(sys.modules, "openvino", None)
    plain = student.load(str(model_dir))
    precision.prepare(plain, "fp32", plain.mel.frames)
    assert isinstance(plain.tower, htsat.Tower)
    assert torch.equal(plain.embed(waves), expected)
    plain = student.load(str(model_dir))
    precision.prepare(plain, "bf16", plain.mel.frames)
    assert float((plain.embed(waves) * expected).sum(1).min()) >= 0.999
