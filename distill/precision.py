"""In which numbers the encoder works: float32, bfloat16 where the hardware multiplies it, or int8 on a CPU.

bfloat16 keeps float32's range with 8 bits of precision. Weights and what flows between operations are in it; features
are normalised, tokens averaged and vectors made unit length in float32. Where the hardware has no instruction for it,
it is slower than float32.

int8 is for CPUs, and asked for, never chosen: the linear layers' weights are in 8 bits, and what flows into them is
brought to 8 bits by the range of a token or of a part. The rest is bfloat16 on CPUs that have the instructions of
`kernels`; on others it is PyTorch's dynamic quantisation, with float32 for the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from distill.errors import UserError
from distill.packed import PackedTower
from distill.packed_linear import has_int8
from distill.student import Base, Student

Precision = Literal["auto", "fp32", "bf16", "int8"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx10_1", "sve_bf16", "bf16")


def resolve(precision: str, gpu: bool) -> str:
    """What `auto` means: bf16 where this machine's CPU, or the GPU, multiplies it in hardware, else fp32.

    Args:
        precision: auto, or what it is to be.
        gpu: whether the encoder runs on a GPU; those of the last years (NVIDIA: since Ampere) all have it.

    Raises:
        UserError: int8 on a GPU.
    """
    if precision == "int8" and gpu:
        raise UserError("--precision int8 is for CPUs; a GPU works in bf16 or fp32")
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


def prepare(model: Student | Base, precision: str) -> None:
    """Makes a model as fast as it can embed on the device where it is; it can't be trained or saved after that.

    Args:
        model: in evaluation mode; its tower is replaced.
        precision: fp32, bf16 or int8.
    """
    device = next(model.parameters()).device
    if precision == "int8" and has_int8():
        model.tower = PackedTower(model.tower, torch.bfloat16, int8=True)  # type: ignore[assignment]
    elif precision == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is to move to a package of its own one day
            model.tower = torch.ao.quantization.quantize_dynamic(model.tower, {nn.Linear}, dtype=torch.qint8)
    elif device.type == "cpu":
        model.tower = PackedTower(model.tower, _DTYPES[precision])  # type: ignore[assignment]
    elif precision == "bf16":
        model.tower = _Autocast(model.tower)  # type: ignore[assignment]


class _Autocast(nn.Module):
    """A tower on a GPU whose products are in bfloat16."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        with torch.autocast(mel_B1TM.device.type, torch.bfloat16):
            return self.tower(mel_B1TM).float()
