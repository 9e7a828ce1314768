from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill.data import stream, text_bank
from distill.data.order import Order
from distill.data.rows import REASON_OF, TrainingRows
from songsight.audio import clips as clipping
from songsight.audio.clips import Clips, Features
from songsight.audio.reader import Reader, StorageError, open_audio
from songsight.errors import UserError
from songsight.store import retry, tables
from tests.conftest import World

FEATURES = Features(sample_rate_hz=16000, clip_samples=48000, padding="repeatpad", seed=3)


@pytest.fixture
def rows(world: World) -> TrainingRows:
    table = tables.read_table(str(world.recordings), "--recordings", (), tables.RECORDINGS)
    plan = text_bank.plan(table, {"sci": 1.0, "caption": 1.0})
    return TrainingRows.of(Clips.of(table, str(world.recordings), FEATURES), plan)


def with_clips(rows: TrainingRows, **changed: Any) -> TrainingRows:
    return replace(rows, clips=replace(rows.clips, **changed))


def test_an_epoch_sees_each_row_at_most_once_and_others_each_time() -> None:
    order = Order(rows=103, batch_size=10, epochs=3, seed=0)
    assert (order.steps_per_epoch, order.steps) == (10, 30)
    epochs = [order.rows_of(epoch) for epoch in range(3)]
    for rows in epochs:
        assert len(set(rows.tolist())) == 100
    assert epochs[0].tolist() != epochs[1].tolist()
    assert set(epochs[0].tolist()) != set(epochs[1].tolist())


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_any_number_of_workers_shares_the_same_batches(world_size: int) -> None:
    order = Order(rows=57, batch_size=10, epochs=2, seed=1)
    for step in range(order.steps):
        shares = [order.share(step, rank, world_size) for rank in range(world_size)]
        epoch, within = divmod(step, order.steps_per_epoch)
        assert np.concatenate(shares).tolist() == order.rows_of(epoch)[within * 10 : within * 10 + 10].tolist()


def test_a_row_is_the_same_again_and_another_in_the_next_epoch(rows: TrainingRows) -> None:
    first, again, later = rows.row(2, 0), rows.row(2, 0), rows.row(2, 1)
    np.testing.assert_array_equal(first["wave"], again["wave"])
    assert first["text"] == again["text"]
    assert not np.array_equal(first["wave"], later["wave"])  # 4 s of recording leave 1 s to crop in


def test_texts_are_drawn_by_weight_from_the_rows_own(world: World) -> None:
    table = tables.read_table(str(world.recordings), "--recordings", (), tables.RECORDINGS)
    plan = text_bank.plan(table, {"sci": 1.0, "caption": 3.0})
    row = table.to_pylist()[0]
    rng = np.random.default_rng(0)
    drawn = Counter(plan.texts[plan.draw(0, rng)] for _ in range(4000))
    assert set(drawn) == {row["scientific_name"], *row["captions"]}
    assert drawn[row["scientific_name"]] / 4000 == pytest.approx(0.25, abs=0.03)


def test_a_bad_row_gives_its_place_to_another(rows: TrainingRows) -> None:
    broken = with_clips(rows, paths=["/no/such/file.wav", *rows.clips.paths[1:]])
    row = broken.row(0, 0)
    assert row["failed"] == 0
    assert row["row"] != 0
    assert row["species"] == rows.text_plan.species_of_row[row["row"]]
    nothing = with_clips(rows, paths=["/no/such/file.wav"] * len(rows.clips.paths)).row(0, 0)
    assert nothing["failed"] == nothing["row"] == 0
    assert not nothing["wave"].any()
    assert REASON_OF[row["reason"]] == REASON_OF[nothing["reason"]] == "vanished"
    assert rows.row(0, 0)["reason"] == -1


