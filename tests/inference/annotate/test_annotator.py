"""What one recording gives, whatever else is in its unit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from inference.annotate import annotator, journal, ledger, plan
from inference.annotate.annotator import Annotator
from inference.archive import inventory
from inference.archive.spans import Span, Unit, Windows
from songsight.audio import channels
from tests.jobs.annotating import archives

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
    row = inventory._seen(made.settings.archive, {"path": name, "size_bytes": 1, "etag_or_mtime": ""}, None, _Nowhere())
    text = annotator.encode_unit(unit, pa.Table.from_pylist([row], inventory.SEEN).select(plan.FACTS))
    outcome, _ = made.work(text)
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


def test_a_microphone_turned_over_is_heard_and_noted(made: Annotator) -> None:
    folder = Path(made.settings.archive)
    archives.sing(folder / "one.wav", 9.0, seed=8)
    samples, _ = soundfile.read(folder / "one.wav", dtype="float32")
    soundfile.write(folder / "two.wav", np.stack([samples, -samples], axis=1), RATE_HZ)
    soundfile.write(folder / "beside.wav", np.stack([samples, 0 * samples], axis=1), RATE_HZ)
    found = {name: annotate(made, f"{name}.wav", [Span(f"{name}.wav", 0, 3)]) for name in ("one", "two", "beside")}
    assert [(file["windows"], file["silent"]) for file, _ in found.values()] == [(3, 0)] * 3
    assert {name: file["note"] for name, (file, _) in found.items()} == {
        "one": "",
        "two": channels.CANCELLED,
        "beside": "",
    }
    assert [hit["score"] for hit in found["two"][1]] == pytest.approx([hit["score"] for hit in found["one"][1]])


def test_a_chosen_channel_that_a_file_has_not(made: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(made.settings.archive)
    archives.sing(folder / "mono.wav", 6.0, seed=9)
    samples, _ = soundfile.read(folder / "mono.wav", dtype="float32")
    soundfile.write(folder / "stereo.wav", np.stack([0 * samples, samples], axis=1), RATE_HZ)
    monkeypatch.setattr(made, "settings", dataclasses.replace(made.settings, channel="right"))
    file, hits = annotate(made, "mono.wav", [Span("mono.wav", 0, 2)])
    assert (file["windows"], file["reason"], hits) == (0, "channel", [])
    assert annotate(made, "stereo.wav", [Span("stereo.wav", 0, 2)])[0]["windows"] == 2
    monkeypatch.setattr(made, "settings", dataclasses.replace(made.settings, channel="left"))
    file, _ = annotate(made, "stereo.wav", [Span("stereo.wav", 0, 2)])
    assert (file["windows"], file["silent"]) == (2, 2)


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


class _Death(BaseException):
    pass


@pytest.mark.parametrize("kind", ["none", "float16", "binary"])
def test_a_unit_goes_on_where_its_annotator_died(
    made: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    names = [f"long-{n}.wav" for n in range(3)]
    for n, name in enumerate(names):
        archives.sing(Path(made.settings.archive) / name, 150.0, seed=n)
    rows = [
        inventory._seen(made.settings.archive, {"path": name, "size_bytes": 1, "etag_or_mtime": ""}, None, _Nowhere())
        for name in names
    ]
    seen = pa.Table.from_pylist(rows, inventory.SEEN)
    unit = Unit("u", tuple(Span(name, first, min(20, 50 - first)) for name in names for first in (0, 20, 40)))
    text = annotator.encode_unit(unit, seen.select(plan.FACTS))

    def start(out: str, **more: Any) -> Annotator:
        return Annotator(dataclasses.replace(made.settings, out=str(tmp_path / out), embeddings=kind, **more))

    def work(one: Annotator) -> dict[str, Any]:
        return json.loads(one.work(text)[0])

    def staged(out: str, name: str) -> list[dict[str, Any]]:
        order = lambda row: (row["recording"], row["start_s"], row.get("rank", 1))  # noqa: E731
        return sorted(ledger.Ledger(str(tmp_path / out), "r").read_staged(name, "u").to_pylist(), key=order)

    whole = work(start("whole"))
    monkeypatch.setattr(journal, "PIECE_S", 0.0)
    dying = start("out")
    match, matched = dying._hits, 0

    def die(windows: Any, facts: Any) -> Any:
        nonlocal matched
        matched += len(windows)
        if matched > 100:
            raise _Death
        return match(windows, facts)

    monkeypatch.setattr(dying, "_hits", die)
    with pytest.raises(_Death):
        work(dying)
    dying.writer.shutdown()
    state = ledger.Ledger(dying.settings.out, "r")
    outcomes = state.finished()
    done = sum(outcomes.files["windows"].to_pylist())
    assert 40 <= done <= 100  # all of the spans that were embedded; of those in flight none
    # The next command knows them as finished …
    assert plan.make(seen, WINDOWS, outcomes).todo_windows == 150 - done
    # … and so does the annotator that takes the dead one's place.
    second = start("out")
    outcome = work(second)
    assert json.loads(second.pace.stop())["windows"] == 150 - done
    second.writer.shutdown()
    assert set(state.finished().files["unit"].to_pylist()) == {"u"}
    # A driver that was started meanwhile may have taken the pieces: what they hold is there until the run ends.
    for piece in set(outcomes.parts["unit"].to_pylist()):
        assert len(state.read_staged("hits", piece))

    archives.assert_same(staged("out", "hits"), staged("whole", "hits"))
    assert sorted(outcome["parts"]) == sorted(whole["parts"])
    assert sorted(outcome["heard"]) == sorted(whole["heard"])
    assert outcome["codes"]["windows"] in ([0] if kind != "binary" else [8, 16])  # of the first batch of each start
    for key in ("windows", "hits", "silent"):
        assert sum(file[key] for file in outcome["files"]) == sum(file[key] for file in whole["files"])
    if kind != "none":
        both = staged("out", "embeddings"), staged("whole", "embeddings")
        assert [(row["recording"], row["start_s"]) for row in both[0]] == [
            (row["recording"], row["start_s"]) for row in both[1]
        ]
        if kind == "float16":
            vectors = [np.array([row["embedding"] for row in some], float) for some in both]
            np.testing.assert_allclose(*vectors, atol=2e-3)
    again = plan.make(seen, WINDOWS, state.finished())
    assert (again.todo_windows, again.accepted.to_pylist()) == (0, ["u"])


def test_a_whole_unit_makes_its_leftover_pieces_void(made: Annotator, tmp_path: Path) -> None:
    """An annotator may be killed between a unit's outcome and the end of its pieces."""
    state = ledger.Ledger(str(tmp_path), "r")
    for name in ("u", state.piece_name("u", "1234"), state.piece_name("v", "5678")):
        state.finish(name, {}, {"files": [], "parts": [["s", "d", 1]]})
    assert state.finished().parts["unit"].to_pylist() == ["u", "v+5678"]
