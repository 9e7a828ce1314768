"""The C functions against their definitions. What they are for is in test_packed, a tower's vectors, and test_mel."""

from __future__ import annotations

import math
import platform
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill import kernels

needed = pytest.mark.skipif(
    kernels.library() is None, reason="distill/kernels.c was not compiled, or this CPU has no AVX512-BF16"
)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("cc"), reason="there is no C compiler for x86 here"
)
def test_where_there_is_a_compiler_they_were_compiled() -> None:
    """Else an install that leaves them out would only show as tests that are skipped, and as a slower tower."""
    assert list(Path(kernels.__file__).parent.glob("_kernels.*.so"))


@needed
def test_those_of_an_earlier_version_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as after `git pull` without another install."""
    assert kernels.library.__wrapped__() is not None
    monkeypatch.setitem(kernels._ARGUMENTS, "of_the_next_version", [])
    assert kernels.library.__wrapped__() is None


@needed
@pytest.mark.parametrize(("heads", "width"), [(4, 24), (2, 32), (3, 8), (1, 64)])
def test_attention_is_its_definition(heads: int, width: int) -> None:
    torch.manual_seed(0)
    qkv_NC = torch.randn(5 * kernels.AREA, 3 * heads * width).bfloat16()
    bias_KHAA = torch.randn(2, heads, kernels.AREA, kernels.AREA)
    bias_KHAA[1, :, :10, 30:] = -1e4  # some queries do not see some keys
    of_window = torch.tensor([0, 1, 1, 0, 1], dtype=torch.int32)
    q, k, v = qkv_NC.double().view(5, kernels.AREA, 3, heads, width).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-1, -2) * width**-0.5 + bias_KHAA[of_window.long()]
    expected = (torch.softmax(logits, -1) @ v).transpose(1, 2).reshape(len(qkv_NC), -1)
    inside = (bias_KHAA * math.log2(math.e)).transpose(2, 3).contiguous()
    found = kernels.attend(qkv_NC, inside, of_window, width**-0.5 * math.log2(math.e))
    # A weight and the result are rounded to 8 bits each.
    torch.testing.assert_close(found.double(), expected, atol=0.01, rtol=0.01)


@needed
def test_large_logits_do_not_overflow() -> None:
    qkv_NC = torch.full((kernels.AREA, 3 * 24), 100.0, dtype=torch.bfloat16)
    bias_KHAA = torch.zeros(1, 1, kernels.AREA, kernels.AREA)
    found = kernels.attend(qkv_NC, bias_KHAA, torch.zeros(1, dtype=torch.int32), 1.0)
    assert torch.equal(found, torch.full_like(found, 100.0))


@needed
@pytest.mark.parametrize("width", [16, 96, 3072])
def test_norm_is_layer_norm(width: int) -> None:
    torch.manual_seed(0)
    x_NC = (3 + 2 * torch.randn(7, width)).bfloat16()
    weight_C, bias_C = torch.rand(width), torch.randn(width)
    expected = F.layer_norm(x_NC.double(), (width,), weight_C.double(), bias_C.double(), 1e-5)
    found = kernels.norm(x_NC, weight_C, bias_C, 1e-5)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2**-8)


@needed
def test_gelu_is_as_exact_as_it_says() -> None:
    x = torch.linspace(-300, 300, 60_000).bfloat16()
    x[:20_000] = torch.linspace(-6, 6, 20_000).bfloat16()
    expected = F.gelu(x.double())
    found = kernels.gelu_(x.clone()).double()
    assert bool(((found - expected).abs() <= 2e-4 + 2**-8 * expected.abs()).all())


@needed
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-0.2, 40.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_eight_bits_reach_from_the_least_to_the_greatest(low: float, high: float) -> None:
    x = torch.linspace(low, high, 4096).bfloat16()
    q, scale, zero = kernels.quantise(x)
    assert q.dtype == torch.uint8
    assert 0 <= zero <= 255
    error = (scale * (q.double() - zero) - x.double()).abs()
    assert float(error.max()) <= 0.51 * scale
    assert scale == pytest.approx((max(high, 0) - min(low, 0)) / 255 or 1, rel=0.01)


@needed
@pytest.mark.parametrize(("samples", "hop"), [(48_000, 480), (5_000, 188), (1_024, 1), (513, 100)])
def test_features_are_their_definition(samples: int, hop: int) -> None:
    rng = np.random.default_rng(0)
    waves = (rng.standard_normal((2, samples)) * np.linspace(1e-3, 1, samples)).astype(np.float32)
    window = rng.random(1024, np.float32)
    filters_FM = np.zeros((513, 32), np.float32)
    for number, first in enumerate(range(0, 512, 16)):
        filters_FM[first : first + 1 + number, number] = rng.random(min(1 + number, 513 - first)) + 0.1
    filters_FM[:, 30] = 0
    filters_FM[:, 31] = 1  # bins 0 and 512 too
    padded = np.pad(waves.astype(np.float64), ((0, 0), (512, 512)), "reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024, 1)[:, ::hop]
    power = np.abs(np.fft.rfft(frames * window)) ** 2 @ filters_FM.astype(np.float64)
    expected = 10 * np.log10(np.maximum(power, 1e-10))
    bands = kernels.bands_of(torch.from_numpy(filters_FM))
    assert kernels.can_log_mel(1024, 32, samples)
    found = kernels.log_mel(torch.from_numpy(waves), torch.from_numpy(window), hop, bands, 1e-10)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=1e-3)


@needed
def test_threads_that_begin_together_have_the_same_features() -> None:
    waves, window = torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0)), torch.hann_window(1024)
    bands = kernels.bands_of(torch.ones(513, 16))
    expected = kernels.log_mel(waves, window, 480, bands, 1e-10)
    for _ in range(50):
        kernels._roots.cache_clear()
        begin = threading.Barrier(4)

        def made(begin: threading.Barrier = begin) -> torch.Tensor:
            begin.wait()
            return kernels.log_mel(waves, window, 480, bands, 1e-10)

        with ThreadPoolExecutor(4) as pool:
            found = [future.result() for future in [pool.submit(made) for _ in range(4)]]
        assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize(("fft_size", "filters", "samples"), [(512, 64, 48_000), (1024, 40, 48_000), (1024, 64, 512)])
def test_other_features_are_left_to_pytorch(fft_size: int, filters: int, samples: int) -> None:
    assert not kernels.can_log_mel(fft_size, filters, samples)
