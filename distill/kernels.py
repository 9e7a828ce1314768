"""The C functions on tensors: what stands between the products of a packed tower (`kernels.c`), and features (`mel.c`).

They are compiled when songsight is installed, where there is a C compiler, and run on x86 CPUs that multiply bfloat16
(AVX512-BF16); all works without them, on PyTorch's operators. A call is one thread's work. Tensors are contiguous.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any, NamedTuple

import numpy as np
import torch

AREA = 64
"""Tokens of a window that `attend` is made for: 8 × 8, as every published tower has them."""
_LANES, _WIDEST_HEAD, _WIDEST_ROW, _FFT = 16, 64, 4096, 1024
_P, _N, _F = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_ARGUMENTS: dict[str, list[Any]] = {
    "attend": [_P, _P, _P, _P, _N, _N, _N, _F],
    "norm": [_P, _P, _P, _P, _N, _N, _F],
    "gelu": [_P, _N],
    "quantise": [_P, _P, _N, _P, _P],
    "block8": [_P, _P, _P, _N, _P, _P],
    "block8_scratch": [_P],
    "merge8": [_P, _P, _P, _P, _N, _N, _P],
    "log_mel": [_P, _P, _N, _N, _N, _P, _P, _P, _P, _N, _F],
}
_CPU_FLAGS = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16", "avx512_vnni")


@cache
def library() -> Any:
    """The compiled functions; None where they were not compiled or lack one, or this CPU lacks their instructions."""
    flags: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not all(flags.get(name) for name in _CPU_FLAGS):
        return None
    for ending in EXTENSION_SUFFIXES:
        path = os.path.join(os.path.dirname(__file__), f"_kernels{ending}")
        if os.path.exists(path):
            loaded = ctypes.CDLL(path)
            if not all(hasattr(loaded, name) for name in _ARGUMENTS):
                return None  # compiled from an earlier version
            for name, arguments in _ARGUMENTS.items():
                getattr(loaded, name).argtypes, getattr(loaded, name).restype = arguments, None
            loaded.block8_scratch.restype = _N
            return loaded
    return None


def can_attend(area: int, head_width: int) -> bool:
    """Whether `attend` takes windows of so many tokens and heads of this width."""
    return area == AREA and head_width % 4 == 0 and head_width <= _WIDEST_HEAD


def can_norm(width: int) -> bool:
    """Whether `norm`, `gelu_` and `quantise` take rows of this width."""
    return width % _LANES == 0 and width <= _WIDEST_ROW


def attention_bias(bias_WHAA: torch.Tensor, head_width: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """What `attend` adds to the logits, from what softmax wants added to them.

    Args:
        bias_WHAA: float [windows, heads, queries, keys].
        head_width: of the queries.

    Returns:
        (bias [kinds, heads, keys, queries], which kind a window has [windows], scale), as `attend` takes them.
    """
    # Most windows share one of a few masks: so few biases stay in a core's cache.
    kinds_KHAA, of_window = torch.unique(bias_WHAA.detach().float(), dim=0, return_inverse=True)
    # Powers of two are cheaper than those of e.
    bias_KHAA = (kinds_KHAA * math.log2(math.e)).transpose(2, 3).contiguous()
    return bias_KHAA, of_window.to(torch.int32), math.log2(math.e) * head_width**-0.5


def attend(qkv_NC: torch.Tensor, bias_KHAA: torch.Tensor, of_window: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax₂(scale · q kᵀ + bias) v for each head of each window, where softmax₂ is of powers of two.

    Args:
        qkv_NC: bfloat16 [windows · area, 3 · heads · width of a head]: all heads' queries, then keys, then values.
        bias_KHAA: float32 [kinds, heads, keys, queries].
        of_window: int32 [windows], which kind of bias a window has.
        scale: of the product.

    Returns:
        bfloat16 [windows · area, heads · width].
    """
    heads = bias_KHAA.shape[1]
    out_NC = qkv_NC.new_empty(len(qkv_NC), qkv_NC.shape[1] // 3)
    addresses = [tensor.data_ptr() for tensor in (qkv_NC, out_NC, bias_KHAA, of_window)]
    library().attend(*addresses, len(qkv_NC) // AREA, heads, out_NC.shape[1] // heads, scale)
    return out_NC


def norm(x_NC: torch.Tensor, weight_C: torch.Tensor, bias_C: torch.Tensor, eps: float) -> torch.Tensor:
    """`F.layer_norm` of each row: bfloat16 [rows, width] from the same; weight and bias float32."""
    out_NC = torch.empty_like(x_NC)
    addresses = [tensor.data_ptr() for tensor in (x_NC, weight_C, bias_C, out_NC)]
    library().norm(*addresses, *x_NC.shape, eps)
    return out_NC


def gelu_(x: torch.Tensor) -> torch.Tensor:
    """`F.gelu` to 2e-4, which is less than bfloat16 resolves from 0.1 on; in place, bfloat16."""
    library().gelu(x.data_ptr(), x.numel())
    return x


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, float, int]:
    """A bfloat16 tensor in 8 bits that reach from its least to its greatest number: x ≈ scale · (q - zero).

    Returns:
        (q uint8 of the shape of x, scale, zero).
    """
    q = torch.empty_like(x, dtype=torch.uint8)
    scale, zero = ctypes.c_float(), ctypes.c_int64()
    library().quantise(x.data_ptr(), q.data_ptr(), x.numel(), ctypes.addressof(scale), ctypes.addressof(zero))
    return q, scale.value, zero.value


class Bands(NamedTuple):
    """A filter bank without its zeros.

    Attributes:
        weights: float32, of one filter's bins after the other's.
        bins: int32 [filters, 2], each one's first bin and the one behind its last.
    """

    weights: torch.Tensor
    bins: torch.Tensor


def bands_of(filters_FM: torch.Tensor) -> Bands:
    """Of a bank float32 [bins, filters] of which each filter is not zero in one stretch of bins."""
    weights, bins = [], []
    for filter_F in filters_FM.T:
        heard = torch.nonzero(filter_F)
        first, behind = (int(heard[0]), int(heard[-1]) + 1) if len(heard) else (0, 0)
        weights.append(filter_F[first:behind])
        bins.append((first, behind))
    return Bands(torch.cat(weights), torch.tensor(bins, dtype=torch.int32))


def can_log_mel(fft_size: int, filters: int, samples: int) -> bool:
    """Whether `log_mel` is made for transforms of this size, so many filters and waves of so many samples."""
    return fft_size == _FFT and filters % _LANES == 0 and samples > _FFT // 2


def log_mel(waves_BS: torch.Tensor, window_N: torch.Tensor, hop: int, bands: Bands, floor: float) -> torch.Tensor:
    """10 log₁₀ of the filtered power spectra of waves, reflected at both ends.

    Args:
        waves_BS: float32 [clips, samples].
        window_N: float32 [1024].
        hop: samples from one frame to the next.
        bands: of bins 0 to 512 of a spectrum.
        floor: the least power.

    Returns:
        float32 [clips, samples // hop + 1, filters].
    """
    clips, samples = waves_BS.shape
    out_BTM = waves_BS.new_empty(clips, samples // hop + 1, len(bands.bins))
    tables = (window_N, _roots(), *bands)  # held here: of threads that ask first together, the cache keeps one's roots
    addresses = [tensor.data_ptr() for tensor in tables]
    library().log_mel(waves_BS.data_ptr(), out_BTM.data_ptr(), clips, samples, hop, *addresses, len(bands.bins), floor)
    return out_BTM


@cache
def _roots() -> torch.Tensor:
    """exp(-2πi k / 1024) for all k, float32 [1024, 2]."""
    roots = np.exp(-2j * np.pi * np.arange(_FFT) / _FFT)
    return torch.from_numpy(roots.astype(np.complex64).view(np.float32).reshape(_FFT, 2))
