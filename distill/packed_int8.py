"""Swin blocks whose products are in 8 bits, by the C functions of `packed_int8.c`, window by window.

They run on x86 CPUs that multiply bytes and bfloat16 (AVX512-VNNI and AVX512-BF16), see `kernels`. Each row of what
flows into a product is brought to 8 bits by its own range, and each row of the weights by its own. A call is one
thread's work.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distill import kernels

_PANEL = 48
"""Rows of the weights that a product works on side by side."""
_P, _N, _F = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


class _Linear(ctypes.Structure):
    _fields_ = (("panels", _P), ("scale", _P), ("sum", _P), ("bias", _P), ("depth", _N), ("width", _N))


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _P), ("bias", _P), ("eps", _F))


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("before", "after")),
        *((name, _Linear) for name in ("qkv", "out", "widen", "narrow")),
        *(("position", _P), ("kinds", _P), ("heads", _N), ("windows", _N), ("logit_scale", _F)),
    )


def suits(tower: Any) -> bool:
    """Whether the functions are the best that this CPU has, and are made for this `htsat.Tower`.

    They are not where tiles (AMX) multiply bytes, several times as fast.
    """
    if kernels.library() is None or torch.cpu.get_capabilities().get("amx_int8"):
        return False
    return all(map(_suits_block, tower.blocks)) and all(map(_suits_merge, tower.merges))


def _suits_block(block: Any) -> bool:
    width, hidden = block.out.in_features, block.widen.out_features
    attends = kernels.can_attend(block.window**2, width // block.heads)
    return attends and kernels.can_norm(3 * width) and kernels.can_norm(hidden) and block.activation is F.gelu


def _suits_merge(merge: Any) -> bool:
    width = merge.reduction.in_features  # of four tokens
    return kernels.can_norm(width) and kernels.can_norm(width // 4)


class Block:
    """One Swin block: [tokens of all clips, width], from any order of a clip's tokens to that of its windows.

    Args:
        block: whose weights, see `suits`.
        order: place among the given tokens of each of its own; None where they come in its order.
    """

    def __init__(self, block: Any, order: torch.Tensor | None) -> None:
        bias_KHAA, of_window, scale = kernels.attention_bias(block.bias(), block.out.in_features // block.heads)
        of_window = of_window.repeat(block.windows // len(of_window))
        self.clip = block.windows * kernels.AREA
        self._kept: list[Any] = [order, bias_KHAA, of_window]  # what the structure points to
        self._order = None if order is None else order.data_ptr()
        self._block = _Block(
            *(_norm(norm, self._kept) for norm in (block.norm_before, block.norm_after)),
            *(_linear(linear, self._kept) for linear in (block.qkv, block.out, block.widen, block.narrow)),
            *(bias_KHAA.data_ptr(), of_window.data_ptr(), block.heads, block.windows, scale),
        )
        self._scratch_bytes = kernels.library().block8_scratch(ctypes.byref(self._block))

    def __call__(self, x_NC: torch.Tensor, batch: int) -> torch.Tensor:
        """Bfloat16 [batch · tokens of a clip, width] from the same."""
        out_NC, scratch = torch.empty_like(x_NC), torch.empty(self._scratch_bytes, dtype=torch.uint8)
        addresses = (x_NC.data_ptr(), self._order, batch, out_NC.data_ptr(), scratch.data_ptr())
        kernels.library().block8(ctypes.byref(self._block), *addresses)
        return out_NC


class Merge:
    """Four tokens become one of twice the width.

    Args:
        merge: whose weights, see `suits`.
        order: place among a clip's given tokens of each, so that those of a new one come one behind the other.
    """

    def __init__(self, merge: Any, order: torch.Tensor | None) -> None:
        self._kept: list[Any] = [order]
        self._order = None if order is None else order.data_ptr()
        self._norm, self._linear = _norm(merge.norm, self._kept), _linear(merge.reduction, self._kept)

    def __call__(self, x_NC: torch.Tensor, batch: int) -> torch.Tensor:
        """Bfloat16 [batch · a quarter of the tokens, twice the width] of [batch · tokens of a clip, width]."""
        tokens = len(x_NC) // batch
        out = x_NC.new_empty(len(x_NC) // 4, self._linear.width)
        addresses = (x_NC.data_ptr(), self._order, batch, tokens, out.data_ptr())
        kernels.library().merge8(ctypes.byref(self._norm), ctypes.byref(self._linear), *addresses)
        return out


def _norm(norm: nn.LayerNorm, kept: list[Any]) -> _Norm:
    kept += (weight := norm.weight.detach().float().contiguous(), bias := norm.bias.detach().float().contiguous())
    return _Norm(weight.data_ptr(), bias.data_ptr(), norm.eps)


def _linear(linear: nn.Linear, kept: list[Any]) -> _Linear:
    width, depth = linear.weight.shape
    panels = -(-width // _PANEL)
    weight = torch.zeros(panels * _PANEL, depth)
    weight[:width] = linear.weight.detach()
    bias = torch.zeros(len(weight))
    if linear.bias is not None:
        bias[:width] = linear.bias.detach()
    scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    weight = (weight / scale[:, None]).round_()
    packed = weight.view(panels, _PANEL, depth // 4, 4).transpose(1, 2).to(torch.int8).contiguous()
    total = weight.sum(1)
    kept += (packed, scale, total, bias)
    return _Linear(*(tensor.data_ptr() for tensor in (packed, scale, total, bias)), depth, width)
