"""What `--bridge` is worth: how well sounds find pictures, and soundscapes' hits the truth, for each weight.

    python bench/bridge.py demo-out            # after `make demo`

Reads the model, gallery, test recordings, archive and labels that the demo left. "Outside" leaves the texts of a third
of the species out of the bank: those a user has photographs of but no text. Hits are counted as the demo counts them
(half a second of the species' song in the window), each window's best species being one hit; a weight changes the scale
of scores, so that precision and recall are given at each weight's own best threshold (by F1) beside the area under
precision over hits by falling score, which needs none.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from inference.archive.spans import Windows
from inference.match import gallery
from inference.match.bridge import bridged
from inference.match.matching import Matcher
from songsight import metrics
from songsight.audio.padding import fit_length
from songsight.audio.reader import AudioError, open_audio, read_mono
from songsight.models import student

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
HOP_S = 1.5
LEAST_OVERLAP_S = 0.5
BATCH = 64


def embed(model: student.Student, waves: list[np.ndarray]) -> np.ndarray:
    """Unit vectors, float32 [clips, width]."""
    clips = np.stack([fit_length(wave, model.mel.clip_samples, model.mel.padding) for wave in waves])
    parts = [model.embed(torch.from_numpy(clips[at : at + BATCH])).numpy() for at in range(0, len(clips), BATCH)]
    return np.concatenate(parts)


def recordings(model: student.Student, demo: Path) -> tuple[np.ndarray, np.ndarray]:
    """The test recordings' vectors and species."""
    rows = [row for row in pq.read_table(demo / "recordings.parquet").to_pylist() if row["split"] == "test"]
    rate = model.mel.sample_rate_hz
    waves = [read_mono(str(demo / row["path"]), 0, model.mel.clip_s, rate) for row in rows]
    return embed(model, waves), np.array([row["scientific_name"] for row in rows], dtype=object)


def soundscapes(model: student.Student, demo: Path) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """The archive's windows: vectors and (path, start, end)."""
    rate, cut = model.mel.sample_rate_hz, Windows(model.mel.clip_s, HOP_S)
    waves, places = [], []
    for file in sorted((demo / "archive").rglob("*.WAV")):
        try:
            with open_audio(str(file)) as reader:
                seconds = reader.info.duration_s
                whole = read_mono(reader, 0, seconds, rate)
        except AudioError:
            continue
        if not whole.any():
            continue
        for number in range(cut.count(seconds)):
            start = number * HOP_S
            wave = whole[round(start * rate) : round((start + cut.window_s) * rate)]
            waves.append(wave)
            places.append((file.relative_to(demo / "archive").as_posix(), start, start + len(wave) / rate))
    return embed(model, waves), places


def best_threshold(scores: np.ndarray, right: np.ndarray, songs: list[set[int]], total: int) -> tuple[float, ...]:
    """(area under precision, F1, precision, recall, threshold) of hits by falling score.

    Args:
        scores, right: of each hit.
        songs: which songs each hit finds.
        total: songs in all.
    """
    order = np.argsort(-scores, kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    found: set[int] = set()
    recall = np.zeros(len(order))
    for place, hit in enumerate(order):
        found |= songs[hit]
        recall[place] = len(found) / total
    area = float(np.sum(precision * np.diff(recall, prepend=0)))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f1.argmax())
    return area, float(f1[best]), float(precision[best]), float(recall[best]), float(scores[order][best])


def main() -> None:
    """Prints the table."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out")
    torch.set_num_threads(1)
    model = student.load(str(demo / "model"))
    shown = gallery.read(str(demo / "gallery"))
    photographs = shown.of_split("test")
    temperature = float(np.exp(-model.log_scale.item()))
    names = np.array(shown.names["scientific_name"].to_pylist(), dtype=object)
    outside = set(names[np.random.default_rng(0).permutation(len(names))[: len(names) // 3]])
    banks = {"all": shown.name_vectors, "two thirds": shown.name_vectors[[name not in outside for name in names]]}

    heard, species = recordings(model, demo)
    is_outside = np.array([name in outside for name in species])
    vectors, places = soundscapes(model, demo)
    labels = pq.read_table(demo / "labels.parquet").to_pylist()
    matcher = Matcher(shown, 1)
    print(f"temperature of the softmax: {temperature:.4f}, the student's own")
    print(f"{len(heard)} recordings, {len(photographs.vectors)} photographs")
    print(f"{len(vectors)} windows, {len(labels)} songs")
    print()
    columns = ["texts in the bank", "w", "mAP", "of species inside", "outside"]
    columns += ["hits: area", "F1", "precision", "recall", "at score"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for bank, texts in banks.items():
        for weight in WEIGHTS:
            queries = bridged(heard, texts, weight, temperature)
            maps = [
                metrics.retrieval_map(queries[rows], photographs.vectors, species[rows], photographs.species)
                for rows in (np.ones(len(species), bool), ~is_outside, is_outside)
            ]
            found = matcher.match(bridged(vectors, texts, weight, temperature))
            named = matcher.species[found.species[:, 0]]
            songs = [
                {
                    number
                    for number, song in enumerate(labels)
                    if song["path"] == path
                    and song["scientific_name"] == name
                    and min(end, song["end_s"]) - max(start, song["start_s"]) >= LEAST_OVERLAP_S
                }
                for (path, start, end), name in zip(places, named, strict=True)
            ]
            right = np.array([bool(some) for some in songs])
            measured = (*maps, *best_threshold(found.scores[:, 0], right, songs, len(labels)))
            print(f"| {bank} | {weight:g} | " + " | ".join(f"{value:.3f}" for value in measured) + " |", flush=True)


if __name__ == "__main__":
    main()
