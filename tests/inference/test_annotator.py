"""What one recording gives, whatever else is in its unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from inference import annotator, archive, ledger, plan
from inference.annotator import Annotator
from inference.spans import Span, Unit, Windows
from tests.jobs import archives

WINDOWS = Windows(3.0, 3.0)
RATE_HZ = archives.RATE_HZ


@pytest.fixture(scope="module")
def made(model_dir: Path, gallery_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Annotator:
    folder = tmp_path_factory.mktemp("annotator")
    settings = annotator.Settings(
        run_id="r",
        archive=str(folder / "archive"),
        out=str(folder / "out"),
        model=str(model_dir),
        gallery=str(gallery_dir),
        windows=WINDOWS,
        top_k=1,
        min_score=-1.0,
        species=None,
        batch_size=8,
        device="cpu",
        threads=1,
    )
    (folder / "archive").mkdir()
    return Annotator(settings)


def annotate(made: Annotator, name: str, spans: list[Span]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What became of a recording, and its hits, from one unit of some of its spans."""
    unit = Unit(f"{name}-{spans[0].first}-{len(spans)}", tuple(spans))
    row = archive._seen(made.settings.archive, {"path": name, "size_bytes": 1, "etag_or_mtime": ""}, None, _Nowhere())
    text = annotator.encode_unit(unit, pa.Table.from_pylist([row], archive.SEEN).select(plan.FACTS))
    (outcome,) = made({"unit": np.array([text], dtype=object)})["outcome"]
    staged = ledger.Ledger(made.settings.out, "r").staged("hits", unit.name)
    hits = pq.read_table(staged).to_pylist() if Path(staged).exists() else []
    (file,) = json.loads(outcome)["files"]
    return file, hits


class _Nowhere:
    def of(self, path: str) -> str:
        return "nowhere"


def test_a_sample_that_is_not_finite_costs_its_window_alone(made: Annotator) -> None:
    path = Path(made.settings.archive) / "nan.wav"
    archives.sing(path, 150.0, seed=1)
    samples, _ = soundfile.read(path, dtype="float32")
    samples[round(70.5 * RATE_HZ)] = np.nan  # inside the 24th window, in the second span
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    spans = [Span("nan.wav", 0, 20), Span("nan.wav", 20, 20), Span("nan.wav", 40, 10)]

    together, hits = annotate(made, "nan.wav", spans)
    assert (together["windows"], together["reason"]) == (49, "not-finite")
    assert sorted({hit["start_s"] for hit in hits}) == [3.0 * n for n in range(50) if n != 23]

    apart = [annotate(made, "nan.wav", [span]) for span in spans]
    assert [file["windows"] for file, _ in apart] == [20, 19, 10]
    assert [file["reason"] for file, _ in apart] == ["", "not-finite", ""]
    archives.assert_same(hits, [hit for _, some in apart for hit in some])


def test_tails_are_marked_and_clicks_are_none(made: Annotator) -> None:
    path = Path(made.settings.archive) / "tail.wav"
    archives.sing(path, 7.0, seed=2)
    _, hits = annotate(made, "tail.wav", [Span("tail.wav", 0, 3)])
    assert [(hit["start_s"], hit["end_s"], hit["padded"]) for hit in hits] == [
        (0.0, 3.0, False),
        (3.0, 6.0, False),
        (6.0, 7.0, True),
    ]
    samples, _ = soundfile.read(path, dtype="float32")
    soundfile.write(path, samples[: 6 * RATE_HZ + 3], RATE_HZ)
    file, hits = annotate(made, "tail.wav", [Span("tail.wav", 0, 3)])
    assert (file["windows"], file["reason"], len(hits)) == (2, "", 2)


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44_100, 8_000])
def test_a_dead_microphone_is_silent_at_any_rate(made: Annotator, rate_hz: int) -> None:
    name = f"dead-{rate_hz}.wav"
    soundfile.write(Path(made.settings.archive) / name, np.full(9 * rate_hz, 0.25, np.float32), rate_hz)
    file, hits = annotate(made, name, [Span(name, 0, 3)])
    assert (file["windows"], file["silent"], hits) == (3, 3, [])


def test_a_unit_that_is_done_again_blames_nothing(made: Annotator) -> None:
    """Where Ray loses finished outcomes with a node it repeats their units, as often as it takes."""
    archives.sing(Path(made.settings.archive) / "again.wav", 7.0, seed=3)
    outcomes = [annotate(made, "again.wav", [Span("again.wav", 0, 3)])[0] for _ in range(6)]
    assert [(file["windows"], file["reason"]) for file in outcomes] == [(3, "")] * 6


def test_samples_too_large_for_a_spectrum_are_not_finite(made: Annotator) -> None:
    path = Path(made.settings.archive) / "large.wav"
    archives.sing(path, 6.0, seed=4)
    samples, _ = soundfile.read(path, dtype="float32")
    samples[RATE_HZ] = 1e30
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    file, hits = annotate(made, "large.wav", [Span("large.wav", 0, 2)])
    assert (file["windows"], file["reason"], [hit["start_s"] for hit in hits]) == (1, "not-finite", [3.0])
