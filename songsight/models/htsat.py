"""HTS-AT (arXiv 2202.00874), the audio tower of CLAP, laid out for speed: transformers' `ClapAudioModel`, reordered.

    mels → batch norm → a square picture → patches → stages of windowed attention → mean → pooled audio embedding

The same function of the same weights (`from_clap`, `to_clap`), with fewer copies: tokens are put into the order of a
block's windows once, and stay there until the next block wants another order, where the usual way rolls, cuts, joins
and rolls back the feature map in each block. Norms and feed-forward layers do not care for the order of tokens. Query,
key and value are one product, and position bias and mask are added inside the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from songsight.errors import UserError

# What is added to the logits of tokens that only the cyclic shift made neighbours. CLAP adds -100, whose exponential is
# a subnormal number: products of those take a CPU ten times as long, and they change no result.
_MASKED = -1e4
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
_QKV = ("query", "key", "value")


@dataclass(frozen=True)
class TowerConfig:
    """The fields of a `ClapAudioConfig` that decide what the tower computes."""

    spec_size: int = 256
    num_mel_bins: int = 64
    patch_size: int = 4
    patch_stride: tuple[int, int] = (4, 4)
    window_size: int = 8
    patch_embeds_hidden_size: int = 96
    enable_patch_layer_norm: bool = True
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (4, 8, 16, 32)
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.0

    @classmethod
    def of(cls, audio_config: Mapping[str, Any]) -> TowerConfig:
        """The tower of a checkpoint, from the `audio_config` of its `config.json`; CLAP's defaults for what it omits.

        Raises:
            UserError: a tower that CLAP's code can describe and no published checkpoint has.
        """
        names = {field.name for field in fields(cls)}
        given = {key: value for key, value in audio_config.items() if key in names and value is not None}
        for key in ("patch_stride", "depths", "num_attention_heads"):
            if key in given:
                value = given[key]
                given[key] = (value, value) if isinstance(value, int) else tuple(value)
        config = cls(**given)
        if not isinstance(config.patch_size, int) or config.patch_stride != (config.patch_size, config.patch_size):
            raise UserError("config.json: patches that overlap or are not square are not supported")
        if audio_config.get("patch_embed_input_channels", 1) != 1 or not audio_config.get("flatten_patch_embeds", True):
            raise UserError("config.json: only a tower with one input channel and flattened patches is supported")
        if audio_config.get("enable_fusion") and audio_config.get("fusion_type") == "channel_map":
            raise UserError(
                "config.json: a tower that takes crops as channels (fusion_type channel_map) is not supported"
            )
        if config.hidden_act not in _ACTIVATIONS:
            raise UserError(f"config.json: hidden_act {config.hidden_act!r} is not one of {', '.join(_ACTIVATIONS)}")
        if config.spec_size % config.num_mel_bins or config.spec_size % config.patch_size:
            raise UserError("config.json: spec_size should be a multiple of num_mel_bins and of patch_size")
        for stage in range(len(config.depths)):
            grid = config.grid(stage)
            if grid % config.window(stage) or (grid % 2 and stage + 1 < len(config.depths)):
                raise UserError(f"config.json: stage {stage} has {grid} × {grid} tokens, which its windows do not tile")
        return config

    def grid(self, stage: int) -> int:
        """Tokens along a side of the picture at a stage."""
        return self.spec_size // self.patch_size // 2**stage

    def window(self, stage: int) -> int:
        """Tokens along a side of a window at a stage; the whole grid where that is smaller."""
        return min(self.window_size, self.grid(stage))

    def width(self, stage: int) -> int:
        """Numbers in a token at a stage."""
        return self.patch_embeds_hidden_size * 2**stage

    @property
    def pooled_width(self) -> int:
        """Numbers in the pooled audio embedding."""
        return self.width(len(self.depths) - 1)


class Tower(nn.Module):
    """The encoder. Weights are random until a checkpoint's are loaded, see `from_clap`.

    The names in its state dict are part of what models are known by (`checkpoints.fingerprint`): results, trainings and
    calibrations would be refused if one changed. A weight that moves keeps its old name for that hash.

    Args:
        config: of the checkpoint.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.batch_norm = nn.BatchNorm2d(config.num_mel_bins)
        self.patches = nn.Linear(config.patch_size**2, config.width(0))
        self.patch_norm = nn.LayerNorm(config.width(0)) if config.enable_patch_layer_norm else nn.Identity()
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths)).tolist()
        blocks: list[_Block] = []
        merges: list[_Merge] = []
        for stage, depth in enumerate(config.depths):
            for number in range(depth):
                blocks.append(_Block(config, stage, rates[len(blocks)], shifted=number % 2 == 1))
            if stage + 1 < len(config.depths):
                merges.append(_Merge(config.width(stage)))
        self.blocks = nn.ModuleList(blocks)
        self.merges = nn.ModuleList(merges)
        self.norm = nn.LayerNorm(config.pooled_width)
        self._plan_orders()

    def _plan_orders(self) -> None:
        """Which gather stands before each block and merge, so that tokens come in the order it works in."""
        config = self.config
        number = 0
        now = torch.arange(config.grid(0) ** 2)  # the feature map's position of each token, row by row
        for stage, depth in enumerate(config.depths):
            for _ in range(depth):
                shift: int = self.blocks[number].shift  # type: ignore[assignment]
                wanted = _window_order(config.grid(stage), config.window(stage), shift)
                self._keep_order(f"_before_block_{number}", now, wanted)
                now, number = wanted, number + 1
            if stage + 1 < len(config.depths):
                wanted = _merge_order(config.grid(stage))
                self._keep_order(f"_before_merge_{stage}", now, wanted)
                now = torch.arange(config.grid(stage + 1) ** 2)

    def _keep_order(self, name: str, now: torch.Tensor, wanted: torch.Tensor) -> None:
        gather = None if torch.equal(now, wanted) else torch.argsort(now)[wanted]
        self.register_buffer(name, gather, persistent=False)

    def forward(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        """The pooled audio embedding.

        Args:
            mel_B1TM: float [batch, 1, frames, mels]; at most `spec_size² / mels` frames, fewer are stretched to that.

        Returns:
            [batch, `pooled_width`].
        """
        x_BNC = self.patch_norm(self.patches(self._cut(mel_B1TM)))
        number = 0
        for stage, depth in enumerate(self.config.depths):
            for _ in range(depth):
                x_BNC = _reorder(x_BNC, getattr(self, f"_before_block_{number}"))
                x_BNC = self.blocks[number](x_BNC)
                number += 1
            if stage + 1 < len(self.config.depths):
                x_BNC = _reorder(x_BNC, getattr(self, f"_before_merge_{stage}"))
                x_BNC = self.merges[stage](x_BNC)
        return self.norm(x_BNC).mean(1)

    def first_stages(self, count: int) -> list[nn.Module]:
        """The modules behind the features up to and with stage `count`; none for 0."""
        if not count:
            return []
        blocks = sum(self.config.depths[:count])
        return [self.patches, self.patch_norm, *self.blocks[:blocks], *self.merges[:count]]

    def _cut(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        """Normalised mels, folded into a square and cut into patches: [batch, tokens, patch_size²].

        Time is cut into `spec_size / mels` parts that are laid one above the other, each with its mels upwards.
        """
        config = self.config
        frames, patch, folds = config.spec_size**2 // config.num_mel_bins, config.patch_size, self._folds
        if mel_B1TM.shape[2] > frames or mel_B1TM.shape[3] != config.num_mel_bins:
            raise ValueError(f"features of shape {tuple(mel_B1TM.shape)} for {frames} frames of {config.num_mel_bins}")
        x_BMT1 = self.batch_norm(mel_B1TM.transpose(1, 3))
        x_B1TM = x_BMT1.transpose(1, 3)
        if x_B1TM.shape[2] < frames:
            # As CLAP does: bicubic, with the first and last frame kept at the ends.
            x_B1TM = F.interpolate(x_B1TM, (frames, config.num_mel_bins), mode="bicubic", align_corners=True)
        batch, across = len(x_B1TM), frames // folds // patch
        x = x_B1TM.reshape(batch, folds, across, patch, config.num_mel_bins // patch, patch)
        return x.permute(0, 1, 4, 2, 5, 3).reshape(batch, -1, patch * patch)

    @property
    def _folds(self) -> int:
        return self.config.spec_size // self.config.num_mel_bins


class _Block(nn.Module):
    """One Swin block (arXiv 2103.14030, equation 3) on tokens in the order of its windows."""

    _position: torch.Tensor
    _mask: torch.Tensor

    def __init__(self, config: TowerConfig, stage: int, drop_path: float, shifted: bool) -> None:
        super().__init__()
        width, self.heads = config.width(stage), config.num_attention_heads[stage]
        if width % self.heads:
            raise UserError(f"config.json: {self.heads} attention heads do not divide {width}")
        grid, self.window = config.grid(stage), config.window(stage)
        self.shift = config.window_size // 2 if shifted and grid > config.window_size else 0
        self.windows = (grid // self.window) ** 2
        self.drop_path = drop_path
        self.weights_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.activation = _ACTIVATIONS[config.hidden_act]
        hidden = int(config.mlp_ratio * width)
        self.norm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.position_bias = nn.Parameter(torch.zeros((2 * config.window_size - 1) ** 2, self.heads))
        self.out = nn.Linear(width, width)
        self.out_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.norm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("_position", _relative_position(self.window, config.window_size), persistent=False)
        mask = _shift_mask(grid, self.window, self.shift) if self.shift else None
        self.register_buffer("_mask", mask, persistent=False)

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        x_BNC = x_BNC + self._drop_path(self._attend(self.norm_before(x_BNC)))
        hidden_BNH = self.activation(self.widen(self.norm_after(x_BNC)))
        return x_BNC + self.dropout(self.narrow(hidden_BNH))

    def _attend(self, x_BNC: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x_BNC.shape
        qkv = self.qkv(x_BNC).view(batch, self.windows, self.window**2, 3, self.heads, width // self.heads)
        attend = self._attend_fused if x_BNC.is_cuda else self._attend_plainly
        return self.out_dropout(self.out(attend(qkv, self.bias().to(qkv.dtype)).reshape(batch, tokens, width)))

    def _attend_fused(self, qkv: torch.Tensor, bias_WHAA: torch.Tensor) -> torch.Tensor:
        """[batch, windows, area, heads, width of a head] from the same with a 3 before the heads."""
        dropout = self.weights_dropout.p if self.training else 0.0
        if self.shift:
            # A bias for each window and head: the clips share it, one after the other.
            clips = []
            for q, k, v in zip(*qkv.permute(3, 0, 1, 4, 2, 5).unbind(0), strict=True):
                clips.append(F.scaled_dot_product_attention(q, k, v, bias_WHAA, dropout))
            return torch.stack(clips).transpose(2, 3)
        q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, bias_WHAA, dropout).transpose(1, 2)

    def _attend_plainly(self, qkv: torch.Tensor, bias_WHAA: torch.Tensor) -> torch.Tensor:
        """The same, step by step: PyTorch's fused attention for CPUs has no gradient of the bias, and what it does
        instead copies the bias for each clip and looks at each row for one that is masked throughout."""
        batch, windows, area, _, heads, width = qkv.shape
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, -1, area, width).unbind(0)
        logits = torch.bmm(q * width**-0.5, k.transpose(1, 2)).view(batch, windows, heads, area, area)
        weights = self.weights_dropout(torch.softmax(logits.add_(bias_WHAA), -1))
        out = torch.bmm(weights.view(-1, area, area), v)
        return out.view(batch, windows, heads, area, width).transpose(2, 3)

    def bias(self) -> torch.Tensor:
        """What position, and the mask of a shifted block, add to the logits of two tokens.

        Returns:
            [windows, heads, area, area]; one window for all of them in a block that is not shifted.
        """
        bias_1HAA = self.position_bias[self._position].permute(2, 0, 1)[None].contiguous()
        return bias_1HAA + self._mask if self.shift else bias_1HAA

    def _drop_path(self, x_BNC: torch.Tensor) -> torch.Tensor:
        """Stochastic depth (arXiv 1603.09382): leaves the branch out for some clips of a training batch."""
        if not self.training or not self.drop_path:
            return x_BNC
        kept = torch.rand(len(x_BNC), 1, 1, device=x_BNC.device, dtype=x_BNC.dtype) >= self.drop_path
        return x_BNC * kept / (1 - self.drop_path)


class _Merge(nn.Module):
    """Four neighbouring tokens, which come one behind the other, become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x_BNC.shape
        return self.reduction(self.norm(x_BNC.view(batch, tokens // 4, 4 * width)))


def _reorder(x_BNC: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return x_BNC if order is None else x_BNC.index_select(1, order)


def _window_order(grid: int, window: int, shift: int) -> torch.Tensor:
    """Positions of a feature map, window by window, with the map rolled by the shift: int64 [grid²]."""
    rolled = torch.arange(grid * grid).view(grid, grid).roll((-shift, -shift), (0, 1))
    cut = rolled.view(grid // window, window, grid // window, window)
    return cut.permute(0, 2, 1, 3).reshape(-1)


def _merge_order(grid: int) -> torch.Tensor:
    """Positions in fours that become one token: down the first column, then down the second; int64 [grid²]."""
    cut = torch.arange(grid * grid).view(grid // 2, 2, grid // 2, 2)
    return cut.permute(0, 2, 3, 1).reshape(-1)


def _relative_position(window: int, table_window: int) -> torch.Tensor:
    """Row of the position table for each pair of tokens in a window: int64 [area, area]."""
    rows, columns = (axis.reshape(-1) for axis in torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"))
    down = rows[:, None] - rows[None] + window - 1
    right = columns[:, None] - columns[None] + window - 1
    return down * (2 * table_window - 1) + right


def _shift_mask(grid: int, window: int, shift: int) -> torch.Tensor:
    """What keeps tokens apart that only the roll brought together: float32 [windows, 1, area, area]."""
    place = torch.arange(grid)
    region = (place >= grid - window).long() + (place >= grid - shift).long()
    regions = (region[:, None] * 3 + region[None]).view(grid // window, window, grid // window, window)
    of_token = regions.permute(0, 2, 1, 3).reshape(-1, window * window)
    apart = of_token[:, None, :] != of_token[:, :, None]
    return torch.where(apart, _MASKED, 0.0)[:, None]


def from_clap(state: Mapping[str, torch.Tensor], config: TowerConfig) -> dict[str, torch.Tensor]:
    """A tower's weights from those of a `ClapAudioModel` (names without `audio_model.`).

    The parts that fuse several crops of long clips, which only fusion checkpoints have, are left out: a window is one.

    Raises:
        KeyError: a weight is missing.
    """
    ours = {}
    for name, theirs in _names(config).items():
        parts = [state[one] for one in theirs]
        weight = torch.cat(parts) if len(parts) > 1 else parts[0]
        # A convolution whose patches do not overlap is a product of each patch; ours are cut in the same order.
        ours[name] = weight.flatten(1) if name == "patches.weight" else weight
    return ours


def to_clap(state: Mapping[str, torch.Tensor], config: TowerConfig) -> dict[str, torch.Tensor]:
    """The inverse of `from_clap`: names and shapes that transformers' `ClapAudioModel` reads."""
    theirs: dict[str, torch.Tensor] = {}
    for name, names in _names(config).items():
        weight = state[name]
        if name == "patches.weight":
            weight = weight.view(-1, 1, config.patch_size, config.patch_size)
        parts = weight.chunk(len(names)) if len(names) > 1 else (weight,)
        theirs |= {one: part.contiguous() for one, part in zip(names, parts, strict=True)}
    return theirs


def _names(config: TowerConfig) -> dict[str, list[str]]:
    """For each of our weights the names of the parts that `ClapAudioModel` keeps it in."""
    root = "audio_encoder."
    both = ("weight", "bias")
    names: dict[str, list[str]] = {}

    def add(ours: str, *theirs: str, kinds: tuple[str, ...] = both) -> None:
        for kind in kinds:
            names[f"{ours}.{kind}"] = [f"{root}{one}.{kind}" for one in theirs]

    add("batch_norm", "batch_norm", kinds=(*both, "running_mean", "running_var", "num_batches_tracked"))
    add("patches", "patch_embed.proj")
    if config.enable_patch_layer_norm:
        add("patch_norm", "patch_embed.norm")
    number = 0
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            here = f"layers.{stage}.blocks.{block}"
            attention = f"{here}.attention.self"
            ours = f"blocks.{number}"
            add(f"{ours}.norm_before", f"{here}.layernorm_before")
            kinds = both if config.qkv_bias else ("weight",)
            add(f"{ours}.qkv", *(f"{attention}.{one}" for one in _QKV), kinds=kinds)
            names[f"{ours}.position_bias"] = [f"{root}{attention}.relative_position_bias_table"]
            add(f"{ours}.out", f"{here}.attention.output.dense")
            add(f"{ours}.norm_after", f"{here}.layernorm_after")
            add(f"{ours}.widen", f"{here}.intermediate.dense")
            add(f"{ours}.narrow", f"{here}.output.dense")
            number += 1
        if stage + 1 < len(config.depths):
            add(f"merges.{stage}.norm", f"layers.{stage}.downsample.norm")
            add(f"merges.{stage}.reduction", f"layers.{stage}.downsample.reduction", kinds=("weight",))
    add("norm", "norm")
    return names
