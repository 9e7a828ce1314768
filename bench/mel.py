"""What log-mels cost: transformers' own extractor against `LogMel`, batched PyTorch.

    python bench/mel.py

Prints milliseconds of CPU time a clip on one thread, and the ratios, all from one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import ClapFeatureExtractor

from songsight.models.mel import LogMel

ROUNDS = 5
SETTINGS = {
    "BioLingual (10 s, 48 kHz)": (ClapFeatureExtractor(truncation="rand_trunc"), 8),
    "demo (3 s, 16 kHz)": (ClapFeatureExtractor(sampling_rate=16000, max_length_s=3, hop_length=188), 64),
}


def cpu_ms(work: Callable[[], object], clips: int) -> float:
    """The median CPU time of a clip, in milliseconds."""
    work()
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return float(np.median(times)) / clips * 1000


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    print("| clips | extractor ms | ours ms | extractor / ours |")
    print("|---|---|---|---|")
    for name, (extractor, clips) in SETTINGS.items():
        mel = LogMel(extractor.to_dict())
        waves = torch.randn(clips, mel.clip_samples)
        few = list(waves[:4].numpy())
        theirs = cpu_ms(lambda few=few, e=extractor: e(few, sampling_rate=e.sampling_rate), len(few))  # type: ignore[misc]
        ours = cpu_ms(lambda w=waves, m=mel: m(w), clips)  # type: ignore[misc]
        print(f"| {name} | {theirs:.1f} | {ours:.2f} | {theirs / ours:.1f} |")


if __name__ == "__main__":
    main()
