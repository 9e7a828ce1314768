"""Each adapter reads a small data set in the exact published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.benchmarks import BENCHMARKS, Ask, Labelled, Pair
from inference.benchmarks.sets import windows
from songsight.datasets import taxonomy
from songsight.errors import UserError
from tests.inference.benchmarks import layouts


def tasks(name: str, ask: Ask) -> list[Labelled]:
    found = BENCHMARKS[name].read(ask)
    assert isinstance(found, list)
    return found


def test_ssw60_asks_test_recordings_for_test_photographs_of_both_collections(tmp_path: Path) -> None:
    root = layouts.ssw60(tmp_path / "ssw60")
    found = BENCHMARKS["ssw60"].read(Ask(str(root)))
    assert isinstance(found, Pair)
    assert sorted(found.recordings["split"].to_pylist()) == ["test"] * 3 + ["train"] * 6
    assert set(found.images["split"].to_pylist()) == {"test"}
    assert {path.split("/")[-2] for path in found.images["path"].to_pylist()} == {"images_inat", "images_nabirds"}
    assert len(found.images) == 12
    assert found.recordings["family"].to_pylist()[0] == "Turdidae"
    for table in (found.recordings, found.images):
        assert all(Path(path).is_file() for path in table["path"].to_pylist())
    only = BENCHMARKS["ssw60"].read(Ask(str(root), parts=["images_nabirds"]))
    assert isinstance(only, Pair)
    assert len(only.images) == 6


def test_inatsounds_files_are_cut_and_averaged_over_the_evaluation_species(tmp_path: Path) -> None:
    (task,) = tasks("inatsounds", Ask(str(layouts.inatsounds(tmp_path / "inat")), window_s=2))
    rows = task.clips.to_pylist()
    test = [row for row in rows if row["split"] == "test"]
    # 7 s to their end, in whole windows; files of train are cut alike.
    assert [(row["start_s"], row["end_s"]) for row in test[:4]] == [(0, 2), (2, 4), (4, 6), (5, 7)]
    assert [(row["start_s"], row["end_s"]) for row in rows[:2]] == [(0, 2), (1, 3)]
    assert rows[0]["split"] == "train"
    assert len(test) == 4 * 6
    assert len({row["unit"] for row in test}) == len({row["recording"] for row in test}) == 6
    assert {row["split"] for row in rows} == {"train", "test"}
    assert task.averaged == {"Turdus merula", "Turdus philomelos"}
    assert not task.several
    assert task.counts == {"missing": 0}


def test_inatsounds_is_named_among_all_listed_species_however_much_was_downloaded(tmp_path: Path) -> None:
    root = layouts.inatsounds(tmp_path / "inat")
    for path in root.glob("*/*_Parus_major/*.wav"):
        path.unlink()
    (task,) = tasks("inatsounds", Ask(str(root)))
    assert {row["labels"][0] for row in task.clips.to_pylist()} == {"Turdus merula", "Turdus philomelos"}
    assert [row["label"] for row in task.classes] == ["Turdus merula", "Turdus philomelos", "Parus major"]
    assert task.classes[2]["common_name"] == "Great Tit"
    assert task.counts == {"missing": 2}


def test_birdset_segments_have_all_their_codes_and_data_sets_without_segments_are_left_out(tmp_path: Path) -> None:
    root, taxa = layouts.birdset(tmp_path / "birdset"), taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    (task,) = tasks("birdset", Ask(str(root), taxonomy=taxa))
    assert task.name == "birdset_HSN"
    test = [row for row in task.clips.to_pylist() if row["split"] == "test"]
    assert [row["labels"] for row in test][:4] == [["turmer"], ["sonthr"], ["turmer", "sonthr"], []]
    assert [(row["start_s"], row["end_s"]) for row in test][:2] == [(0, 5), (5, 10)]
    train = [row for row in task.clips.to_pylist() if row["split"] == "train"]
    assert [row["labels"] for row in train][:2] == [["turmer"], ["sonthr"]]
    assert train[0]["end_s"] is None
    assert {row["label"]: row["scientific_name"] for row in task.classes}["gretit1"] == "Parus major"
    with pytest.raises(UserError, match="has no part 'POW'"):
        tasks("birdset", Ask(str(root), parts=["POW"], taxonomy=taxa))
    with pytest.raises(UserError, match="--taxonomy needs a table with species_code"):
        tasks("birdset", Ask(str(root)))


def test_birdset_segments_that_are_files_of_their_own(tmp_path: Path) -> None:
    root, taxa = layouts.birdset_cut(tmp_path / "birdset"), taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    (task,) = tasks("birdset", Ask(str(root), taxonomy=taxa))
    assert task.name == "birdset_HSN"
    rows = task.clips.to_pylist()
    assert [row["labels"] for row in rows][:4] == [["turmer"], ["sonthr"], ["turmer", "sonthr"], []]
    assert {(row["start_s"], row["end_s"]) for row in rows} == {(0, None)}
    assert len({row["path"] for row in rows}) == 6
    # Segments of one soundscape are one recording, whose places are those of the names.
    assert [row["unit"] for row in rows][2:4] == ["HSN_001_20150708_061805@10", "HSN_002_20150709_061805@0"]
    assert {row["recording"] for row in rows} == {"HSN_001_20150708_061805", "HSN_002_20150709_061805"}


@pytest.mark.parametrize("embedded", [False, True])
def test_birdset_as_it_is_exported_in_shards(tmp_path: Path, embedded: bool) -> None:
    import soundfile

    root = layouts.birdset_export(tmp_path / "birdset", embedded)
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    (task,) = tasks("birdset", Ask(str(root), parts=["HSN"], taxonomy=taxa, unpack=str(tmp_path / "sounds")))
    rows = task.clips.to_pylist()
    assert [row["labels"] for row in rows][:4] == [["turmer"], ["sonthr"], ["turmer", "sonthr"], []]
    assert [row["unit"] for row in rows][2:4] == ["HSN_001_20150708_061805@10", "HSN_002_20150708_061805@0"]
    assert all(soundfile.info(row["path"]).duration == pytest.approx(5) for row in rows)
    below = tmp_path / ("sounds/HSN" if embedded else "birdset/HSN_sounds")
    assert {Path(row["path"]).parent for row in rows} == {below}


def test_beans_classification_and_detection(tmp_path: Path) -> None:
    root, taxa = layouts.beans(tmp_path / "beans"), taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    watkins, enabirds = tasks("beans", Ask(str(root), taxonomy=taxa))
    assert [task.name for task in (watkins, enabirds)] == ["beans_watkins", "beans_enabirds"]
    assert (watkins.several, enabirds.several) == (False, True)
    assert sorted(set(watkins.clips["split"].to_pylist())) == ["test", "train", "val"]
    first = watkins.clips.to_pylist()[0]
    assert (first["start_s"], first["end_s"], first["labels"]) == (0, 3, ["Great_Tit"])
    assert watkins.classes[0]["scientific_name"] == "Parus major"  # found by its common name
    # int((5.5 − 2) / 1) + 1 windows, as BEANS cuts them: 0–2, 1–3, 2–4, 3–5.
    windows_of_file = enabirds.clips.to_pylist()[:4]
    assert [row["start_s"] for row in windows_of_file] == [0, 1, 2, 3]
    assert [row["labels"] for row in windows_of_file] == [["turmer"], ["turmer"], [], ["gretit1"]]
    assert [row["scientific_name"] for row in enabirds.classes] == ["Turdus merula", "Parus major", None]
    assert enabirds.absent_counts
    assert enabirds.counts == {"calls_in_no_window": 0}
    assert len({row["recording"] for row in enabirds.clips.to_pylist() if row["split"] == "test"}) == 2
    plain = tasks("beans", Ask(str(root), parts=["watkins"]))[0]
    assert [row["scientific_name"] for row in plain.classes] == ["Great Tit", "Song Thrush"]


def test_beans_counts_the_calls_behind_the_last_whole_window(tmp_path: Path) -> None:
    root = layouts.beans(tmp_path / "beans")
    path = root / "data/enabirds/test.jsonl"
    path.write_text(path.read_text().replace('"st": 4.0', '"st": 4.9'))  # windows end at 5 s
    (task,) = tasks("beans", Ask(str(root), parts=["enabirds"]))
    assert task.counts == {"calls_in_no_window": 2}
    test = [row for row in task.clips.to_pylist() if row["split"] == "test"]
    assert not any("gretit1" in row["labels"] for row in test)


def test_beans_unknown_labels_are_the_unknown_one_or_refused(tmp_path: Path) -> None:
    root = layouts.beans(tmp_path / "beans")
    for name in ("enabirds/test.jsonl", "watkins/annotations.test.csv"):
        path = root / "data" / name
        path.write_text(
            path.read_text().replace("gretit1", "XXXX").replace("Great_Tit,", "Orca,").replace("Great_Tit\n", "Orca\n")
        )
    (task,) = tasks("beans", Ask(str(root), parts=["enabirds"]))
    assert {label for row in task.clips.to_pylist() for label in row["labels"]} == {"turmer", "gretit1", "OTHR"}
    with pytest.raises(UserError, match=r"annotations\.test\.csv: label 'Orca' is not among those of watkins"):
        tasks("beans", Ask(str(root), parts=["watkins"]))


def test_raven_tables_say_what_is_in_each_window(tmp_path: Path) -> None:
    root = layouts.soundscapes(tmp_path / "field")
    ask = Ask(str(root), annotations=str(root / "annotations"), window_s=5)
    (task,) = tasks("raven", ask)
    rows = [(Path(row["path"]).name, row["start_s"], row["end_s"], row["labels"]) for row in task.clips.to_pylist()]
    # 10–15 s holds a call without a name, and is left out; 0.01 s of a call at its edge is no call of 10–15 s either.
    assert rows == [
        ("20240514_053000.flac", 0, 5, ["turmer"]),
        ("20240514_053000.flac", 5, 10, ["sonthr"]),
        ("20240514_053000.flac", 15, 19, ["sonthr"]),
        ("quiet.wav", 0, 5, []),
    ]
    assert any("1 windows left out" in note for note in task.notes)
    assert task.counts == {"unnamed": 1, "unreadable": 0}
    assert [row["unit"] for row in task.clips.to_pylist()][:2] == [f"site-a/20240514_053000.flac@{s}" for s in (0, 5)]
    assert len({row["recording"] for row in task.clips.to_pylist()}) == 2
    assert [row["scientific_name"] for row in task.classes] == [None, None]
    with pytest.raises(UserError, match="needs --annotations"):
        tasks("raven", Ask(str(root)))
    with pytest.raises(UserError, match="none is of a recording of --data"):
        tasks("raven", Ask(str(root / "site-b"), annotations=str(root / "annotations")))


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("ssw60", "audio_ml.csv", "has no audio_ml.csv, as SSW60 has"),
        ("inatsounds", "test.json", "has no test.json, as iNatSounds 2024 has"),
        ("birdset", "HSN_metadata_test_5s.csv", "has no …test_5s .parquet or .csv"),
        ("beans", "datasets.yml", "has no datasets.yml, as BEANS has"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, missing: str, message: str) -> None:
    root = getattr(layouts, name)(tmp_path / name)
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    (root / missing).unlink()
    with pytest.raises(UserError, match=message):
        BENCHMARKS[name].read(Ask(str(root), taxonomy=taxa))


def test_windows_reach_to_the_end_of_a_recording() -> None:
    assert windows.cut(12, 5, 5) == [(0, 5), (5, 10), (10, 12)]
    assert windows.cut(10, 5, 5) == [(0, 5), (5, 10)]
    assert windows.cut(1, 5, 5) == [(0, 1)]
    assert windows.cut(6.5, 4, 2) == [(0, 4), (2, 6), (4, 6.5)]
    assert windows.cover(12, 5, 5) == [(0, 5), (5, 10), (7, 12)]
    assert windows.cover(1, 5, 5) == [(0, 1)]
    # A hop longer than the window samples the recording, and leaves what lies between.
    assert windows.cover(20, 2, 8) == [(0, 2), (8, 10), (16, 18)]


def test_a_call_is_in_a_window_with_more_than_a_fifth_of_the_shorter() -> None:
    begin, end = [4.0, 4.5, 0.0, 4.99, 5.0, 2.0], [6.0, 5.3, 20.0, 30.0, 6.0, 2.0]
    assert windows.present(0, 5, begin, end).tolist() == [True, True, True, False, False, False]
    assert windows.present(5, 10, begin, end).tolist() == [True, True, True, True, True, False]
    assert windows.present(0, 5, [], []).shape == (0,)
    assert windows.present(0, 5, np.array([0.0]), np.array([1.0])).all()
