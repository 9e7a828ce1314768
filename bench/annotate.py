"""What annotating costs: `songsight annotate` against its parts, the arithmetic, and the usual ways.

    python bench/annotate.py --json annotate.json
    python bench/annotate.py --precision fp32
    python bench/annotate.py --linear

- (a) `songsight annotate`, the command itself: whole, and in steady state as the run records it.
- (b) the bare loop: read, torch mel, encoder in the same precision; a process with one thread a core, no Ray.
- (c) the encoder alone on ready mels, in the same processes.
- (0) the floor: the tower's operations over this machine's rate for a large product, in the same processes.
- (d) plain Ray: `ray.data.read_audio` → `ClapProcessor` → fp32 `ClapModel`, an actor with one thread a core.
- (e) plain transformers in one process.

Recordings are noise of 120 s at 48 kHz, beyond an hour links to the same ones; the tower is of BioLingual's size with
random weights. (0), (c) and (b) take turns; a rate is the median turn's. `--linear` shows how cost grows with hours and
with the number of files, with a small tower.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE_HZ, WINDOW_S, FILE_S, BATCH = 48_000, 10, 120, 16
SPECIES, IMAGES_EACH, WIDTH = 300, 10, 768
PRODUCT = 2048
HERE = Path(__file__).resolve()
SMALL = {
    "spec_size": 128,
    "patch_size": 8,
    "patch_stride": [8, 8],
    "window_size": 4,
    "patch_embeds_hidden_size": 16,
    "depths": [2, 2],
    "num_attention_heads": [2, 4],
    "hidden_size": 32,
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0, help="of sound for (a)")
    parser.add_argument("--plain-hours", type=float, default=0.2, help="of sound for (d) and (e), at most --hours")
    parser.add_argument("--turns", type=int, default=5, help="of (0), (c) and (b)")
    parser.add_argument("--precision", default="auto", help="of (a), (b) and (c): auto, fp32 or bf16")
    parser.add_argument("--json", help="file for the ratios")
    parser.add_argument("--linear", action="store_true", help="how cost grows instead")
    parser.add_argument("--scale", type=float, default=1.0, help="of the hours and files of --linear")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        folder, seconds = options.part.split(":")[1:]
        part = plain_ray if options.part.startswith("ray:") else plain_transformers
        print(json.dumps(part(Path(folder), float(seconds))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.linear:
            linear(folder, options.scale)
            return
        hours = (options.hours, min(options.plain_hours, options.hours))
        ratios = measure(folder, *hours, options.turns, options.precision)
    if options.json:
        Path(options.json).write_text(json.dumps(ratios, indent=2))


def measure(folder: Path, hours: float, plain_hours: float, turns: int, precision: str) -> dict[str, float]:
    """Runs everything and prints what it took."""
    _write_models(folder, {})
    paths = _write_archive(folder / "archive", max(1, round(hours * 3600 / FILE_S)), FILE_S)
    seconds = len(paths) * FILE_S
    plain_s = max(FILE_S, plain_hours * 3600)

    _note(f"(0), (c) and (b), {turns} turns")
    parts, precise = side_by_side(folder, turns, precision)
    _note(f"(a) on {seconds / 3600:g} h")
    ours = annotate(folder, "archive", ("--precision", precision))
    _note(f"(d) and (e) on {plain_s / 3600:g} h")
    ray_rate = _part("ray", folder, plain_s)
    alone = _part("transformers", folder, plain_s)

    # Seconds of sound a second.
    rates: dict[str, tuple[float, float | None]] = {
        "(a) songsight annotate, whole": (seconds / ours["wall_s"], ours["cpu_s"] / seconds),
        "(a) songsight annotate, steady": (ours["steady_windows_per_s"] * WINDOW_S, ours["steady_cpu_s"]),
        "(b) bare loop": parts["bare"],
        "(c) encoder on ready mels": parts["encoder"],
        "(d) plain Ray, steady": (ray_rate["rate"], ray_rate["cpu_s"]),
        "(e) plain transformers": (alone["rate"], alone["cpu_s"]),
        "(0) floor, bf16 product": parts["bf16"],
        "(0) floor, fp32 product": parts["fp32"],
    }
    whole, steady, bare, encoder, plain, _, floor, floor_fp32 = (rate for rate, _ in rates.values())
    print(f"\n{seconds / 3600:g} h in {len(paths)} files, {os.cpu_count()} cores, encoder in {precise}\n")
    print("| | audio hours an hour | CPU seconds an audio hour |")
    print("|---|---|---|")
    for name, (rate, cpu_s) in rates.items():
        print(f"| {name} | {rate:.0f} | {f'{cpu_s * 3600:.0f}' if cpu_s else ''} |")
    ratios = {
        "steady_over_bare": steady / bare,
        "whole_over_bare": whole / bare,
        "bare_over_encoder": bare / encoder,
        "encoder_over_floor": encoder / floor,
        "steady_over_plain_ray": steady / plain,
        "first_window_s": ours["first_window_s"],
    }
    print("\n| ratio | |")
    print("|---|---|")
    for name, value in ratios.items():
        print(f"| {name} | {value:.2f} |")
    print(f"\nencoder over the floor of the faster of both products: {encoder / max(floor, floor_fp32):.2f}")
    gflops = _window_flop() * floor / WINDOW_S / 1e9
    print(f"bf16 product: {gflops:.0f} GFLOP/s, fp32: {_window_flop() * floor_fp32 / WINDOW_S / 1e9:.0f}")
    return ratios


def annotate(folder: Path, archive: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Runs the command and gives its `run.json` and what it cost; times are counted from before it starts."""
    out = folder / f"out-{archive}"
    command = [sys.executable, "-m", "jobs.annotate", "--archive", str(folder / archive), "--gallery"]
    command += [str(folder / "gallery"), "--model", str(folder / "model"), "--out", str(out), *more]
    code, wall_s, meter = _metered(command, folder)
    if code:
        sys.exit(f"songsight annotate ended with {code}")
    record = json.loads((out / "run.json").read_text())
    start, stop = record["steady_between"] or (0.0, 0.0)
    steady = record["steady_windows_per_s"] or record["windows_per_s"]
    steady_cpu_s = meter.between(start, stop) / (steady * WINDOW_S * (stop - start)) if stop > start else None
    first = record["begun_at"] - meter.begin + record["first_window_s"]
    return record | {
        "wall_s": wall_s,
        "cpu_s": meter.total(),
        "steady_windows_per_s": steady,
        "steady_cpu_s": steady_cpu_s,
        "first_window_s": first,
    }


