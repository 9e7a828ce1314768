"""Linear layers that only go forward, in the fastest way that this PyTorch and CPU have.

Each is called as `layer(x)`, or as `layer(x, add=y)` for the sum of its result and `y`; what is given first is left as
it is, `y` may be overwritten. GELU may stand behind the product.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from distill import kernels


class Layer(Protocol):
    """[rows, given width] to [rows, width], in the type of what is given."""

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor: ...


def layer(linear: nn.Linear, dtype: torch.dtype, rows: int, int8: bool = False, gelu: bool = False) -> Layer:
    """A layer of these weights.

    Args:
        linear: whose weights.
        dtype: of what flows in and out: torch.float32 or torch.bfloat16.
        rows: how many there usually are.
        int8: whether to multiply in 8 bits; `has_int8()` is then true and dtype bfloat16.
        gelu: whether GELU stands behind it.
    """
    # oneDNN's own GELU costs a half more than a pass of the C function over the result.
    with_kernel = dtype == torch.bfloat16 and kernels.library() is not None and kernels.can_norm(linear.out_features)
    made: Layer
    if int8 and kernels.can_norm(linear.in_features):
        made = _Int8(linear, rows)
    elif has_packed(dtype):
        made = _Packed(linear, dtype, rows, gelu and not with_kernel)
        gelu = gelu and with_kernel
    else:
        made = _Plain(linear, dtype)
    return _Gelu(made, kernels.gelu_ if with_kernel else F.gelu) if gelu else made


def has_packed(dtype: torch.dtype) -> bool:
    """Whether the operators behind `torch.compile`'s frozen graphs are there for this type."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_int8() -> bool:
    """Whether products of 8 bits can be had here."""
    return kernels.library() is not None and hasattr(torch.ops.onednn, "qlinear_pointwise")


class _Plain:
    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        self.weight = linear.weight.detach().to(dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        out = F.linear(x, self.weight, self.bias)
        return out if add is None else out.add_(add)


class _Packed:
    """Weights in the layout that oneDNN's products read; bias, GELU and sum while a result is in a register."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, rows: int, gelu: bool) -> None:
        weight = linear.weight.detach().to(dtype).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.behind: tuple[str, list[Any], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        self.product = torch.ops.mkldnn._linear_pointwise.default
        self.product_and_sum = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        if add is None:
            return self.product(x, self.weight, self.bias, *self.behind)
        return self.product_and_sum(x, add, self.weight, self.bias, "add")


class _Int8:
    """Weights in 8 bits, a scale for each row of them; what is given is brought to 8 bits by its own range."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        weight = linear.weight.detach().float()
        self.scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        weight = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(weight, [rows, linear.in_features])
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self.product = torch.ops.onednn.qlinear_pointwise.default
        self.product_and_sum = torch.ops.onednn.qlinear_pointwise.binary

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        given = (*kernels.quantise(x), self.weight, self.scales, self.zeros)
        to = (1.0, 0, torch.bfloat16)
        if add is None:
            return self.product(*given, self.bias, *to, "none", [], "")
        return self.product_and_sum(*given, add, self.bias, *to, 1.0, 0, "sum", 1.0, "none", [], "")


class _Gelu:
    def __init__(self, before: Layer, function: Any) -> None:
        self.before, self.function = before, function

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        assert add is None
        return self.function(self.before(x))
