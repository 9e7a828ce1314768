"""The audio tower on a CPU, run by OpenVINO: the same weights, the same features in, the same pooled embedding out.

    htsat.Tower → torch.export → OpenVINO's graph, kept in the cache → compiled for this machine's CPU

A clip at a time is what a core does fastest, so that a batch is a loop of calls that each take a tenth of a second.
OpenVINO has wheels for x86 (it uses AVX2, AVX-512 or AMX, whichever there is) and ARM; elsewhere `precision.prepare`
leaves the tower to PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any

import torch
from torch import nn

from songsight.models.htsat import Tower
from songsight.store import cache, checkpoints

_MODEL_FILE = "tower.xml"


class OpenVinoTower(nn.Module):
    """A tower that embeds on the CPU and can't be trained.

    The graph is converted once for each set of weights, number of frames and version of OpenVINO, and kept in
    `cache.folder()`, never beside the checkpoint.

    Args:
        tower: whose weights it takes; in evaluation mode, on the CPU.
        frames: of the features, as `LogMel` makes them of a clip.
        precision: fp32 or bf16.
        threads: cores of a call; as many as PyTorch's operators take if not given.
    """

    def __init__(self, tower: Tower, frames: int, precision: str, threads: int | None = None) -> None:
        super().__init__()
        openvino = _imported()
        self.config = tower.config
        shape = (1, 1, frames, tower.config.num_mel_bins)
        key = repr((checkpoints.fingerprint(tower), tower.config, shape, openvino.get_version()))
        folder = cache.entry(
            "openvino", hashlib.sha256(key.encode()).hexdigest()[:16], lambda fresh: _convert(tower, shape, fresh)
        )
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(os.path.join(folder, _MODEL_FILE)),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
                "ENABLE_CPU_PINNING": False,  # else the first core would be that of every annotator of a machine
            },
        )
        self.request = compiled.create_infer_request()

    @torch.inference_mode()
    def forward(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        """The pooled audio embedding.

        Args:
            mel_B1TM: float32 [batch, 1, frames, mels] on the CPU.

        Returns:
            float32 [batch, pooled width].
        """
        pooled_BP = torch.empty(len(mel_B1TM), self.config.pooled_width)
        for mel_11TM, pooled_P in zip(mel_B1TM.float().contiguous().split(1), pooled_BP, strict=True):
            pooled_P.copy_(torch.from_numpy(self.request.infer([mel_11TM.numpy()], share_inputs=True)[0][0]))
        return pooled_BP


def is_available(precision: str) -> bool:
    """Whether OpenVINO is installed, and this CPU multiplies such numbers (fp32 or bf16)."""
    try:
        openvino = _imported()
    except ImportError:
        return False
    return precision.upper() in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _imported() -> Any:
    """OpenVINO, which tells its makers of each import unless their package for that is not there."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # to Python: is not there
    import openvino

    return openvino


def _convert(tower: Tower, shape: tuple[int, ...], folder: str) -> None:
    """Writes the tower's graph in float32, to `tower.xml` and `tower.bin`."""
    openvino = _imported()
    with torch.no_grad():
        exported = torch.export.export(tower, (torch.zeros(shape),))
    graph = openvino.convert_model(exported)
    graph.reshape(list(shape))
    openvino.save_model(graph, os.path.join(folder, _MODEL_FILE), compress_to_fp16=False)
