from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill import htsat, kernels, packed, packed_int8, packed_linear, precision, student
from distill.audio import read_mono
from distill.errors import UserError
from distill.padding import fit_length
from tests import checkpoints
from tests.distill.test_htsat import ONE_WINDOW, OTHERWISE, SMALL, features, pair


@pytest.mark.parametrize(
    ("settings", "frames", "batch"),
    [(SMALL, 256, 3), (SMALL, 201, 1), (ONE_WINDOW, 256, 5), (OTHERWISE, 256, 3), ({}, 1001, 3)],
    ids=["small", "stretched", "one-window", "otherwise", "BioLingual"],
)
@pytest.mark.parametrize("chunk", [64, 1024])
def test_is_the_tower_of_transformers(
    settings: dict[str, Any], frames: int, batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of a clip's windows, or of several clips', is worked on at a time."""
    monkeypatch.setattr(packed, "CHUNK_TOKENS", chunk)
    theirs, ours = pair(settings)
    mel = features(frames, batch)
    expected = theirs(mel, is_longer=torch.zeros(batch, 1, dtype=torch.bool)).pooler_output
    found = packed.PackedTower(ours, torch.float32)(mel)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.skipif(kernels.library() is None, reason="distill/kernels.c was not compiled, or has no CPU here")
@pytest.mark.parametrize(("frames", "batch", "chunk"), [(1001, 3, 1024), (1001, 5, 64), (300, 2, 4096)])
def test_the_c_functions_change_only_the_last_bits(
    frames: int, batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closer to float32 than PyTorch's operators are, or as close, for whatever part of the windows at a time."""
    monkeypatch.setattr(packed, "CHUNK_TOKENS", chunk)
    _, ours = pair({})
    mel = features(frames, batch)
    exact = packed.PackedTower(ours, torch.float32)(mel)
    found = packed.PackedTower(ours, torch.bfloat16)
    assert all(isinstance(block.attend, packed._FusedAttention) for blocks in found.blocks for block in blocks)
    monkeypatch.setattr(kernels, "library", lambda: None)
    usual = packed.PackedTower(ours, torch.bfloat16)(mel)
    monkeypatch.undo()
    monkeypatch.setattr(packed, "CHUNK_TOKENS", chunk)
    error, of_usual = (found(mel) - exact).norm(), (usual - exact).norm()
    assert 0 < float(error) <= 1.1 * float(of_usual)


def test_without_onednns_operators_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair(SMALL)
    mel = features(256)
    monkeypatch.setattr(packed_linear, "has_packed", lambda dtype: False)
    torch.testing.assert_close(packed.PackedTower(ours, torch.float32)(mel), ours(mel), atol=2e-5, rtol=1e-4)


def test_features_of_another_shape_are_refused() -> None:
    _, ours = pair(SMALL)
    with pytest.raises(ValueError, match="256 frames of 64"):
        packed.PackedTower(ours, torch.float32)(features(300))


def test_auto_is_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.resolve("fp32", gpu=True) == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert precision.resolve("auto", gpu=False) == "fp32"
    assert precision.resolve("bf16", gpu=False) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": True})
    assert precision.resolve("auto", gpu=False) == "bf16"


@pytest.fixture(scope="module")
def biolingual(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A student of BioLingual's architecture, with random weights."""
    folder = tmp_path_factory.mktemp("full")
    made = student.from_base(str(checkpoints.clap(folder / "clap", small=False)), 768)
    student.save(made, str(folder / "student"), "")
    return str(folder / "student")


def check_loss(name: str, biolingual: str, waves: np.ndarray, least: float, apart: bool) -> None:
    """The cosine to float32, of the vectors and of what is left of them without what all recordings share."""
    given = torch.from_numpy(waves)
    exact = student.load(biolingual).embed(given)
    model = student.load(biolingual)
    precision.prepare(model, name)
    found = model.embed(given)
    assert float(F.cosine_similarity(found, exact).min()) >= least
    if not apart:
        return
    # Random weights give all sounds nearly the same vector: what differs between them is kept as well.
    shared = exact.mean(0)
    assert float((exact - shared).norm(dim=1).min()) > 0.1
    assert float(F.cosine_similarity(found - shared, exact - shared).min()) >= least


def synthetic() -> np.ndarray:
    """Tones, chirps and noises of 10 s at 48 kHz."""
    rng = np.random.default_rng(0)
    t = np.arange(480_000) / 48_000
    waves = [np.sin(2 * np.pi * (500 * k + 150 * k * t) * t) * (np.sin(k * t) > 0) for k in range(1, 5)]
    waves += [rng.normal(0, level, len(t)) for level in (0.001, 0.3)]
    return np.stack(waves).astype(np.float32) + 1e-4 * rng.normal(size=(6, len(t))).astype(np.float32)


KINDS = [("bf16", 0.999, True), ("int8", 0.995, kernels.library() is not None)]
"""Precision, least cosine, and whether it holds of what tells sounds apart too: with random weights that is so little
that PyTorch's int8, which has one range for a whole batch, does not resolve it."""


EIGHT = pytest.mark.skipif(not packed_linear.has_int8(), reason="the C functions are not here, or have no CPU here")
NARROW = SMALL | {"patch_size": 4, "patch_stride": [4, 4], "window_size": 8, "qkv_bias": False}
"""Widths that do not fill the panels of the products in 8 bits."""


def loud(settings: dict[str, Any]) -> htsat.Tower:
    """A tower whose weights are so large that clips differ in its vectors."""
    _, tower = pair(settings)
    with torch.no_grad():
        for weight in tower.parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5)
    return tower


@torch.no_grad()
def error_of_int8(tower: htsat.Tower, frames: int) -> float:
    """Error of what differs between clips, as a share of it."""
    mel = features(frames, 5)
    exact, found = tower(mel), packed.PackedTower(tower, torch.bfloat16, int8=True)(mel)
    exact, found = exact - exact.mean(0), found - found.mean(0)
    return float((found - exact).norm() / exact.norm())


@EIGHT
def test_int8_blocks_are_the_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And closer than layers of oneDNN's, which have one range for a part, are where the CPU has tiles."""
    tower = loud(NARROW)
    assert packed_int8.suits(tower) != bool(torch.cpu.get_capabilities().get("amx_int8"))
    monkeypatch.setattr(packed_int8, "suits", lambda tower: False)
    with_layers = error_of_int8(tower, 256)
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    assert packed_int8.suits(tower)
    assert 0 < error_of_int8(tower, 256) < with_layers < 0.3


@EIGHT
@pytest.mark.parametrize("settings", [ONE_WINDOW, OTHERWISE])
def test_towers_that_the_blocks_do_not_suit_have_layers(settings: dict[str, Any]) -> None:
    tower = loud(settings)
    assert not packed_int8.suits(tower)
    assert error_of_int8(tower, 256) < 0.3


@EIGHT
def test_a_clips_vector_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever clips go through a tower of int8 blocks with it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    tower = packed.PackedTower(loud(NARROW), torch.bfloat16, int8=True)
    mel = features(256, 5)
    assert torch.equal(tower(mel)[[3]], tower(mel[[3]]))


@EIGHT
def test_with_tiles_layers_multiply_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_int8": True})
    assert not packed_int8.suits(htsat.Tower(htsat.TowerConfig()))


@pytest.mark.parametrize(("name", "least", "apart"), KINDS)
def test_fewer_bits_cost_little(name: str, least: float, apart: bool, biolingual: str) -> None:
    check_loss(name, biolingual, synthetic(), least, apart)


@pytest.mark.parametrize(("name", "least", "apart"), KINDS)
def test_fewer_bits_cost_little_on_real_recordings(
    name: str, least: float, apart: bool, biolingual: str, shared: Path
) -> None:
    files = sorted((shared / "species_audio").rglob("*.*"))[::12][:8]
    assert len(files) >= 4
    waves = [fit_length(read_mono(str(file), 0.0, 10.0, 48_000), 480_000, "repeatpad") for file in files]
    check_loss(name, biolingual, np.stack(waves), least, apart)


def test_int8_is_refused_on_a_gpu() -> None:
    with pytest.raises(UserError, match="--precision int8 is for CPUs"):
        precision.resolve("int8", gpu=True)
