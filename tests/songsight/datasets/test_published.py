"""The published data sets, each in its own layout."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from songsight.datasets import animalspeak, birdset, files, inatsounds, ssw60, taxonomy, xeno_canto
from songsight.errors import UserError
from songsight.store.tables import RANKS
from tests.songsight.datasets import layouts


def at(root: Path) -> files.Folder:
    return files.Folder(str(root))


def test_inatsounds(tmp_path: Path) -> None:
    table = inatsounds.read(at(layouts.inatsounds(tmp_path)))
    rows = table.to_pylist()
    assert [row["recording_id"] for row in rows] == ["train-0", "train-1", "val-0", "val-1"]
    assert [row["split"] for row in rows] == ["train", "train", "val", "val"]
    # One split's file names begin with it, the other's do not.
    assert all((tmp_path / row["path"]).is_file() for row in rows)
    first = rows[0]
    assert [first[rank] for rank in RANKS] == [
        "Animalia",
        "Chordata",
        "Aves",
        "Passeriformes",
        "Turdidae",
        "Turdus",
        "migratorius",
    ]
    assert (first["scientific_name"], first["common_name"]) == ("Turdus migratorius", "American Robin")
    assert first["recorded_at"] == datetime(2019, 5, 4, 5, 10, tzinfo=UTC)
    assert (first["latitude"], first["longitude"]) == (42.5, -76.25)
    assert (first["license"], first["rights_holder"]) == ("CC-BY-NC", "Ada Lark")
    assert (first["evaluation"], first["duration_s"]) == (1, 0.1)
    assert first["location_uncertainty_m"] == 12
    assert (first["supercategory"], first["category_id"]) == ("Aves", 7)
    assert first["audio_dir_name"].startswith("00007_Animalia_")


def test_inatsounds_keeps_what_it_does_not_know_and_rows_without_a_file(tmp_path: Path) -> None:
    root = layouts.inatsounds(tmp_path)
    content = json.loads((root / "val.json").read_text())
    content["audio"][0] |= {"observer": "ada", "tags": ["dawn"]}
    content["audio"][1] |= {"file_name": None, "tags": 3}
    (root / "val.json").write_text(json.dumps(content))
    rows = inatsounds.read(at(root)).to_pylist()
    assert [row["observer"] for row in rows] == [None, None, "ada", None]
    assert [row["tags"] for row in rows] == [None, None, '["dawn"]', "3"]
    assert rows[3]["path"] is None


def test_inatsounds_parts_and_faults(tmp_path: Path) -> None:
    root = layouts.inatsounds(tmp_path)
    assert set(inatsounds.read(at(root), ["val"])["split"].to_pylist()) == {"val"}
    with pytest.raises(UserError, match=r"no part 'test' \(it has train, val\)"):
        inatsounds.read(at(root), ["test"])
    (root / "val.json").write_text(json.dumps({"audio": []}))
    with pytest.raises(UserError, match="no column 'categories', 'annotations'"):
        inatsounds.read(at(root))
    (root / "val.json").write_text(json.dumps({"audio": [], "categories": [], "annotations": []}))
    with pytest.raises(UserError, match=r"val.json lists no audio"):
        inatsounds.read(at(root))
    (root / "val.json").write_text("{")
    with pytest.raises(UserError, match=r"val.json is not JSON"):
        inatsounds.read(at(root))
    with pytest.raises(UserError, match=r"no train.json, val.json or test.json"):
        inatsounds.read(at(root / "train"))


def test_ssw60_recordings(tmp_path: Path) -> None:
    rows = ssw60.read(at(layouts.ssw60(tmp_path))).to_pylist()
    assert [row["recording_id"] for row in rows] == ["audio_ml/45516191", "audio_ml/55046651"]
    assert [row["split"] for row in rows] == ["train", "test"]
    assert all((tmp_path / row["path"]).is_file() for row in rows)
    first = rows[0]
    assert (first["class"], first["order"], first["family"]) == ("Aves", "Anseriformes", "Anatidae")
    assert (first["scientific_name"], first["common_name"]) == ("Branta canadensis", "Canada Goose")
    assert first["source"] == "https://macaulaylibrary.org/asset/45516191"
    assert first["duration_seconds"] == 10
    assert "" not in first


def test_ssw60_video_has_frames(tmp_path: Path) -> None:
    rows = ssw60.read(at(layouts.ssw60(tmp_path)), parts=["video_ml"]).to_pylist()
    assert [row["path"] for row in rows] == ["video_ml/483821.mp4"]
    (row,) = rows
    assert row["frames"] == [{"path": "video_ml/483821.mp4", "time_s": second + 0.5} for second in range(10)]
    target = row["original_video_target_second"] - row["orginal_video_start_second"]
    assert row["target_second"] == target
    assert target <= row["frames"][row["target_second"]]["time_s"] < target + 1
    assert row["reliable_audio"] == 1
    assert (row["species_code"], row["inat_taxon_id"], row["nabirds_labels"]) == ("cangoo", 7089, "57 457")
    assert "" not in row


def test_ssw60_images(tmp_path: Path) -> None:
    rows = ssw60.read(at(layouts.ssw60(tmp_path)), "images").to_pylist()
    assert [row["image_id"] for row in rows] == ["images_inat/73542", "images_nabirds/0233251100540000"]
    assert [row["rights_holder"] for row in rows] == ["K", "D"]
    assert [row["license"] for row in rows] == ["iNat2021 license 5", None]
    assert all("" not in row for row in rows)
    assert [row["source"] for row in rows] == ["iNat2021", "NABirds"]
    assert all((tmp_path / row["path"]).is_file() for row in rows)


def test_ssw60_with_one_collection_of_images(tmp_path: Path) -> None:
    root = layouts.ssw60(tmp_path)
    assert ssw60.notes(at(root), ssw60.read(at(root), "images"), None) == []
    (root / "images_inat.csv").unlink()
    table = ssw60.read(at(root), "images")
    assert table["image_id"].to_pylist() == ["images_nabirds/0233251100540000"]
    assert ssw60.notes(at(root), table, None) == [f"without images_inat: {root} has no images_inat.csv"]
    with pytest.raises(UserError, match=r"no images_inat.csv"):
        ssw60.read(at(root), "images", ["images_inat"])
    (root / "images_nabirds.csv").unlink()
    with pytest.raises(UserError, match=r"no images_inat.csv"):
        ssw60.read(at(root), "images")


def test_ssw60_faults(tmp_path: Path) -> None:
    root = layouts.ssw60(tmp_path)
    with pytest.raises(UserError, match="no part 'audio_ml'"):
        ssw60.read(at(root), "images", ["audio_ml"])
    layouts.table(root / "audio_ml.csv", [{"asset_id": 1, "label": 99, "split": "train"}])
    with pytest.raises(UserError, match=r"labels that taxa.csv does not: 99"):
        ssw60.read(at(root))
    layouts.table(root / "audio_ml.csv", [{"asset": 1, "label": 0}])
    with pytest.raises(UserError, match="no column 'asset_id', 'split'"):
        ssw60.read(at(root))
    (root / "taxa.csv").unlink()
    with pytest.raises(UserError, match=r"no taxa.csv"):
        ssw60.read(at(root))


def test_xeno_canto(tmp_path: Path) -> None:
    rows = xeno_canto.read(at(layouts.xeno_canto(tmp_path))).to_pylist()
    *rows, genus_alone = rows
    assert (genus_alone["scientific_name"], genus_alone["genus"], genus_alone["species"]) == (None, "Turdus", None)
    assert [row["recording_id"] for row in rows] == ["XC101", "XC102", "XC1011"]  # 102 is on both pages
    assert [row["path"] for row in rows] == [
        "sounds/XC101 - American Robin - Turdus migratorius.wav",
        "sounds/102.wav",
        "sounds/XC1011.wav",
    ]
    first, second, mystery = rows
    assert (first["scientific_name"], first["common_name"]) == ("Turdus migratorius", "American Robin")
    assert (first["latitude"], first["longitude"]) == (45.5, -73.25)
    assert (second["latitude"], second["longitude"]) == (None, None)
    assert mystery["longitude"] == 10
    assert (mystery["scientific_name"], mystery["common_name"], mystery["en"]) == (None, None, "Identity unknown")
    assert first["license"] == "https://creativecommons.org/licenses/by-nc-sa/4.0/"
    assert (first["rights_holder"], first["source"]) == ("Bo Finch", "https://xeno-canto.org/101")
    assert [row["duration_s"] for row in rows] == [83, 3605, 83]
    assert "recorded_at" not in first
    assert (first["date"], first["time"], first["also"]) == ("2019-00-00", "06:00", "Junco hyemalis")
    assert (first["smp"], mystery["smp"]) == ("44100", "48000")
    assert (first["group"], first["cnt"], first["rmk"]) == ("birds", "Canada", "From a roof")
    assert (first["ssp"], second["ssp"]) == (None, "propinquus")
    assert "sono" not in first


@pytest.mark.parametrize(("length", "expected"), [("0:05", 5), ("1:02:03", 3723), ("", None), ("?", None)])
def test_xeno_canto_lengths(length: str, expected: float | None) -> None:
    assert xeno_canto.seconds(length) == expected


def test_xeno_canto_faults(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="no JSON page with a list of recordings"):
        xeno_canto.read(at(tmp_path))
    (tmp_path / "page.json").write_text(json.dumps({"recordings": [{"id": "1", "genus": "Turdus"}]}))
    with pytest.raises(UserError, match="no column 'gen', 'sp'"):
        xeno_canto.read(at(tmp_path))


def test_animalspeak(tmp_path: Path) -> None:
    rows = animalspeak.read(at(layouts.animalspeak(tmp_path))).to_pylist()
    assert [row["split"] for row in rows] == ["eval", "train", "train"]
    assert [row["path"] for row in rows] == ["audio/e.wav", "audio/1.wav", "audio/b c.wav"]
    assert [row["captions"] for row in rows[1:]] == [["A robin sings.", "Song, at dawn"], ["A robin sings."]]
    assert (rows[0]["scientific_name"], rows[0]["common_name"]) == ("Turdus migratorius", "American Robin")
    assert rows[0]["source"] == "iNaturalist"
    assert len({row["recording_id"] for row in rows}) == 3


def test_animalspeak_with_paths_of_its_own_and_faults(tmp_path: Path) -> None:
    row = {"local_path": "deep/x.wav", "caption": "A call", "canonical_name": "Turdus merula", "split": "test"}
    path = layouts.table(tmp_path / "mine.csv", [row])
    layouts.sound(tmp_path / "deep" / "x.wav")
    (only,) = animalspeak.read(at(path)).to_pylist()
    assert (only["path"], only["split"], only["scientific_name"]) == ("deep/x.wav", "test", "Turdus merula")
    layouts.table(path, [{"caption": "A call", "canonical_name": "Turdus merula"}])
    with pytest.raises(UserError, match="has none of the columns path, local_path"):
        animalspeak.read(at(path))
    layouts.table(path, [{"path": "x.wav", "text": "A call"}])
    with pytest.raises(UserError, match="no column 'caption'"):
        animalspeak.read(at(path))


def test_animalspeak_in_biolinguals_own_columns(tmp_path: Path) -> None:
    rows = [
        {"path": "a.wav", "caption": "A robin sings.", "caption2": "Turdus migratorius"},
        {"path": "a.wav", "caption": "Another song of it.", "caption2": ""},
        {"path": "", "caption": "Nothing was kept.", "caption2": ""},
        {"path": "", "caption": "Nor here.", "caption2": ""},
    ]
    layouts.sound(tmp_path / "a.wav")
    read = animalspeak.read(at(layouts.table(tmp_path / "test_set.csv", rows))).to_pylist()
    assert [row["captions"] for row in read][:2] == [["A robin sings.", "Turdus migratorius"], ["Another song of it."]]
    assert [row["path"] for row in read] == ["a.wav", "a.wav", None, None]
    assert [row["scientific_name"] for row in read] == [None] * 4
    assert len({row["recording_id"] for row in read}) == 4
    # Captions are no part of an id.
    layouts.table(tmp_path / "test_set.csv", [row | {"caption": "Corrected."} for row in rows])
    corrected = animalspeak.read(at(tmp_path / "test_set.csv"))["recording_id"].to_pylist()
    assert corrected == [row["recording_id"] for row in read]


def test_animalspeak_addresses_that_end_alike(tmp_path: Path) -> None:
    where = {
        "https://xeno-canto.org/101/download": "audio/XC101 - American Robin.mp3",
        "https://www.xeno-canto.org/XC102": "audio/XC102.mp3",
        "https://xeno-canto.org/103/download": "XC103.mp3",  # not fetched
        "https://a.org/x.wav": "audio/a.org/x.wav",
        "https://b.org/x.wav?1": "b.org/x.wav",  # not fetched: the other x.wav is not it
        "https://c.org/sounds/only%20one.wav": "audio/only one.wav",
    }
    for name in ("XC101 - American Robin.mp3", "XC102.mp3", "a.org/x.wav", "only one.wav"):
        layouts.sound(tmp_path / "audio" / name)
    table = layouts.table(tmp_path / "animalspeak.csv", [{"url": link, "caption": "A call"} for link in where])
    rows = animalspeak.read(at(table)).to_pylist()
    assert {row["url"]: row["path"] for row in rows} == where
    assert len({row["recording_id"] for row in rows}) == len(where)


def test_birdset(tmp_path: Path) -> None:
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird" / "ebird.csv")))
    rows = birdset.read(at(layouts.birdset(tmp_path / "HSN")), taxonomy=taxa).to_pylist()
    by_split = {split: [row for row in rows if row["split"] == split] for split in ("train", "test", "test_5s")}

    (focal,) = by_split["train"]
    assert (focal["recording_id"], focal["path"]) == ("train/XC1.ogg", "HSN_train_shard_0001/XC1.ogg")
    assert (focal["scientific_name"], focal["latitude"], focal["start_s"]) == ("Turdus migratorius", 42.5, None)
    assert (focal["rights_holder"], focal["birdset_genus"]) == ("Bo", "turdus")
    assert focal["detected_events"] == [[0.5, 1.25]]

    calls = by_split["test"]
    assert [row["recording_id"] for row in calls] == ["test/HSN_001.ogg#0", "test/HSN_001.ogg#1"]
    assert [row["scientific_name"] for row in calls] == ["Turdus migratorius", "Junco hyemalis"]
    assert [(row["start_s"], row["end_s"]) for row in calls] == [(0.5, 1.5), (0.5, 2.0)]

    segments = by_split["test_5s"]
    assert [row["scientific_name"] for row in segments] == [None, "Junco hyemalis", None]
    assert [row["scientific_names"] for row in segments] == [
        ["Turdus migratorius", "Junco hyemalis"],
        ["Junco hyemalis"],
        [],
    ]
    assert [row["ebird_code_multilabel"] for row in segments] == [["amerob", "daejun"], ["daejun"], []]
    assert all((tmp_path / "HSN" / row["path"]).is_file() for row in rows)


def test_birdset_codes_without_a_name_are_told(tmp_path: Path) -> None:
    root = layouts.birdset(tmp_path / "HSN")
    columns = {"filepath": "HSN_001.ogg", "start_time": "0", "end_time": "5"}
    codes = ["['amerob', 'nobird1']", "['nobird1']", "['nobird2']", "[]", "['amerob']"]
    layouts.table(root / "HSN_metadata_test_5s.csv", [columns | {"ebird_code_multilabel": each} for each in codes])
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird" / "ebird.csv")))
    table = birdset.read(at(root), ["test_5s"], taxa)
    assert table["scientific_names"].to_pylist() == [
        ["Turdus migratorius", None],
        [None],
        [None],
        [],
        ["Turdus migratorius"],
    ]
    assert table["scientific_name"].to_pylist() == [None, None, None, None, "Turdus migratorius"]
    assert birdset.notes(at(root), table, taxa) == [
        "codes that the taxonomy lacks: 2 (nobird1 (2 rows), nobird2 (1 rows))"
    ]

    # With no taxonomy, or one without codes, everything is read but has no name.
    for without in (None, taxonomy.Taxonomy()):
        table = birdset.read(at(root), taxonomy=without)
        assert len(table) == 8
        assert table["scientific_name"].null_count == 8
        (line,) = birdset.notes(at(root), table, without)
        assert line.startswith("eBird codes without names: 4; --taxonomy with species_code")


def test_birdset_rows_that_carry_a_name_need_no_taxonomy(tmp_path: Path) -> None:
    rows = {"filepath": ["XC1.ogg"], "ebird_code": ["amerob"], "scientific_name": ["Turdus migratorius"]}
    pq.write_table(pa.table(rows), tmp_path / "XCM_metadata.parquet")
    table = birdset.read(at(tmp_path))
    assert table["scientific_name"].to_pylist() == ["Turdus migratorius"]
    assert table["split"].to_pylist() == ["train"]
    assert birdset.notes(at(tmp_path), table, None) == []


def test_birdset_as_published_with_segments_cut(tmp_path: Path) -> None:
    names = ["HSN_001_20150708_061805_000_005.ogg", "HSN_001_20150708_061805_095_100.ogg"]
    rows = {"filepath": names, "start_time": [0, 0], "end_time": [5, 5], "ebird_code": [None, None]}
    rows |= {"ebird_code_multilabel": [["amerob", "daejun"], []]}
    pq.write_table(pa.table(rows), tmp_path / "HSN_metadata_test_5s.parquet")
    for name in names:
        layouts.sound(tmp_path / "HSN_test5s_shard_0001" / name)
    read = birdset.read(at(tmp_path)).to_pylist()
    assert [row["path"] for row in read] == [f"HSN_test5s_shard_0001/{name}" for name in names]
    assert [(row["start_s"], row["end_s"]) for row in read] == [(0, 5), (0, 5)]
    assert [row["ebird_code_multilabel"] for row in read] == [["amerob", "daejun"], []]
    assert len({row["recording_id"] for row in read}) == 2


@pytest.mark.parametrize(
    "names", [["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"], ["0.parquet", "1.parquet"]]
)
def test_birdset_in_shards_with_numbered_classes(tmp_path: Path, names: list[str]) -> None:
    classes = {"names": ["amerob", "daejun"], "_type": "ClassLabel"}
    features = {
        "audio": {"_type": "Audio"},
        "ebird_code": classes,
        "ebird_code_multilabel": {"feature": classes, "_type": "Sequence"},
        "genus_multilabel": [classes | {"names": ["Turdus", "Junco"]}],
    }
    (tmp_path / "HSN" / "test").mkdir(parents=True)
    for number, name in enumerate(names):
        rows = {"audio": [b"OggS"] * 2, "filepath": ["HSN_001.ogg"] * 2, "ebird_code": [1, number]}
        rows |= {"ebird_code_multilabel": [[1, 0], None], "genus_multilabel": [[1, 0], [0]]}
        described = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pa.table(rows).replace_schema_metadata(described), tmp_path / "HSN" / "test" / name)
    with pytest.raises(UserError, match="has its sounds inside: write them out below"):
        birdset.read(at(tmp_path))

    layouts.sound(tmp_path / "sounds" / "HSN_001.ogg")
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird" / "ebird.csv")))
    read = birdset.read(at(tmp_path), taxonomy=taxa).to_pylist()
    assert [row["ebird_code"] for row in read] == ["daejun", "amerob", "daejun", "daejun"]
    assert [row["scientific_name"] for row in read][:2] == ["Junco hyemalis", "Turdus migratorius"]
    assert [row["ebird_code_multilabel"] for row in read][:2] == [["daejun", "amerob"], []]
    assert read[0]["genus_multilabel"] == ["Junco", "Turdus"]
    assert [row["recording_id"] for row in read] == [f"test/HSN_001.ogg#{number}" for number in range(4)]
    assert {row["split"] for row in read} == {"test"}


def test_birdset_faults(tmp_path: Path) -> None:
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird" / "ebird.csv")))
    root = layouts.birdset(tmp_path / "HSN")
    with pytest.raises(UserError, match="--taxonomy needs a table with species_code"):
        birdset.with_codes(None)
    with pytest.raises(UserError, match="no part 'test5'"):
        birdset.read(at(root), ["test5"], taxa)
    pq.write_table(pa.table({"filepath": ["XC1.ogg"], "ebird_code": [3]}), root / "HSN_metadata_train.parquet")
    with pytest.raises(UserError, match="class numbers where"):
        birdset.read(at(root), ["train"], taxa)
    pq.write_table(pa.table({"file": ["XC1.ogg"], "ebird_code": ["amerob"]}), root / "HSN_metadata_train.parquet")
    with pytest.raises(UserError, match="no column 'filepath'"):
        birdset.read(at(root), ["train"], taxa)
