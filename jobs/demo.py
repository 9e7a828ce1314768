"""Run everything on a small procedural world, and open a page of what was found.

    songsight demo --out demo-out

Weights of BioCLIP-2 and BioLingual need a download; this needs none. A world of invented birds is drawn and sung, a
small open_clip model and a small ClapModel learn it as stand-ins for the two, and from there on the real jobs run:
distill, gallery, evaluate, annotate, report. A second run takes the world and the stand-ins from `--cache`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demoworld
from jobs import annotate, distill, evaluate, gallery, report
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import lease

WORLD = ("recordings", "images", "archive", "recordings.parquet", "images.parquet", "labels.parquet")
STAND_INS = ("teacher", "base")
MADE = ("model", "gallery", "annotated", "evaluation", "report.html", "summary.json")
MARKER = ".songsight-demo"

# The world is so small that one more process takes longer to start than it saves.
ACTORS = 1
HOP_S = 1.5
TOP_K = 1
# The threshold was chosen by a sweep over the demo's own labels, so precision and recall are not blind (see README).
MIN_SCORE = 0.87


@dataclass(frozen=True)
class Options:
    """Options of `songsight demo`."""

    out: str = "demo-out"
    """folder for everything that the demo makes"""
    cache: str = ".demo-cache"
    """folder that keeps the world and the trained stand-ins for the next run"""
    seed: int = 0
    """of the world, the models and the training"""
    species: int = 60
    """how many species live in the world"""
    epochs: int = 15
    """passes of the distillation over the recordings"""
    workers: int = 1
    """Ray Train workers of the distillation"""


def main(options: Options) -> dict[str, Any]:
    """Runs the demo and returns what `summary.json` holds."""
    opts.require_positive(species=options.species, epochs=options.epochs, workers=options.workers)
    opts.require_at_least(0, seed=options.seed)
    with lease.held(options.out):
        return _demo(options)


def _demo(options: Options) -> dict[str, Any]:
    """The same, while no other run is at `--out`."""
    begin = time.monotonic()
    out = _fresh(Path(options.out))
    # The runs of the demo are kept with it, unless the user keeps runs somewhere.
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{out.resolve() / 'mlflow.db'}")
    _world(out, Path(options.cache), options.seed, options.species)
    _distill(out, options.epochs, options.workers, options.seed)
    measured = _evaluate(out, options.seed)
    _annotate(out)
    summary = _summary(out, measured) | {"seconds": time.monotonic() - begin}
    (out / "summary.json").write_text(json.dumps(summary, indent=2))
    _print(summary, measured["table"], out)
    return summary


def _distill(out: Path, epochs: int, workers: int, seed: int) -> None:
    _say("distilling the teacher's text space into the audio encoder")
    distill.main(
        distill.Options(
            recordings=str(out / "recordings.parquet"),
            teacher=str(out / "teacher"),
            student=str(out / "base"),
            out=str(out / "model"),
            objective="masked",
            alignment=3.0,
            epochs=epochs,
            batch_size=32,
            lr=1.5e-3,
            head_lr=3e-3,
            gain_db=6.0,
            shift_s=1.0,
            gallery=str(out / "gallery"),
            eval_every=5,
            eval_recordings=240,
            workers=str(workers),
            seed=seed,
            threads=1,
            precision="fp32",  # the same on every machine
            register_as="songsight-demo",
        )
    )


def _evaluate(out: Path, seed: int) -> dict[str, Any]:
    """What `songsight evaluate` measures."""
    _say("measuring how well sound finds pictures")
    return evaluate.main(
        evaluate.Options(
            model=str(out / "model"),
            gallery=str(out / "gallery"),
            recordings=str(out / "recordings.parquet"),
            out=str(out / "evaluation"),
            actors=ACTORS,
            seed=seed,
        )
    )


def _annotate(out: Path) -> None:
    """Annotates the archive and draws the page of it."""
    _say("annotating the archive")
    annotate.main(
        annotate.Options(
            archive=str(out / "archive"),
            gallery=str(out / "gallery"),
            model=str(out / "model"),
            out=str(out / "annotated"),
            hop_s=HOP_S,
            top_k=TOP_K,
            min_score=MIN_SCORE,
            precision="fp32",
            actors=str(ACTORS),
        )
    )
    report.main(
        report.Options(
            annotated=str(out / "annotated"),
            out=str(out / "report.html"),
            title="What sang in the demo world",
            evaluation=str(out / "evaluation" / "table.json"),
        )
    )


def _summary(out: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """What was measured, how many files there were, and how many hits are right."""
    run = json.loads((out / "annotated" / "run.json").read_text())
    return {
        **{key: measured[key] for key in ("audio_to_image_mAP", "naming_top1", "knn_before", "knn_after")},
        "accounting": {key: run[key] for key in ("files_found", "annotated", "quarantined", "skipped")},
        **score_hits(out / "annotated", out / "labels.parquet"),
    }


def score_hits(annotated: Path, labels: Path) -> dict[str, Any]:
    """Compares hits with the true labels.

    Precision is the share of hits whose species sings for at least half a second in the hit's window. Recall is the
    share of labelled songs with a hit of their species in a window that holds at least half a second of them.

    Args:
        annotated: what `songsight annotate` wrote.
        labels: path (relative to the archive), start_s, end_s, scientific_name, snr_db.

    Returns:
        `precision`, `recall`, `recall_by_snr_db`, `hits` and `songs`; precision is NaN without hits.
    """
    import pyarrow.parquet as pq

    hits = pq.read_table(annotated / "hits").to_pylist()
    songs = pq.read_table(labels).to_pylist()
    windows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for hit in hits:
        windows.setdefault((hit["recording"], hit["scientific_name"]), []).append((hit["start_s"], hit["end_s"]))
    sung: dict[tuple[str, str], list[tuple[float, float]]] = {}
    found: dict[float, list[bool]] = {}
    for song in songs:
        key, span = (song["path"], song["scientific_name"]), (song["start_s"], song["end_s"])
        sung.setdefault(key, []).append(span)
        found.setdefault(song["snr_db"], []).append(any(_overlap(span, w) >= 0.5 for w in windows.get(key, [])))
    right = [
        any(_overlap((hit["start_s"], hit["end_s"]), span) >= 0.5 for span in sung.get(key, []))
        for hit in hits
        for key in [(hit["recording"], hit["scientific_name"])]
    ]
    every = [one for group in found.values() for one in group]
    return {
        "precision": sum(right) / len(right) if right else float("nan"),
        "recall": sum(every) / len(every),
        "recall_by_snr_db": {f"{snr:g}": sum(group) / len(group) for snr, group in sorted(found.items())},
        "hits": len(hits),
        "songs": len(songs),
    }


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    return min(a[1], b[1]) - max(a[0], b[0])


def _fresh(out: Path) -> Path:
    """An empty folder, or an earlier demo's with what it made removed.

    Raises:
        UserError: the folder holds something else.
    """
    if out.is_dir() and any(path.name != lease.NAME for path in out.iterdir()) and not (out / MARKER).exists():
        raise UserError(f"--out {out} is not empty and not of an earlier demo: give another folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    for name in (*WORLD, *STAND_INS, *MADE):
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return out


def _world(out: Path, cache: Path, seed: int, species: int) -> None:
    """Puts the world, the stand-ins and the gallery into `out`; all but the last from the cache where it has them."""
    source = hashlib.sha256(repr((seed, species)).encode())
    for file in sorted(Path(demoworld.__file__).parent.glob("*.py")):
        source.update(file.read_bytes())
    cached = cache / source.hexdigest()[:16]
    if cached.is_dir():
        _say(f"world and stand-ins from {cached}")
        _copy((*WORLD, *STAND_INS), cached, out)
        _gallery(out)
        return
    from demoworld import stand_ins, world

    making = cached.with_name(f"{cached.name}.{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    # This process only waits for others here: it imports what the jobs need meanwhile, and is the first to do so, so
    # that on a fresh machine one process compiles it and not each.
    importing = threading.Thread(target=_import_what_jobs_need)
    importing.start()
    _say("drawing and singing the demo world")
    world.build(str(making), seed, species=species)
    _say("training the stand-ins for BioCLIP-2 (teacher) and BioLingual (base)")

    def embed_photographs() -> None:
        importing.join()
        _copy((*WORLD, "teacher"), making, out)
        _gallery(out)

    stand_ins.train(str(making), str(making / "teacher"), str(making / "base"), seed, with_teacher=embed_photographs)
    making.rename(cached)
    _copy(("base",), cached, out)


def _gallery(out: Path) -> None:
    _say("embedding the photographs with the teacher")
    gallery.main(
        gallery.Options(
            images=str(out / "images.parquet"),
            teacher=str(out / "teacher"),
            out=str(out / "gallery"),
            actors=ACTORS,
        )
    )


def _copy(names: Iterable[str], source: Path, target: Path) -> None:
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            shutil.copy2(source / name, target / name)


def _import_what_jobs_need() -> None:
    for module in (
        "songsight.models.student",
        "songsight.models.teacher",
        "ray.data",
        "ray.train.torch",
        "mlflow.pyfunc",
    ):
        importlib.import_module(module)


def _say(what: str) -> None:
    opts.note(f"== {what}")


def _print(summary: dict[str, Any], baselines: list[dict[str, Any]], out: Path) -> None:
    from inference.evaluation import table

    columns = {
        "method": "audio → image",
        "mAP": "mAP [95 % over recordings] [over species]",
        "recall_at_1": "R@1",
        "median_rank": "median rank",
    }
    print()
    print(table.markdown(baselines, columns, species=True))
    print(f"kNN on the audio embedding: {summary['knn_before']:.3f} before, {summary['knn_after']:.3f} after")
    account = summary["accounting"]
    print(
        f"archive: {account['files_found']} files in = {account['annotated']} annotated + "
        f"{account['quarantined']} quarantined; {account['skipped']} other files skipped"
    )
    by_snr = ", ".join(f"{snr} dB {share:.2f}" for snr, share in summary["recall_by_snr_db"].items())
    print(
        f"hits against the true labels: precision {summary['precision']:.3f} of {summary['hits']} hits, "
        f"recall {summary['recall']:.3f} of {summary['songs']} songs ({by_snr})"
    )
    print(f"done in {summary['seconds']:.0f} s; open {out / 'report.html'}")


if __name__ == "__main__":
    from jobs.cli import command

    command("demo")