@pytest.mark.parametrize(
    ("start_s", "end_s", "path", "reason"),
    [
        (4.0, np.nan, None, "too-short"),  # the file lasts 4 s
        (9.0, 12.0, None, "too-short"),
        (2.0, 1.0, None, "too-short"),
        (-1.0, 2.0, None, "too-short"),
        (np.inf, np.nan, None, "too-short"),
        (0.0, np.nan, "nosuch://bucket/a.wav", "unreadable"),
    ],
)
def test_a_span_that_is_not_there_is_a_bad_row_and_no_error(
    rows: TrainingRows, start_s: float, end_s: float, path: str | None, reason: str
) -> None:
    clips = rows.clips
    starts, ends = clips.start_s.copy(), clips.end_s.copy()
    starts[0], ends[0] = start_s, end_s
    paths = [path or str(clips.paths[0]), *clips.paths[1:]]
    broken = with_clips(rows, paths=paths, start_s=starts, end_s=ends)
    row = broken.row(0, 0)
    assert (row["failed"], REASON_OF[row["reason"]]) == (0, reason)
    assert clipping.undecodable(broken.clips, [0, 1]) == {0: reason}
    failed: dict[int, str] = {}
    vectors, kept = clipping.embed_clips(broken.clips, lambda waves: waves[:, :2], np.arange(3), 2, failed)
    assert (kept.tolist(), len(vectors), failed) == ([1, 2], 2, {0: reason})


def test_a_store_that_fails_once_is_asked_again_for_the_same_clip(
    rows: TrainingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def flaky(url: str) -> Reader:
        calls.append(url)
        if len(calls) == 1:
            raise StorageError("storage", "500 from the store")
        return open_audio(url)

    wanted = rows.row(0, 0)
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    monkeypatch.setattr(clipping, "open_audio", flaky)
    row = rows.row(0, 0)
    assert (row["failed"], len(calls), pauses) == (-1, 2, [1.0])
    np.testing.assert_array_equal(row["wave"], wanted["wave"])


def test_a_row_without_a_path_is_refused(world: World) -> None:
    table = tables.read_table(str(world.recordings), "--recordings", (), tables.RECORDINGS)
    paths = pa.array([None, *table["path"].to_pylist()[1:]])
    table = table.set_column(table.schema.get_field_index("path"), "path", paths)
    with pytest.raises(UserError, match=r"recordings\.parquet: 1 of 40 rows have no path"):
        Clips.of(table, str(world.recordings), FEATURES)


def test_a_task_reads_the_paths_where_they_lie(rows: TrainingRows, ray_started: None) -> None:
    """A million paths are not a million strings of each task: what is read is the object store's own memory."""
    import ray

    many = pa.array(["/data/a/recording.wav"] * 100_000, pa.large_string())
    reference = ray.put(replace(rows.clips, paths=many))
    read, again = ray.get(reference), ray.get(reference)
    assert str(read.paths[99_999]) == "/data/a/recording.wav"
    assert [one.address for one in read.paths.buffers()[1:]] == [one.address for one in again.paths.buffers()[1:]]


@pytest.mark.parametrize("world_size", [1, 2])
def test_ray_brings_the_batches_in_order(rows: TrainingRows, ray_started: None, world_size: int) -> None:
    import ray

    order = Order(rows=len(rows.clips.paths), batch_size=6, epochs=2, seed=5)
    reference = ray.put(rows)
    streams = [stream.training_batches(reference, 5, order, r, world_size, 3, "cpu") for r in range(world_size)]
    seen = [np.concatenate([batch["row"].numpy() for batch in batches]) for batches in zip(*streams, strict=True)]
    expected = [
        np.concatenate([order.share(step, rank, world_size) for rank in range(world_size)])
        for step in range(3, order.steps)
    ]
    assert [one.tolist() for one in seen] == [one.tolist() for one in expected]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sci:1,latin:2", "no type 'latin'"),
        ("sci:much", "weight of sci should be a number"),
        ("sci:-1", "weight of sci should be 0 or more"),
        ("sci:0", "at least one type a weight above 0"),
        ("", "at least one type"),
    ],
)
def test_bad_weights_are_named(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        text_bank.parse_weights(spec)


def test_weights_are_read() -> None:
    assert text_bank.parse_weights("sci, com:2.5,taxon:0") == {"sci": 1.0, "com": 2.5}