def side_by_side(folder: Path, turns: int, wanted: str) -> tuple[dict[str, tuple[float, float]], str]:
    """(0), (c) and (b) in a process a core: by part (seconds of sound a second, CPU seconds a second of sound)."""
    import torch

    processes = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_take_turns, args=(folder, wanted, number, processes, turns, barrier, results))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    told = [results.get(timeout=1800) for _ in workers]
    for worker in workers:
        worker.join()
    summed = {}
    for part in told[0]["parts"]:
        taken = np.array([one["parts"][part] for one in told])  # [processes, turns, (sound, wall, cpu)]
        rate = float(np.median((taken[..., 0] / taken[..., 1]).sum(0)))
        summed[part] = (rate, float(np.median(taken[..., 2] / taken[..., 0])))
    return summed, told[0]["precision"]


def _take_turns(folder: Path, wanted: str, number: int, processes: int, turns: int, barrier: Any, results: Any) -> None:
    import soundfile
    import torch

    from songsight.models import precision, student

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    precise = precision.resolve(wanted, device == "cuda")
    model = student.load(str(folder / "model"), device)
    precision.prepare(model, precise, model.mel.frames)
    paths = sorted((folder / "archive").iterdir())
    paths = paths[number::processes][:2] or paths[:1]
    waves = torch.from_numpy(_windows(soundfile.read(paths[0], dtype="float32")[0])[:BATCH])
    with torch.inference_mode():
        mels = model.mel(waves.to(device))
    size = 8192 if device == "cuda" else PRODUCT
    factors = {
        kind: [torch.randn(size, size, device=device, dtype=dtype) for _ in range(2)]
        for kind, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }

    def multiply(kind: str) -> float:
        a, b = factors[kind]
        for _ in range(8):
            a @ b
        return 8 * 2 * size**3 / _window_flop() * WINDOW_S

    @torch.inference_mode()
    def encode() -> float:
        for _ in range(4):
            model(mels)
        return 4 * len(mels) * WINDOW_S

    def bare() -> float:
        done = 0
        pending: list[np.ndarray] = []
        for path in paths * 3:
            pending += list(_windows(soundfile.read(path, dtype="float32")[0]))
            while len(pending) >= BATCH:
                model.embed(torch.from_numpy(np.stack(pending[:BATCH]))).cpu()
                done, pending = done + BATCH, pending[BATCH:]
        return done * WINDOW_S

    parts: dict[str, Callable[[], float]] = {
        "bf16": lambda: multiply("bf16"),
        "fp32": lambda: multiply("fp32"),
        "encoder": encode,
        "bare": bare,
    }
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in parts}
    for turn in range(turns + 1):  # the first one warms up
        for name, part in parts.items():
            barrier.wait(600)
            begin, cpu = time.perf_counter(), time.process_time()
            sound = part()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                taken[name].append((sound, time.perf_counter() - begin, time.process_time() - cpu))
    results.put({"parts": taken, "precision": precise})


