"""What the audio tower costs as transformers has it, as `distill.htsat` lays it out, compiled, and packed.

    python bench/tower.py

One thread, batches of 16 clips of BioLingual's size, random weights, bf16 where this CPU multiplies it. The last three
are the choice that annotators on CPUs have: `torch.compile` needs a C++ compiler and is left out where there is none;
its time to compile is what an annotator would start later by. Products in int8 need the instructions of `kernels`.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable

import torch
from transformers import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioModel

from distill import precision
from distill.htsat import Tower, TowerConfig
from distill.packed import PackedTower
from distill.packed_linear import has_int8

BATCH, ROUNDS = 16, 5


def ms_a_clip(work: Callable[[], object]) -> float:
    """The least time of a clip in milliseconds."""
    work()
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times) / BATCH * 1000


@torch.inference_mode()
def main() -> None:
    """Prints the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if precision.cpu_has_bf16() else torch.float32
    config = ClapAudioConfig()
    mel = torch.randn(BATCH, 1, 1001, config.num_mel_bins)
    tower = Tower(TowerConfig.of(config.to_dict())).eval()
    packed, fp32 = PackedTower(tower, dtype), copy.deepcopy(tower)
    theirs = ClapAudioModel(config).eval().to(dtype)
    longer = torch.zeros(BATCH, 1, dtype=torch.bool)
    given = mel.to(dtype)
    tower.to(dtype)
    found = {
        "transformers": ms_a_clip(lambda: theirs(given, is_longer=longer)),
        "distill.htsat": ms_a_clip(lambda: tower(given)),
    }
    if shutil.which("g++") or shutil.which("clang++"):
        import torch._inductor.config as inductor

        inductor.freezing = True
        compiled = torch.compile(tower)
        begin = time.perf_counter()
        compiled(given)
        seconds = time.perf_counter() - begin
        found[f"distill.htsat, compiled in {seconds:.0f} s"] = ms_a_clip(lambda: compiled(given))
    found["distill.packed"] = ms_a_clip(lambda: packed(mel))
    if has_int8():
        int8 = PackedTower(fp32, torch.bfloat16, int8=True)
        found["distill.packed, int8"] = ms_a_clip(lambda: int8(mel))
    print(f"| tower, {str(dtype).removeprefix('torch.')} | ms a clip | against packed |")
    print("|---|---|---|")
    for name, cost in found.items():
        print(f"| {name} | {cost:.1f} | {cost / found['distill.packed']:.2f} |")


if __name__ == "__main__":
    main()
