"""What a training step costs: ours against a bare loop, and against the usual loop.

    python bench/train.py --batch-size 8 --steps 16 --json train.json

- ours: Ray Data decodes files, Ray Train takes steps, MLflow keeps the curves; the rate is the run's own.
- bare: a plain loop over the same features and text vectors, ready in memory, with the same tower, loss and optimizer.
- usual: a plain loop as in the models' own documentation: waveforms in memory, transformers' feature extractor and
  audio tower, and the teacher's text tower in every step.

The audio tower is of BioLingual's size, the text tower of BioCLIP-2's (open_clip ViT-L-14), both with random weights.
All of them compute in the precision that `songsight distill` chooses here. Ours and the bare loop take turns of some
seconds, while the other is stopped, with all of its processes: what else a machine is busy with changes from minute to
minute by more than the two differ. The usual loop runs behind them. The first steps of each are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import soundfile
import torch
from torch.nn import functional as F

from distill.data import text_bank
from distill.data.augment import Augment
from distill.data.order import Order
from distill.data.rows import TrainingRows
from distill.train import launch, optimizer
from distill.train.log import Tracking
from distill.train.recipe import Recipe
from distill.train.step import Learner, Stepper
from distill.train.work import Data
from songsight.audio.clips import Clips, Features
from songsight.models import htsat, precision
from songsight.models.mel import LogMel
from songsight.store import tables

SECONDS, RATE_HZ, WIDTH = 10, 48_000, 768
LONGEST_TURN_S = 15  # Ray's processes take each other for dead when they hear nothing for long


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16, help="of ours that are counted")
    parser.add_argument("--warm-up", type=int, default=4, help="steps of each loop that are not")
    parser.add_argument("--turn-s", type=float, default=8.0, help="seconds of ours and of the bare loop by turns")
    parser.add_argument("--json", help="file for the ratios")
    options = parser.parse_args()
    if options.warm_up < 1:
        parser.error(f"--warm-up should be 1 or more (got {options.warm_up})")
    if not 0 < options.turn_s <= LONGEST_TURN_S:
        parser.error(f"--turn-s should be above 0 and at most {LONGEST_TURN_S} (got {options.turn_s:g})")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.batch_size, options.warm_up, options.steps, options.turn_s, device)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2))


def measure(folder: Path, batch_size: int, warm_up: int, steps: int, turn_s: float, device: str) -> dict[str, float]:
    """Runs the loops and prints what they took."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(0)
    ClapModel(ClapConfig()).save_pretrained(folder / "base")
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder / "base")
    files = batch_size * (warm_up + steps)  # one epoch: what lies between two is not a part of the step
    waves = _write_recordings(folder, files)
    recipe = _recipe(folder, files, batch_size, device)
    texts = F.normalize(torch.randn(files, WIDTH), dim=-1)

    with bare_loop(recipe, waves[:batch_size], texts[:batch_size], warm_up, device) as other:
        ours, turns, waiting = whole_run(folder, recipe, texts, warm_up, other, turn_s)
    if not turns:
        sys.exit("bench/train.py: error: ours was over before the bare loop's first turn: raise --steps")
    bare = sum(count for count, _ in turns) * batch_size / sum(seconds for _, seconds in turns)
    each = sorted(count * batch_size / seconds for count, seconds in turns)
    usual_rate = usual(folder, waves, batch_size, warm_up, max(2, steps // 2), device, recipe.precision == "bf16")
    ratios = {"ours_over_bare": ours / bare, "ours_over_text_each_step": ours / usual_rate}

    print(f"\nbatch {batch_size}, {steps} steps, {device}, {os.cpu_count()} cores, {recipe.precision}\n")
    print("| loop | recordings/s | ours against it |")
    print("|---|---|---|")
    print(f"| ours | {ours:.2f} | |")
    spread = f"in {len(turns)} turns of {each[0]:.2f} to {each[-1]:.2f}"
    print(f"| bare, {spread} | {bare:.2f} | {ratios['ours_over_bare']:.2f} |")
    print(f"| usual, text in every step | {usual_rate:.2f} | {ratios['ours_over_text_each_step']:.2f} |")
    parts = time_parts(folder, recipe, waves, texts, device)
    print("\n| part of a step, one after the other | ms a recording | share |")
    print("|---|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {seconds / batch_size * 1000:.1f} | {seconds / sum(parts.values()):.0%} |")
    print(f"| waiting for data, in our run | {waiting / ours * 1000:.1f} | {waiting:.1%} of its time |")
    print("\nfiles are decoded beside the step")
    achieved = 3 * _flop(device) * ours
    peak = _peak(device, torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    print(f"arithmetic: {achieved / 1e9:.0f} GFLOP/s, {achieved / peak:.0%} of the {peak / 1e9:.0f} of a large product")
    return ratios | {
        "recordings_per_s": ours,
        "waiting": waiting,
        "flop_per_s": achieved,
        "share_of_peak": achieved / peak,
    }


Turn = tuple[int, float]  # steps, and the seconds that they took


def whole_run(
    folder: Path,
    recipe: Recipe,
    texts: torch.Tensor,
    warm_up: int,
    other: Callable[[float], Turn],
    turn_s: float,
) -> tuple[float, list[Turn], float]:
    """A run on Ray, by turns with another loop.

    Returns:
        Recordings a second of its own turns behind the first steps, the other's turns, and the share of the run's time
        spent waiting for data.
    """
    import mlflow

    from jobs.shared import cluster, tracking

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    others = set(psutil.Process().children(recursive=True))
    cluster.connect()
    table = tables.read_table(str(folder / "r.parquet"), "recordings", ("path",), tables.RECORDINGS)
    plan = text_bank.plan(table, {"sci": 1.0})
    features = Features(RATE_HZ, SECONDS * RATE_HZ, "repeatpad", 0)
    clips = Clips.of(table, str(folder / "r.parquet"), features)
    np.save(folder / "bank.npy", texts[: len(plan.texts)].numpy())
    with tracking.run("bench", {}) as run:
        where = Tracking(tracking.store(), run.info.run_id)
        gpus = 1.0 if torch.cuda.is_available() else 0.0
        bank = str(folder / "bank.npy")
        to = str(folder / "train")

        def seen() -> list[Any]:
            return mlflow.MlflowClient().get_metric_history(run.info.run_id, "recordings_seen")

        def begun() -> bool:
            return len(seen()) > warm_up

        with _turns(begun, other, turn_s, others) as turns:
            data = Data(TrainingRows.of(clips, plan), bank)
            launch.fit(recipe, data, where, launch.Cluster(to, "bench", (1, 1), gpus))
        begin, end = next(one for one in seen() if one.step == warm_up), max(seen(), key=lambda one: one.step)
    stopped_s = sum(max(0.0, min(until, end.timestamp / 1000) - since) for since, until, _ in turns)
    waiting = mlflow.get_run(run.info.run_id).data.metrics["data_wait_fraction"]
    rate = (end.value - begin.value) / ((end.timestamp - begin.timestamp) / 1000 - stopped_s)
    return rate, [turn for _, _, turn in turns], waiting


@contextlib.contextmanager
def _turns(
    begun: Callable[[], bool], other: Callable[[float], Turn], turn_s: float, others: set[psutil.Process]
) -> Iterator[list[tuple[float, float, Turn]]]:
    """Beside what is inside, once it has begun: stops all processes but the others for each of the other's turns.

    Gives a list that fills: when each turn began and ended, by the clock, and what the other said of it.
    """
    over, turns = threading.Event(), list[tuple[float, float, Turn]]()

    def alternate() -> None:
        while not begun() and not over.wait(0.5):
            pass
        while not over.wait(turn_s):
            with _stopped(set(psutil.Process().children(recursive=True)) - others):
                since = time.time()
                turn = other(turn_s)
                turns.append((since, time.time(), turn))

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield turns
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _stopped(processes: set[psutil.Process]) -> Iterator[None]:
    def tell(number: int) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    tell(signal.SIGSTOP)
    try:
        yield
    finally:
        tell(signal.SIGCONT)


@contextlib.contextmanager
def bare_loop(
    recipe: Recipe, waves: np.ndarray, texts: torch.Tensor, warm_up: int, device: str
) -> Iterator[Callable[[float], Turn]]:
    """A process with a loop over features in memory, which has taken its first steps.

    Gives a function that lets it take the steps of about so many seconds, and returns its turn.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_bare, args=(there, recipe, waves, texts, warm_up, device), daemon=True)
    process.start()
    there.close()

    def run(seconds: float) -> Turn:
        steps = max(1, round(seconds / step_s))
        here.send(steps)
        return steps, here.recv() * steps

    try:
        step_s = here.recv()
        yield run
    finally:
        here.close()
        process.join()


def _bare(pipe: Connection, recipe: Recipe, waves: np.ndarray, texts: torch.Tensor, warm_up: int, device: str) -> None:
    learner, stepper, optimizer = _learner(recipe, device)
    size = recipe.order.batch_size
    mel = learner.student.mel(torch.from_numpy(waves).to(device))
    text = texts.to(device)
    species = torch.arange(size, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        stepper(mel, text, species, size, 0)
        optimizer.step()

    pipe.send(_seconds(step, 1, device, warm_up - 1))
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(_seconds(step, pipe.recv(), device, 0))


def usual(folder: Path, waves: np.ndarray, size: int, warm_up: int, steps: int, device: str, bf16: bool) -> float:
    """Recordings a second of a loop with transformers' extractor and tower, and the text tower in each step."""
    import open_clip
    from transformers import ClapFeatureExtractor, ClapModel

    extractor = ClapFeatureExtractor.from_pretrained(folder / "base")
    tower = ClapModel.from_pretrained(folder / "base").audio_model.to(device).train()
    head = torch.nn.Linear(768, WIDTH).to(device)
    teacher = open_clip.create_model("ViT-L-14").to(device).eval().requires_grad_(False)
    tokens = open_clip.get_tokenizer("ViT-L-14")(["Turdus merula with common name Eurasian Blackbird"] * size).to(
        device
    )
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=1e-4)
    own = torch.arange(size, device=device)

    def step() -> None:
        mel = extractor(list(waves[:size]), sampling_rate=RATE_HZ, return_tensors="pt").input_features.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                text = F.normalize(teacher.encode_text(tokens), dim=-1)
            audio = F.normalize(head(tower(mel).pooler_output), dim=-1)
        logits = 14.0 * audio.float() @ text.float().T
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return size / _seconds(step, steps, device, warm_up)


def time_parts(folder: Path, recipe: Recipe, waves: np.ndarray, texts: torch.Tensor, device: str) -> dict[str, float]:
    """Seconds of each part of a step, run one after the other."""
    learner, stepper, optimizer = _learner(recipe, device)
    size, files = recipe.order.batch_size, len(waves)
    wave = torch.from_numpy(waves[:size]).to(device)
    mel, text, species = learner.student.mel(wave), texts[:size].to(device), torch.arange(size, device=device)
    plan = text_bank.TextPlan(
        [], np.ones(1), [(np.arange(files + 1), np.arange(files, dtype=np.int32))], [], np.zeros(files, np.int32)
    )
    paths = [str(folder / f"{number}.wav") for number in range(files)]
    features = Features(RATE_HZ, SECONDS * RATE_HZ, "repeatpad", 0)
    clips = Clips(pa.array(paths, pa.large_string()), np.zeros(files), np.full(files, np.nan), features)
    rows = TrainingRows.of(clips, plan)
    seconds = {
        "decode": _seconds(lambda: [rows.row(row, 0) for row in range(size)], 3, device),
        "mel": _seconds(lambda: learner.student.mel(wave), 3, device),
    }
    vectors = pooled = loss = None

    def forward() -> None:
        nonlocal vectors, pooled
        vectors, pooled = stepper._forward(stepper.wrapped, mel, 0, 0)

    def lose() -> None:
        nonlocal loss
        loss, _ = stepper._loss(vectors, pooled, mel, text, species, size, stepper._scalars())

    times: dict[str, list[float]] = {"forward": [], "loss": [], "backward": [], "optimizer": []}
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        for name, part in (
            ("forward", forward),
            ("loss", lose),
            ("backward", lambda: loss.backward()),  # type: ignore[attr-defined]
            ("optimizer", optimizer.step),
        ):
            begin = time.perf_counter()
            part()
            _wait(device)
            times[name].append(time.perf_counter() - begin)
    return seconds | {name: float(np.median(some[1:])) for name, some in times.items()}


def _learner(recipe: Recipe, device: str) -> tuple[Learner, Stepper, torch.optim.Optimizer]:
    learner = Learner(optimizer.start_model(recipe), recipe.objective).to(device)
    optimizer.to_training_mode(learner.student, False)
    bf16 = recipe.precision == "bf16"
    stepper = Stepper(learner, learner, recipe.objective, 0.0, 0.0, 1, torch.empty(0, device=device), bf16)
    return learner, stepper, optimizer.adamw(learner, recipe)[0]


def _recipe(folder: Path, files: int, batch_size: int, device: str) -> Recipe:
    order = Order(files, batch_size, 1, 0)
    settings: dict[str, Any] = {
        "student": str(folder / "base"),
        "head": "linear",
        "provenance": {},
        "width": WIDTH,
        "order": order,
        "objective": "infonce",
        "alignment": 0.0,
        "preserve": 0.0,
        "parts": 1,
        "augment": Augment(),
        "lr": 1e-4,
        "head_lr": 1e-3,
        "weight_decay": 0.01,
        "warmup": 0.05,
        "freeze_encoder": False,
        "freeze_stages": 0,
        "wise_ft": (),
        "max_bad_fraction": 0.0,
        "precision": precision.resolve("auto", device == "cuda"),
        "eval_every": 1,
        "checkpoint_every": 10**9,
        "threads": None,
        "seed": 0,
    }
    return Recipe(**settings)


def _write_recordings(folder: Path, files: int) -> np.ndarray:
    """Recordings of noise and their table; their samples float32 [files, samples]."""
    rng = np.random.default_rng(0)
    waves = rng.normal(0, 0.1, (files, SECONDS * RATE_HZ)).astype(np.float32)
    for number, wave in enumerate(waves):
        soundfile.write(folder / f"{number}.wav", wave, RATE_HZ, subtype="PCM_16")
    rows = [{"path": f"{number}.wav", "scientific_name": f"Genus species{number}"} for number in range(files)]
    tables.write_table(str(folder / "r.parquet"), pa.Table.from_pylist(rows, tables.RECORDINGS))
    return waves


def _seconds(work: Callable[[], object], times: int, device: str, warm_up: int = 1) -> float:
    """Mean seconds of a call, behind the first ones."""
    for _ in range(warm_up):
        work()
    _wait(device)
    begin = time.perf_counter()
    for _ in range(times):
        work()
    _wait(device)
    return (time.perf_counter() - begin) / times


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _flop(device: str) -> float:
    """Floating-point operations of one clip through the tower, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    tower = htsat.Tower(htsat.TowerConfig()).eval().to(device)
    frames = LogMel({"truncation": "rand_trunc"}).clip_samples // 480 + 1
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower(torch.zeros(1, 1, frames, 64, device=device))
    return float(counter.get_total_flops())


def _peak(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large product."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b, 5, device)


if __name__ == "__main__":
    main()
