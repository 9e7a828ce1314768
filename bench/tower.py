"""What the audio tower costs on one core: as transformers has it, as `songsight.models.htsat` does, and by OpenVINO.

    python bench/tower.py

Clips of BioLingual's size, random weights, one thread; fp32, and bf16 where this CPU multiplies it. They take turns; a
cost is the least of some rounds.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from transformers import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioModel

from songsight.models import precision
from songsight.models.htsat import Tower, TowerConfig
from songsight.models.openvino import OpenVinoTower

BATCH, ROUNDS = 16, 5


def ms_a_clip(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least time of a clip in milliseconds, of each way, by turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + ROUNDS):
        for name, work in ways.items():
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
    return {name: min(some[1:]) / BATCH * 1000 for name, some in times.items()}


@torch.inference_mode()
def main() -> None:
    """Prints the tables."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = ClapAudioConfig()
    mel = torch.randn(BATCH, 1, 1001, config.num_mel_bins)
    theirs = ClapAudioModel(config).eval()
    tower = Tower(TowerConfig.of(config.to_dict())).eval()
    longer = torch.zeros(BATCH, 1, dtype=torch.bool)
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if kind == "bf16" and not precision.cpu_has_bf16():
            continue
        given, usual, ours = mel.to(dtype), copy.deepcopy(theirs).to(dtype), copy.deepcopy(tower).to(dtype)
        openvino = OpenVinoTower(tower, mel.shape[2], kind)
        found = ms_a_clip(
            {
                "transformers": lambda u=usual, g=given: u(g, is_longer=longer),  # type: ignore[misc]
                "songsight.models.htsat": lambda o=ours, g=given: o(g),  # type: ignore[misc]
                "OpenVINO": lambda o=openvino: o(mel),  # type: ignore[misc]
            }
        )
        print(f"| tower, {kind} | ms a clip | against OpenVINO |")
        print("|---|---|---|")
        for name, cost in found.items():
            print(f"| {name} | {cost:.1f} | {cost / found['OpenVINO']:.2f} |")


if __name__ == "__main__":
    main()
