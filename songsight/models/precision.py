"""In which numbers the encoder works, float32 or bfloat16, and what runs it: PyTorch on a GPU, OpenVINO on a CPU.

bfloat16 keeps float32's range with 8 bits of precision. Features are normalised, tokens averaged and vectors made unit
length in float32. Where the hardware has no instruction for it, it is slower than float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from songsight.models import openvino
from songsight.models.student import Base, Student

Precision = Literal["auto", "fp32", "bf16"]
_CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx10_1", "sve_bf16", "bf16")


def resolve(precision: str, gpu: bool) -> str:
    """What `auto` means: bf16 where this machine's CPU, or the GPU, multiplies it in hardware, else fp32.

    Args:
        precision: auto, or what it is to be.
        gpu: whether the encoder runs on a GPU; those of the last years (NVIDIA: since Ampere) all have it.
    """
    if precision != "auto":
        return precision
    if gpu:
        # The nodes with the GPUs may be other machines than this one.
        known = torch.cuda.is_available()
        return "bf16" if not known or torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this machine's CPU has products of bfloat16."""
    flags: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.backends.mkldnn.is_available() and any(flags.get(name) for name in _CPU_FLAGS)


def prepare(model: Student | Base, precision: str, frames: int) -> None:
    """Makes a model as fast as it can embed on the device where it is; it can't be trained or saved after that.

    Args:
        model: in evaluation mode; its tower is replaced.
        precision: fp32 or bf16.
        frames: of the features that it will be given.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" and openvino.is_available(precision):
        model.tower = openvino.OpenVinoTower(model.tower, frames, precision)  # type: ignore[assignment]
    elif precision == "bf16":
        model.tower = _Autocast(model.tower)  # type: ignore[assignment]


class _Autocast(nn.Module):
    """A tower whose products are in bfloat16."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.config = tower.config

    def forward(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        with torch.autocast(mel_B1TM.device.type, torch.bfloat16):
            return self.tower(mel_B1TM).float()
