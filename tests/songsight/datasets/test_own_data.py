"""A person's own collection: a folder a species, or a table of any shape."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from songsight.datasets import csv_file, files, folder
from songsight.errors import UserError
from tests.songsight.datasets import layouts


@pytest.mark.parametrize(
    ("name", "scientific", "common"),
    [
        ("Turdus merula", "Turdus merula", None),
        ("Turdus_merula", "Turdus merula", None),
        ("Junco_hyemalis_oreganus", "Junco hyemalis oreganus", None),
        ("Turdus merula_Common Blackbird", "Turdus merula", "Common Blackbird"),
        ("Turdus merula_merle noir", "Turdus merula", "merle noir"),
        ("Turdus_merula_Common_Blackbird", "Turdus merula", "Common Blackbird"),
        ("Dark-eyed_Junco", None, "Dark-eyed Junco"),
        ("Sora", None, "Sora"),
        ("noise", None, "noise"),
    ],
)
def test_names_of_folders(name: str, scientific: str | None, common: str | None) -> None:
    assert folder.names_of(name) == (scientific, common)


def test_folder_reads_one_kind_with_its_splits(tmp_path: Path) -> None:
    layouts.sound(tmp_path / "train" / "Turdus_merula" / "a.wav")
    layouts.sound(tmp_path / "Sora" / "deep" / "B.WAV")
    layouts.picture(tmp_path / "Sora" / "c.jpg")
    (tmp_path / "Sora" / "notes.txt").write_text("heard at dawn")
    layouts.sound(tmp_path / "loose.wav")
    found = files.Folder(str(tmp_path))

    rows = {row["path"]: row for row in folder.read(found).to_pylist()}
    assert set(rows) == {"train/Turdus_merula/a.wav", "Sora/deep/B.WAV", "loose.wav"}
    assert rows["train/Turdus_merula/a.wav"]["scientific_name"] == "Turdus merula"
    assert rows["train/Turdus_merula/a.wav"]["split"] == "train"
    assert (rows["Sora/deep/B.WAV"]["common_name"], rows["Sora/deep/B.WAV"]["split"]) == ("Sora", None)
    assert (rows["loose.wav"]["scientific_name"], rows["loose.wav"]["common_name"]) == (None, None)

    images = folder.read(found, "images")
    assert images.column_names[0] == "image_id"
    assert images["path"].to_pylist() == ["Sora/c.jpg"]


def test_folder_ids_stay_when_the_collection_moves_and_grows(tmp_path: Path) -> None:
    for home in ("one", "two"):
        layouts.sound(tmp_path / home / "Sora" / "b.wav")
    layouts.sound(tmp_path / "two" / "Sora" / "a.wav")
    ids = [folder.read(files.Folder(str(tmp_path / home)))["recording_id"].to_pylist() for home in ("one", "two")]
    assert ids[0][0] == ids[1][1]
    assert ids[1][0] != ids[1][1]


def test_folder_without_species_folders(tmp_path: Path) -> None:
    layouts.picture(tmp_path / "Sora" / "c.jpg")
    layouts.sound(tmp_path / "loose.wav")
    with pytest.raises(UserError, match="has no species folders with recordings"):
        folder.read(files.Folder(str(tmp_path)))


def read_csv(path: Path, **options: object) -> pa.Table:
    return csv_file.read(files.Folder(str(path)), **options)  # type: ignore[arg-type]


def test_csv_maps_columns_and_keeps_the_rest(tmp_path: Path) -> None:
    row = {"recording_id": "007", "file": "a.wav", "path": "old", "species": "Turdus merula", "habitat": "garden"}
    path = layouts.table(tmp_path / "t.csv", [row | {"latitude": "42.5", "weight": "3"}])
    table = read_csv(path, columns={"path": "file", "scientific_name": "species"})
    assert table.to_pylist() == [
        {
            "recording_id": "007",
            "path": "a.wav",
            "scientific_name": "Turdus merula",
            "latitude": "42.5",
            "original_path": "old",
            "habitat": "garden",
            "weight": 3,
        }
    ]


def test_csv_times_captions_and_frames(tmp_path: Path) -> None:
    rows = [
        {"recorded_at": "2020-01-02T03:04:05-05:00", "captions": "One, with a comma", "frames": ""},
        {
            "recorded_at": "2020-01-02",
            "captions": json.dumps(["a", "b"]),
            "frames": json.dumps([{"path": "f.jpg", "time_s": 1.5}]),
        },
    ]
    for number, row in enumerate(rows):
        row |= {"path": f"{number}.wav", "scientific_name": "Turdus merula"}
    table = read_csv(layouts.table(tmp_path / "t.csv", rows))
    assert table["recorded_at"].to_pylist() == [datetime(2020, 1, 2, 8, 4, 5, tzinfo=UTC), None]
    assert table["recorded_at_as_given"].to_pylist() == ["2020-01-02T03:04:05-05:00", "2020-01-02"]
    assert table["captions"].to_pylist() == [["One, with a comma"], ["a", "b"]]
    assert table["frames"].to_pylist() == [None, [{"path": "f.jpg", "time_s": 1.5}]]


def test_csv_ids_differ_by_window_and_species(tmp_path: Path) -> None:
    rows = [
        {"path": "a.wav", "start_s": start, "scientific_name": name}
        for start in (0, 5)
        for name in ("Turdus merula", "Parus major")
    ]
    ids = read_csv(layouts.table(tmp_path / "t.csv", rows))["recording_id"].to_pylist()
    assert len(set(ids)) == 4


def test_csv_ids_of_rows_that_are_alike_differ(tmp_path: Path) -> None:
    rows = [{"path": path, "scientific_name": "Turdus merula"} for path in ("a.wav", "", "a.wav", "")]
    ids = read_csv(layouts.table(tmp_path / "t.csv", rows))["recording_id"].to_pylist()
    assert len(set(ids)) == 4
    # A row more at the end leaves the others' ids as they are.
    assert read_csv(layouts.table(tmp_path / "t.csv", [*rows, rows[0]]))["recording_id"].to_pylist()[:4] == ids


def test_csv_from_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"path": ["a.jpg"], "scientific_name": ["Turdus merula"], "image_id": ["x"]}), tmp_path / "t.parquet"
    )
    assert read_csv(tmp_path / "t.parquet", table="images").column_names == ["image_id", "path", "scientific_name"]


def test_csv_errors_name_the_column(tmp_path: Path) -> None:
    path = layouts.table(tmp_path / "t.csv", [{"path": "a.wav", "species": "Turdus merula"}])
    with pytest.raises(UserError, match="no column 'scientific_name'"):
        read_csv(path)
    with pytest.raises(UserError, match="no column 'kind'"):
        read_csv(path, columns={"scientific_name": "kind"})
    with pytest.raises(UserError, match="--columns: the recordings table has no column 'scientificname'"):
        read_csv(path, columns={"scientificname": "species"})
    with pytest.raises(UserError, match=r"'bird' .*; songsight's column comes first: scientific_name=bird$"):
        read_csv(path, columns={"bird": "scientific_name"})
    with pytest.raises(UserError, match=r"'scientific_name'; .* comes first: scientific_name=species$"):
        read_csv(path, columns={"species": "scientific_name"})
    with pytest.raises(UserError, match="needs the CSV or Parquet file itself"):
        read_csv(tmp_path)
