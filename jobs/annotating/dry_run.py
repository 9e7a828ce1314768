"""What `songsight annotate --dry-run` prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from inference.annotate.annotator import Settings
    from inference.annotate.plan import Plan
    from inference.archive.listing import Listing

_MEASURED_S = 3.0
_SHOWN = 5


def describe(
    files: Listing, planned: Plan, settings: Settings, actors: tuple[int, int], gpus: float, band_hz: float
) -> str:
    """The plan as lines of text.

    Args:
        files: of the archive.
        planned: what is to be done.
        settings: of the run.
        actors: fewest and most.
        gpus: of each annotator.
        band_hz: the highest frequency that the encoder hears.
    """
    from inference.annotate import accounting

    seen = planned.seen
    usable = seen.filter(pc.equal(seen["reason"], ""))
    hours = (pc.sum(usable["duration_s"]).as_py() or 0) / 3600
    left = planned.unit_S >= 0
    lines = [
        f"run {settings.run_id}: {len(files)} recordings in the archive, {files.skipped} other files skipped",
        f"  to annotate: {len(usable)} recordings, {hours:.2f} h" + _named("site", usable["site"]),
        f"  {_dates(usable)}",
        f"  cut: windows of {planned.windows.window_s:g} s every {planned.windows.hop_s:g} s, "
        f"{planned.count_S.sum():,} in {len(planned.count_S):,} spans"
        + (f"; {len(planned.accepted)} units are done, with {(~left).sum():,} spans" if len(planned.accepted) else ""),
    ]
    if done := len(files) - len(seen):
        lines.insert(1, f"  as before: {done} recordings, which an earlier run accounted for")
    lost = seen.filter(pc.not_equal(seen["reason"], ""))
    lines += _lost("quarantine", lost["reason"], lost["path"], lost["detail"])
    cut = usable.filter(pc.not_equal(usable["cut_short"], ""))
    lines += _lost(
        "in part", pa.chunked_array([pa.array(["cut short"] * len(cut), pa.string())]), cut["path"], cut["cut_short"]
    )
    notes = pc.value_counts(accounting.notes(usable, band_hz).drop_null()).to_pylist()
    lines += [f"  noted: {row['counts']}, {row['values']}" for row in notes]
    if planned.units:
        count = actors[1]
        rate = _windows_per_s(settings, gpus)
        left_h = planned.todo_windows / (rate * count) / 3600
        lines.append(
            f"  left: {planned.todo_s / 3600:.2f} h of sound in {planned.units} units, about {_hours(left_h)} with "
            f"{count} annotators at {rate:.1f} windows/s each (their encoder's pace at noise, measured for "
            f"{_MEASURED_S:g} s; reading and decoding, which go on beside it, are not in it)"
        )
    else:
        lines.append("  left: nothing")
    return "\n".join(lines)


def _named(what: str, column: pa.ChunkedArray) -> str:
    counts = sorted(pc.value_counts(column).to_pylist(), key=lambda row: -row["counts"])
    names = ", ".join(f"{row['values']} ({row['counts']})" for row in counts[:_SHOWN])
    return f", {len(counts)} {what}{'s' if len(counts) != 1 else ''}: {names}{', …' if len(counts) > _SHOWN else ''}"


def _dates(usable: pa.Table) -> str:
    start = pc.coalesce(usable["start_utc"].cast(pa.timestamp("us")), usable["start_local"])
    span = pc.min_max(start).as_py()
    local = pc.sum(pc.and_(pc.is_null(usable["start_utc"]), pc.is_valid(usable["start_local"]))).as_py() or 0
    text = f"{span['min']:%Y-%m-%d %H:%M} to {span['max']:%Y-%m-%d %H:%M}" if span["min"] else "no start is known"
    sources = _named("source", usable["start_source"]).removeprefix(", ") if len(usable) else "no recording"
    zone = f"; {local} by a clock without a zone: give --timezone" if local else ""
    return f"start: {text}, {sources}{zone}"


def _lost(what: str, reasons: pa.ChunkedArray, paths: pa.ChunkedArray, details: pa.ChunkedArray) -> list[str]:
    lines = []
    for row in sorted(pc.value_counts(reasons).to_pylist(), key=lambda row: -row["counts"]):
        first = pc.index(reasons, row["values"]).as_py()
        lines.append(f"  {what}: {row['counts']} {row['values']}, such as {paths[first]} ({details[first]})")
    return lines


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def _windows_per_s(settings: Settings, gpus: float) -> float:
    """How fast one annotator embeds, measured where annotators run."""
    import ray

    return float(ray.get(ray.remote(num_cpus=1, num_gpus=gpus)(_pace).remote(settings)))


def _pace(settings: Settings) -> float:
    import torch

    from songsight.models import encoder

    if settings.device == "cpu":
        torch.set_num_threads(settings.threads)
    model = encoder.load(settings.model, settings.device, settings.precision)
    rng = np.random.default_rng(0)
    waves = torch.from_numpy(rng.standard_normal((settings.batch_size, model.mel.clip_samples), np.float32) * 0.1)
    model.embed(waves)
    begin, batches = time.monotonic(), 0
    while time.monotonic() - begin < _MEASURED_S:
        model.embed(waves)[0, 0].item()
        batches += 1
    return batches * settings.batch_size / (time.monotonic() - begin)