def plain_ray(folder: Path, seconds: float) -> dict[str, float]:
    """Ray Data as its documentation has it: whole files, the checkpoint's own processor, its own model."""
    import ray

    from inference.annotate import throughput

    cores = os.cpu_count() or 1
    begin = time.time()
    # The actors take a CPU each: one more, else no task could read for them.
    ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    paths = [str(path) for path in sorted((folder / "archive").iterdir())[: max(1, round(seconds / FILE_S))]]
    dataset = ray.data.read_audio(paths).map_batches(
        _PlainEncoder,
        fn_constructor_args=(str(folder / "clap"),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(cores, len(paths))),
        num_cpus=1,
    )
    texts = [text for batch in dataset.iter_batches(batch_size=None) for text in batch["pace"]]
    found = throughput.summary(map(str, texts), begin)
    units = [json.loads(str(text)) for text in texts]
    windows = sum(unit["windows"] for unit in units)
    rate = found["steady_windows_per_s"] or windows / sum(u["end"] - u["begin"] for u in units)  # one actor: its own
    return {"rate": float(rate) * WINDOW_S, "cpu_s": sum(u["cpu_s"] for u in units) / windows / WINDOW_S}


class _PlainEncoder:
    def __init__(self, clap: str) -> None:
        import torch
        from transformers import ClapModel, ClapProcessor

        from inference.annotate.throughput import Pace

        torch.set_num_threads(1)
        self.processor, self.model = ClapProcessor.from_pretrained(clap), ClapModel.from_pretrained(clap).eval()
        self.pace = Pace()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        self.pace.start()
        cpu = time.process_time()
        for samples in batch["amplitude"]:
            for vectors in _plain_embed(self.processor, self.model, _windows(np.asarray(samples)[0])):
                self.pace.saw(None, None, vectors)
        told = json.loads(self.pace.stop()) | {"cpu_s": time.process_time() - cpu}
        return {"pace": [json.dumps(told)]}


def plain_transformers(folder: Path, seconds: float) -> dict[str, float]:
    """A loop as the model's documentation has it, with as many threads as PyTorch takes."""
    import soundfile
    from transformers import ClapModel, ClapProcessor

    clap = str(folder / "clap")
    processor, model = ClapProcessor.from_pretrained(clap), ClapModel.from_pretrained(clap).eval()
    paths = sorted((folder / "archive").iterdir())[: max(1, round(seconds / FILE_S))]
    begin, cpu, done = time.perf_counter(), time.process_time(), 0
    for path in paths:
        for vectors in _plain_embed(processor, model, _windows(soundfile.read(path, dtype="float32")[0])):
            done += len(vectors)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"rate": done * WINDOW_S / wall, "cpu_s": cpu / (done * WINDOW_S)}


def _plain_embed(processor: Any, model: Any, windows: np.ndarray) -> Iterator[Any]:
    import torch

    for start in range(0, len(windows), BATCH):
        some = list(windows[start : start + BATCH])
        with torch.inference_mode():
            inputs = processor(audio=some, sampling_rate=RATE_HZ, return_tensors="pt")
            yield model.get_audio_features(**inputs).pooler_output


