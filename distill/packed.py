"""The HTS-AT tower for annotation on CPUs: the weights of `htsat.Tower`, laid out for the products of this machine.

The same function with another order of work. The windows of a block are worked on a few at a time, so that what one
operation writes is in a core's cache for the next. Weights are kept in the layout that the products read
(`packed_linear`). Position bias and shift mask are one tensor, made once. Between the products stand C functions, where
there are some for this CPU (`kernels`), else PyTorch's operators.

Nothing here can be trained, and no dropout is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distill import kernels, packed_int8
from distill.htsat import Tower
from distill.packed_linear import layer

# Tokens in one pass through a block: many enough for a full product, few enough for a core's second-level cache.
CHUNK_TOKENS = 1024
_CUBIC = -0.75  # the constant of PyTorch's bicubic interpolation


class PackedTower(nn.Module):
    """A tower that embeds only.

    Args:
        tower: whose weights it takes; in evaluation mode, on the CPU.
        dtype: of the weights and of what flows between operations: torch.float32 or torch.bfloat16. The features are
            normalised, and the tokens averaged, in float32.
        int8: whether products with weights are in 8 bits, all but the patches'; see `packed_linear.has_int8`. Where
            `packed_int8` suits the tower, its blocks are those, else layers as the other types have them.
    """

    def __init__(self, tower: Tower, dtype: torch.dtype, int8: bool = False) -> None:
        super().__init__()
        self.config = tower.config
        self.dtype = dtype
        norm: Any = tower.batch_norm
        self.scale_M = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        self.shift_M = (norm.bias - norm.running_mean * self.scale_M).detach()
        self.patches = layer(tower.patches, dtype, CHUNK_TOKENS)
        self.patch_norm = _norm(tower.patch_norm, dtype)
        orders = [getattr(tower, f"_before_block_{n}") for n in range(len(tower.blocks))]
        before_merge = [getattr(tower, f"_before_merge_{n}") for n in range(len(tower.merges))]
        in_windows = int8 and packed_int8.suits(tower)
        block: Callable[..., Any] = packed_int8.Block if in_windows else partial(_PackedBlock, dtype=dtype, int8=int8)
        merge: Callable[..., Any] = packed_int8.Merge if in_windows else partial(_PackedMerge, dtype=dtype, int8=int8)
        blocks = map(block, tower.blocks, orders)
        self.blocks = [list(islice(blocks, depth)) for depth in self.config.depths]
        self.merges = list(map(merge, tower.merges, before_merge))
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
        # What fills a core's cache in the early stages is a clip's tokens: clips go through them one by one. In the
        # later ones it is the weights, which all clips share.
        early = sum(blocks[0].clip >= CHUNK_TOKENS for blocks in self.blocks)
        clips = [self._through(range(early), self._begin(mel), 1) for mel in mel_B1TM.split(1)]
        x_NC = self._through(range(early, len(self.blocks)), torch.cat(clips), batch)
        return self.norm(x_NC).view(batch, -1, x_NC.shape[1]).mean(1, dtype=torch.float32)

    def _begin(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        return self.patch_norm(self.patches(self._cut(mel_B1TM)))

    def _through(self, stages: range, x_NC: torch.Tensor, batch: int) -> torch.Tensor:
        for stage in stages:
            for block in self.blocks[stage]:
                x_NC = block(x_NC, batch)
            if stage < len(self.merges):
                x_NC = self.merges[stage](x_NC, batch)
        return x_NC

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
    """One Swin block: [tokens of all clips, width], from any order of a clip's tokens to that of its windows.

    Args:
        block: whose weights.
        order: place among the given tokens of each of its own; None where they come in its order.
        dtype, int8: see `PackedTower`.
    """

    def __init__(self, block: Any, order: torch.Tensor | None, dtype: torch.dtype, int8: bool) -> None:
        # As many windows at a time as fill a part: some of a clip's, or those of several clips.
        area = block.window**2
        at_once = max(1, CHUNK_TOKENS // area)
        if block.windows >= at_once:
            at_once = next(n for n in range(at_once, 0, -1) if block.windows % n == 0)
        else:
            at_once = at_once // block.windows * block.windows
        self.part, self.clip = at_once * area, block.windows * area
        self.orders = None if order is None else order.split(self.part)
        self.norm_before, self.norm_after = _norm(block.norm_before, dtype), _norm(block.norm_after, dtype)
        self.attend = _attention(block, at_once, dtype)
        self.qkv = layer(block.qkv, dtype, self.part, int8)
        self.out = layer(block.out, dtype, self.part, int8)
        gelu = block.activation is F.gelu
        self.activation = None if gelu else block.activation
        self.widen = layer(block.widen, dtype, self.part, int8, gelu)
        self.narrow = layer(block.narrow, dtype, self.part, int8)

    def __call__(self, x_NC: torch.Tensor, batch: int) -> torch.Tensor:
        out_NC = torch.empty_like(x_NC)
        for number, (x, out) in enumerate(zip(self._parts(x_NC, batch), out_NC.split(self.part), strict=True)):
            x = self.out(self.attend(self.qkv(self.norm_before(x)), number), add=x)
            hidden = self.widen(self.norm_after(x))
            if self.activation:
                hidden = self.activation(hidden)
            out.copy_(self.narrow(hidden, add=x))
        return out_NC

    def _parts(self, x_NC: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
        """What is worked on at a time, in the block's own order."""
        if self.orders is None:
            yield from x_NC.split(self.part)
        elif self.part < self.clip:
            for x in x_NC.view(batch, self.clip, -1):
                yield from (x.index_select(0, order) for order in self.orders)
        else:
            for x in x_NC.view(batch, self.clip, -1).split(self.part // self.clip):
                yield x.index_select(1, self.orders[0]).flatten(0, 1)


class _PackedMerge:
    """Four tokens of a clip, at the places that the order gives, become one of twice the width."""

    def __init__(self, merge: Any, order: torch.Tensor | None, dtype: torch.dtype, int8: bool) -> None:
        self.order, self.norm = order, _norm(merge.norm, dtype)
        self.reduce = layer(merge.reduction, dtype, CHUNK_TOKENS // 4, int8)

    def __call__(self, x_NC: torch.Tensor, batch: int) -> torch.Tensor:
        if self.order is not None:
            x_NC = x_NC.view(batch, len(self.order), -1).index_select(1, self.order)
        return self.reduce(self.norm(x_NC.reshape(-1, 4 * x_NC.shape[-1])))


def _attention(block: Any, at_once: int, dtype: torch.dtype) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """From queries, keys and values of a part's tokens, side by side, and the part's number, to what is attended to."""
    bias_WHAA = block.bias().detach()
    head_width = block.out.in_features // block.heads
    fused = dtype == torch.bfloat16 and kernels.library() and kernels.can_attend(bias_WHAA.shape[-1], head_width)
    return (_FusedAttention if fused else _PlainAttention)(bias_WHAA, head_width, at_once, dtype)


class _FusedAttention:
    def __init__(self, bias_WHAA: torch.Tensor, head_width: int, at_once: int, dtype: torch.dtype) -> None:
        self.bias_KHAA, of_window, self.scale = kernels.attention_bias(bias_WHAA, head_width)
        self.of_window = of_window.repeat(max(1, at_once // len(of_window))).split(at_once)

    def __call__(self, qkv_NC: torch.Tensor, part: int) -> torch.Tensor:
        return kernels.attend(qkv_NC, self.bias_KHAA, self.of_window[part % len(self.of_window)], self.scale)


class _PlainAttention:
    def __init__(self, bias_WHAA: torch.Tensor, head_width: int, at_once: int, dtype: torch.dtype) -> None:
        self.heads, self.area, self.scale = bias_WHAA.shape[1], bias_WHAA.shape[-1], head_width**-0.5
        bias_WHAA = bias_WHAA.to(dtype).repeat(max(1, at_once // len(bias_WHAA)), 1, 1, 1)
        self.bias = [part.flatten(0, 1).contiguous() for part in bias_WHAA.split(at_once)]

    def __call__(self, qkv_NC: torch.Tensor, part: int) -> torch.Tensor:
        qkv = qkv_NC.view(-1, self.area, 3, self.heads, qkv_NC.shape[1] // 3 // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2).unbind(0)
        logits = torch.baddbmm(self.bias[part % len(self.bias)][: len(q)], q, k.transpose(1, 2), alpha=self.scale)
        out = torch.bmm(torch.softmax(logits, -1), v)
        return out.view(-1, self.heads, self.area, out.shape[-1]).transpose(1, 2).reshape(len(qkv_NC), -1)


def _norm(norm: nn.Module, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: x
    width, eps = norm.normalized_shape[0], norm.eps
    assert norm.weight is not None
    if dtype == torch.bfloat16 and kernels.library() and kernels.can_norm(width):
        weight, bias = norm.weight.detach().float(), norm.bias.detach().float()
        return lambda x: kernels.norm(x, weight, bias, eps)
    weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
    return lambda x: F.layer_norm(x, (width,), weight, bias, eps)


def _taps(given: int, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cubic convolution (Keys 1981) with both ends kept: rows int64 [4, wanted], weights float32 [4, wanted, 1]."""
    at = torch.arange(wanted, dtype=torch.float64) * ((given - 1) / (wanted - 1))
    first = at.floor()
    rows = torch.stack([(first.long() + tap).clamp(0, given - 1) for tap in (-1, 0, 1, 2)])
    distance = torch.stack([(at - first - tap).abs() for tap in (-1, 0, 1, 2)])
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return rows, torch.where(distance <= 1, near, far).float()[..., None]
