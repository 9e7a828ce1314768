"""Each adapter reads a small data set in the exact published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.errors import UserError
from distill.sources import taxonomy
from inference.benchmarks import BENCHMARKS, Ask, Labelled, Pair, windows
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
    (task,) = tasks("inatsounds", Ask(str(layouts.inatsounds(tmp_path / "inat")), window_s=3))
    rows = task.clips.to_pylist()
    test = [row for row in rows if row["split"] == "test"]
    # 7 s are windows at 0 and 3; the last second is less than half a window.
    assert [row["start_s"] for row in test[:2]] == [0, 3]
    assert len(test) == 2 * 6
    assert len({row["unit"] for row in test}) == 6
    assert {row["split"] for row in rows} == {"train", "test"}
    assert task.averaged == {"Turdus merula", "Turdus philomelos"}
    assert [row["label"] for row in task.classes] == ["Turdus merula", "Turdus philomelos", "Parus major"]
    assert not task.several


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
    plain = tasks("beans", Ask(str(root), parts=["watkins"]))[0]
    assert [row["scientific_name"] for row in plain.classes] == ["Great Tit", "Song Thrush"]


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


def test_windows_begin_every_hop_while_half_of_one_is_left() -> None:
    assert windows.starts(12, 5, 5).tolist() == [0, 5]
    assert windows.starts(12.5, 5, 5).tolist() == [0, 5, 10]
    assert windows.starts(1, 5, 5).tolist() == [0]
    assert windows.starts(6, 4, 2).tolist() == [0, 2, 4]


def test_a_call_is_in_a_window_with_more_than_a_fifth_of_the_shorter() -> None:
    begin, end = [4.0, 4.5, 0.0, 4.99, 5.0, 2.0], [6.0, 5.3, 20.0, 30.0, 6.0, 2.0]
    assert windows.present(0, 5, begin, end).tolist() == [True, True, True, False, False, False]
    assert windows.present(5, 10, begin, end).tolist() == [True, True, True, True, True, False]
    assert windows.present(0, 5, [], []).shape == (0,)
    assert windows.present(0, 5, np.array([0.0]), np.array([1.0])).all()