def linear(folder: Path, scale: float) -> None:
    """Prints how cost grows with hours, and with the number of files that hold the same hours."""
    from transformers import ClapFeatureExtractor

    _write_models(folder, SMALL, ClapFeatureExtractor(truncation="rand_trunc", hop_length=1880))
    runs = []
    for hours in (1, 2, 4, 8):
        count = max(1, round(hours * scale * 3600 / FILE_S))
        runs.append((f"{count * FILE_S / 3600:g} h in {count} files", count, FILE_S))
    most = max(1000, round(20_000 * scale))
    for count in (10, max(100, most // 20), most):
        seconds = most // count * WINDOW_S
        runs.append((f"{count} files, {count * seconds / 3600:.3g} h", count, seconds))
    print("| archive | wall s | steady audio hours an hour | CPU s | CPU s an audio hour |")
    print("|---|---|---|---|---|")
    for number, (name, count, seconds) in enumerate(runs):
        _write_archive(folder / f"archive{number}", count, seconds)
        found = annotate(folder, f"archive{number}")
        hours = count * seconds / 3600
        steady = found["steady_windows_per_s"] * WINDOW_S
        cpu = found["cpu_s"]
        print(f"| {name} | {found['wall_s']:.0f} | {steady:.0f} | {cpu:.0f} | {cpu / hours:.1f} |", flush=True)


class _Meter(threading.Thread):
    """CPU seconds of a process and all below it, read now and then: they are gone with the processes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.begin = pid, time.time()
        self.last: dict[tuple[int, float], float] = {}
        self.samples: list[tuple[float, float]] = [(self.begin, 0.0)]
        self.ended = threading.Event()

    def run(self) -> None:
        import psutil

        while not self.ended.wait(0.25):
            try:
                root = psutil.Process(self.pid)
                for process in [root, *root.children(recursive=True)]:
                    try:
                        times = process.cpu_times()
                        self.last[process.pid, process.create_time()] = times.user + times.system
                    except psutil.Error:
                        continue
            except psutil.Error:
                continue
            self.samples.append((time.time(), sum(self.last.values())))

    def total(self) -> float:
        return self.samples[-1][1]

    def between(self, start: float, stop: float) -> float:
        times, totals = zip(*self.samples, strict=True)
        return float(np.interp(stop, times, totals) - np.interp(start, times, totals))


def _metered(command: list[str], folder: Path) -> tuple[int, float, _Meter]:
    env = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    begin = time.time()
    process = subprocess.Popen(command, env=env, cwd=folder)
    meter = _Meter(process.pid)
    meter.begin = begin
    meter.start()
    code = process.wait()
    wall_s = time.time() - begin
    meter.ended.set()
    meter.join()
    return code, wall_s, meter


def _part(kind: str, folder: Path, seconds: float) -> dict[str, float]:
    """Runs (d) or (e) in a process of its own."""
    command = [sys.executable, str(HERE), "--part", f"{kind}:{folder}:{seconds}"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=env, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _windows(samples: np.ndarray) -> np.ndarray:
    return samples.reshape(-1, WINDOW_S * RATE_HZ)


@functools.cache
def _window_flop() -> float:
    """Floating-point operations of a window through the tower, as PyTorch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from songsight.models import htsat

    tower = htsat.Tower(htsat.TowerConfig()).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower(torch.zeros(1, 1, WINDOW_S * 100 + 1, 64))
    return float(counter.get_total_flops())


def _write_archive(folder: Path, count: int, seconds: int) -> list[Path]:
    """Recordings of noise; at most an hour of them are written, the others are links to those."""
    import soundfile

    folder.mkdir()
    rng = np.random.default_rng(0)
    distinct = max(1, min(count, 3600 // seconds))
    minute = rng.normal(0, 0.1, RATE_HZ * 60).astype(np.float32)
    paths = []
    for number in range(count):
        path = folder / f"rec{number:06}_20250401_{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}.wav"
        if number < distinct:
            with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as sound:
                for start in range(0, seconds, 60):
                    sound.write(np.roll(minute, int(rng.integers(len(minute))))[: RATE_HZ * min(60, seconds - start)])
        else:
            os.link(paths[number % distinct], path)
        paths.append(path)
    return paths


def _write_models(folder: Path, audio: dict[str, Any], extractor: Any = None) -> None:
    """A ClapModel, a student of it and a gallery, all of random numbers."""
    import pyarrow as pa
    import torch
    from transformers import ClapConfig, ClapModel

    from inference.match import gallery
    from songsight.models import student
    from songsight.store import tables

    sys.path.insert(0, str(HERE.parents[1]))  # the tests know how to write a checkpoint
    from tests import checkpoints

    clap = checkpoints.clap(folder / "clap", small=False)
    if audio:
        ClapModel(ClapConfig(audio_config=audio)).save_pretrained(clap)
        extractor.save_pretrained(clap)
    torch.manual_seed(0)
    student.save(student.from_base(str(clap), WIDTH, teacher_fingerprint="noise"), str(folder / "model"), "")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(SPECIES * IMAGES_EACH, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"Genus species{number:04}" for number in range(SPECIES)]
    images = [
        {"image_id": f"{n}-{i}", "path": f"{n}-{i}.jpg", "scientific_name": name}
        for n, name in enumerate(names)
        for i in range(IMAGES_EACH)
    ]
    table = pa.Table.from_pylist(images, tables.IMAGES)
    shown = table.append_column("embedding", gallery.vectors_column(vectors))
    tables.write_table(str(folder / "gallery" / "images.parquet"), shown)
    species = gallery.species_of(table).append_column("embedding", gallery.vectors_column(vectors[::IMAGES_EACH]))
    tables.write_table(str(folder / "gallery" / "species.parquet"), species)
    info = {"teacher": "noise", "teacher_fingerprint": "noise"}
    (folder / "gallery" / "gallery.json").write_text(json.dumps(info))


if __name__ == "__main__":
    main()
