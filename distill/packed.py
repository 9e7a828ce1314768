"""The HTS-AT tower for annotation on CPUs: the weights of `htsat.Tower`, laid out for the products of this machine.

The same function with three changes of order. The windows of a block are worked on a few at a time, so that what one
operation writes is in a core's cache for the next. Weights are kept in the layout that oneDNN's products read, which
also add the bias, GELU and the residual while a result is in a register. Position bias and shift mask are one tensor,
made once, and start the product of queries and keys.

Nothing here can be trained, and no dropout is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distill.htsat import Tower

# Tokens in one pass through a block: many enough for a full product, few enough for a core's second-level cache.
CHUNK_TOKENS = 1024
_CUBIC = -0.75  # the constant of PyTorch's bicubic interpolation


class PackedTower(nn.Module):
    """A tower that embeds only.

    Args:
        tower: whose weights it takes; in evaluation mode, on the CPU.
        dtype: of the weights and of what flows between operations: torch.float32 or torch.bfloat16. The features are
            normalised, and the tokens averaged, in float32.
    """

    def __init__(self, tower: Tower, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = tower.config
        self.dtype = dtype
        norm: Any = tower.batch_norm
        self.scale_M = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        self.shift_M = (norm.bias - norm.running_mean * self.scale_M).detach()
        self.patches = _linear(tower.patches, dtype)
        self.patch_norm = _norm(tower.patch_norm, dtype)
        self.blocks = [_PackedBlock(block, dtype) for block in tower.blocks]
        merges: Any = tower.merges
        self.merges = [(_norm(merge.norm, dtype), _linear(merge.reduction, dtype)) for merge in merges]
        self.before_block = [getattr(tower, f"_before_block_{n}") for n in range(len(tower.blocks))]
        self.before_merge = [getattr(tower, f"_before_merge_{n}") for n in range(len(tower.merges))]
        self.norm = _norm(tower.norm, dtype)
        self._stretches: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.inference_mode()
    def forward(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        """The pooled audio embedding, as `htsat.Tower` gives it.

        Args:
            mel_B1TM: float32 [batch, 1, frames, mels].

        Returns:
            float32 [batch, pooled width].
        """
        batch = len(mel_B1TM)
        x_NC = self.patch_norm(self.patches(self._cut(mel_B1TM)))
        number = 0
        for stage, depth in enumerate(self.config.depths):
            for _ in range(depth):
                x_NC = _reorder(x_NC, batch, self.before_block[number])
                x_NC = self.blocks[number](x_NC)
                number += 1
            if stage + 1 < len(self.config.depths):
                x_NC = _reorder(x_NC, batch, self.before_merge[stage])
                norm, reduce = self.merges[stage]
                x_NC = reduce(norm(x_NC.view(len(x_NC) // 4, -1)))
        return self.norm(x_NC).view(batch, -1, x_NC.shape[1]).mean(1, dtype=torch.float32)

    def _cut(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        """Normalised mels, folded into a square and cut into patches: [batch · tokens, patch_size²], see `Tower`."""
        config = self.config
        frames, patch = config.spec_size**2 // config.num_mel_bins, config.patch_size
        batch, _, given, mels = mel_B1TM.shape
        if given > frames or mels != config.num_mel_bins:
            raise ValueError(f"features of shape {tuple(mel_B1TM.shape)} for {frames} frames of {config.num_mel_bins}")
        x_BTM = torch.addcmul(self.shift_M, mel_B1TM[:, 0].float(), self.scale_M)
        if given < frames:
            x_BTM = self._stretch(x_BTM, frames)
        folds = config.spec_size // mels
        x = x_BTM.to(self.dtype).view(batch, folds, frames // folds // patch, patch, mels // patch, patch)
        return x.permute(0, 1, 4, 2, 5, 3).reshape(-1, patch * patch)

    def _stretch(self, x_BTM: torch.Tensor, frames: int) -> torch.Tensor:
        """`F.interpolate(…, mode="bicubic", align_corners=True)` along time alone: 4 taps instead of 16."""
        if x_BTM.shape[1] not in self._stretches:
            self._stretches[x_BTM.shape[1]] = _taps(x_BTM.shape[1], frames)
        rows_4T, weights_4T1 = self._stretches[x_BTM.shape[1]]
        out = x_BTM.index_select(1, rows_4T[0]).mul_(weights_4T1[0])
        for rows_T, weights_T1 in zip(rows_4T[1:], weights_4T1[1:], strict=True):
            out.addcmul_(x_BTM.index_select(1, rows_T), weights_T1)
        return out


class _PackedBlock:
    """One Swin block on tokens in the order of its windows: [tokens of all clips, width]."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        self.heads, self.area = block.heads, block.window**2
        self.norm_before, self.norm_after = _norm(block.norm_before, dtype), _norm(block.norm_after, dtype)
        self.qkv, self.out = _linear(block.qkv, dtype), _linear(block.out, dtype)
        activation = "gelu" if block.activation is F.gelu else None
        self.widen, self.narrow = _linear(block.widen, dtype, activation), _linear(block.narrow, dtype)
        self.activation = None if activation else block.activation
        self.scale = (block.out.in_features // block.heads) ** -0.5
        # As many windows at a time as the bias is made for: a part of a clip's, or those of several clips.
        at_once = max(1, CHUNK_TOKENS // self.area)
        if block.windows >= at_once:
            self.at_once = next(n for n in range(at_once, 0, -1) if block.windows % n == 0)
        else:
            self.at_once = at_once // block.windows * block.windows
        bias_WHAA = block.bias().detach().to(dtype)
        period = max(self.at_once, len(bias_WHAA))
        bias_WHAA = bias_WHAA.repeat(period // len(bias_WHAA), 1, 1, 1)
        self.bias = [part.flatten(0, 1).contiguous() for part in bias_WHAA.split(self.at_once)]

    def __call__(self, x_NC: torch.Tensor) -> torch.Tensor:
        out_NC = torch.empty_like(x_NC)
        for number, (x, out) in enumerate(self._parts(x_NC, out_NC)):
            attended = self._attend(self.norm_before(x), self.bias[number % len(self.bias)])
            x = self.out(attended, add=x)
            hidden = self.widen(self.norm_after(x))
            if self.activation:
                hidden = self.activation(hidden)
            out.copy_(self.narrow(hidden, add=x))
        return out_NC

    def _parts(self, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        return zip(*(tensor.split(self.at_once * self.area) for tensor in tensors), strict=True)

    def _attend(self, x_NC: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        tokens, width = x_NC.shape
        windows = tokens // self.area
        qkv = self.qkv(x_NC).view(windows, self.area, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2).unbind(0)
        logits = torch.baddbmm(bias[: len(q)], q, k.transpose(1, 2), alpha=self.scale)
        out = torch.bmm(torch.softmax(logits, -1), v)
        return out.view(windows, self.heads, self.area, -1).transpose(1, 2).reshape(tokens, width)


def _reorder(x_NC: torch.Tensor, batch: int, order: torch.Tensor | None) -> torch.Tensor:
    if order is None:
        return x_NC
    return x_NC.view(batch, len(order), -1).index_select(1, order).view(x_NC.shape)


def _norm(norm: nn.Module, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: x
    assert norm.weight is not None
    weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
    return lambda x: F.layer_norm(x, weight.shape, weight, bias, norm.eps)


def _linear(linear: nn.Linear, dtype: torch.dtype, activation: str | None = None) -> Any:
    """A linear layer, with the activation or a sum behind it, in the fastest way that this PyTorch has."""
    kind = _PackedLinear if _has_packed(dtype) else _PlainLinear
    return kind(linear, dtype, activation)


def _has_packed(dtype: torch.dtype) -> bool:
    """Whether the operators behind `torch.compile`'s frozen graphs are there for this type."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class _PlainLinear:
    def __init__(self, linear: nn.Linear, dtype: torch.dtype, activation: str | None) -> None:
        self.weight = linear.weight.detach().to(dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.activation = activation

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        out = F.linear(x, self.weight, self.bias)
        if self.activation:
            out = F.gelu(out)
        return out if add is None else out.add_(add)


class _PackedLinear:
    def __init__(self, linear: nn.Linear, dtype: torch.dtype, activation: str | None) -> None:
        weight = linear.weight.detach().to(dtype).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, CHUNK_TOKENS)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.behind: tuple[str, list[Any], str] = ("gelu", [], "none") if activation else ("none", [], "")
        self.product = torch.ops.mkldnn._linear_pointwise.default
        self.product_and_sum = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        if add is None:
            return self.product(x, self.weight, self.bias, *self.behind)
        return self.product_and_sum(x, add, self.weight, self.bias, "add")


def _taps(given: int, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cubic convolution (Keys 1981) with both ends kept: rows int64 [4, wanted], weights float32 [4, wanted, 1]."""
    at = torch.arange(wanted, dtype=torch.float64) * ((given - 1) / (wanted - 1))
    first = at.floor()
    rows = torch.stack([(first.long() + tap).clamp(0, given - 1) for tap in (-1, 0, 1, 2)])
    distance = torch.stack([(at - first - tap).abs() for tap in (-1, 0, 1, 2)])
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return rows, torch.where(distance <= 1, near, far).float()[..., None]
