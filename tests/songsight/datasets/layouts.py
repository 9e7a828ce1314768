"""Small data sets in the layouts that the real ones were published in, with real sounds and pictures in them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image


def sound(path: Path) -> None:
    """A tenth of a second of tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.1 * np.sin(np.arange(800) / 5)
    with path.open("wb") as handle:
        soundfile.write(handle, tone, 8000, format="OGG" if path.suffix == ".ogg" else "WAV")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (30, 120, 60)).save(path)


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def ebird(path: Path) -> Path:
    """The checklist, as eBird exports it."""
    names = ("TAXON_ORDER", "CATEGORY", "SPECIES_CODE", "PRIMARY_COM_NAME", "SCI_NAME", "ORDER", "FAMILY")
    rows = [
        (1, "species", "amerob", "American Robin", "Turdus migratorius", "Passeriformes", "Turdidae (Thrushes)"),
        (2, "species", "daejun", "Dark-eyed Junco", "Junco hyemalis", "Passeriformes", "Passerellidae (Sparrows)"),
        (3, "species", "towwar", "Townsend's Warbler", "Setophaga townsendi", "Passeriformes", "Parulidae (Warblers)"),
    ]
    return table(path, [dict(zip(names, row, strict=True)) for row in rows])


def inatsounds(root: Path) -> Path:
    categories = [
        {
            "id": 7,
            "name": "Turdus migratorius",
            "common_name": "American Robin",
            "supercategory": "Aves",
            "kingdom": "Animalia",
            "phylum": "Chordata",
            "class": "Aves",
            "order": "Passeriformes",
            "family": "Turdidae",
            "genus": "Turdus",
            "specific_epithet": "migratorius",
            "audio_dir_name": "00007_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_migratorius",
            "evaluation": 1,
        }
    ]
    folder = categories[0]["audio_dir_name"]
    for split, prefix in (("train", "train/"), ("val", "")):
        audio = [
            {
                "id": number,
                "duration": 0.1,
                "file_name": f"{prefix}{folder}/{split}{number}.wav",
                "license": 2,
                "rights_holder": "Ada Lark",
                "date": "2019-05-04 05:10:00+00:00",
                "latitude": 42.5,
                "longitude": -76.25,
                "location_uncertainty": 12,
            }
            for number in (0, 1)
        ]
        content = {
            "info": {"year": 2024},
            "audio": audio,
            "categories": categories,
            "annotations": [{"id": row["id"], "audio_id": row["id"], "category_id": 7} for row in audio],
            "licenses": [{"id": 2, "name": "CC-BY-NC", "url": "http://creativecommons.org/licenses/by-nc/4.0/"}],
        }
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.json").write_text(json.dumps(content))
        for number in (0, 1):
            sound(root / split / folder / f"{split}{number}.wav")
    return root


def ssw60(root: Path) -> Path:
    def indexed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"": number, **row} for number, row in enumerate(rows)]

    taxa = {"label": 0, "species_code": "cangoo", "inat_taxon_id": 7089, "inat2021_label": 3226}
    taxa |= {"nabirds_labels": "57 457", "common_name": "Canada Goose", "scientific_name": "Branta canadensis"}
    taxa |= {"family": "Anatidae (Ducks, Geese, and Waterfowl)", "order": "Anseriformes"}
    table(root / "taxa.csv", indexed([taxa]))
    audio = {"label": 0, "samplerate": 22050, "channels": 1, "samples": 220500, "duration_seconds": 10.0}
    audio_rows = [{"asset_id": 45516191, "split": "train"} | audio, {"asset_id": 55046651, "split": "test"} | audio]
    table(root / "audio_ml.csv", indexed(audio_rows))
    image = {"label": 0, "height": 6, "width": 8, "channels": 3}
    inat = {"asset_id": 73542, "split": "val", **image, "rights_holder": "K", "license_id": 5}
    table(root / "images_inat.csv", indexed([inat]))
    # An id of digits alone, which must not lose its zeros.
    nabirds = {"asset_id": "0233251100540000", "split": "train", **image, "photographer": "D"}
    table(root / "images_nabirds.csv", indexed([nabirds]))
    video = {"asset_id": 483821, "label": 0, "split": "test", "fps": 25, "frame_count": 327, "duration_seconds": 9.96}
    video |= {"frame_height": 1080, "frame_width": 1920, "frame_channels": 3, "orginal_video_start_second": 63}
    video |= {"original_video_end_second": 73, "original_video_target_second": 68, "target_second": 5}
    video |= {"reliable_audio": 1}
    table(root / "video_ml.csv", indexed([video]))
    sound(root / "audio_ml" / "45516191.wav")
    sound(root / "audio_ml" / "55046651.wav")
    sound(root / "video_ml" / "483821.mp4")
    picture(root / "images_inat" / "73542.jpg")
    picture(root / "images_nabirds" / "0233251100540000.jpg")
    return root


def xeno_canto(root: Path) -> Path:
    record = {"gen": "Turdus", "sp": "migratorius", "ssp": "", "group": "birds", "en": "American Robin"}
    record |= {
        "rec": "Bo Finch",
        "cnt": "Canada",
        "lat": "45.5",
        "date": "2019-00-00",
        "time": "06:00",
        "length": "1:23",
    }
    record |= {"lic": "//creativecommons.org/licenses/by-nc-sa/4.0/", "file": "//xeno-canto.org/1/download"}
    record |= {
        "loc": "Montréal",
        "alt": "30",
        "type": "song",
        "sex": "male",
        "stage": "adult",
        "method": "field recording",
    }
    record |= {"url": "//xeno-canto.org/101", "q": "A", "rmk": "From a roof"}
    record |= {
        "also": ["Junco hyemalis", ""],
        "sono": {"small": "//xeno-canto.org/s.png"},
        "smp": "44100",
        "length": "1:23",
    }
    v2 = [
        record | {"id": "101", "lng": "-73.25", "file-name": "XC101-robin.mp3"},
        record
        | {"id": "102", "lng": None, "lat": None, "file-name": "XC102.mp3", "length": "1:00:05", "ssp": "propinquus"},
    ]
    mystery = {"gen": "Mystery", "sp": "mystery", "en": "Identity unknown"}
    v3 = [v2[1], record | mystery | {"id": "1011", "lon": "10", "smp": 48000, "file-name": "a robin.mp3"}]
    v3 += [record | {"id": "104", "sp": "sp.", "en": "Thrush sp.", "lon": None}]
    root.mkdir(parents=True, exist_ok=True)
    for number, recordings in enumerate((v2, v3)):
        page = {"numRecordings": str(len(recordings)), "page": number + 1, "numPages": 2, "recordings": recordings}
        (root / f"page{number}.json").write_text(json.dumps(page))
    sound(root / "sounds" / "XC101 - American Robin - Turdus migratorius.wav")
    sound(root / "sounds" / "102.wav")
    sound(root / "sounds" / "XC1011.wav")
    sound(root / "sounds" / "XC104.wav")
    return root


def animalspeak(root: Path) -> Path:
    row = {
        "source": "iNaturalist",
        "url": "https://inaturalist.org/sounds/1.wav?1699",
        "caption": "A robin sings.",
    }
    row |= {"caption2": "Song, at dawn", "species_common": "American Robin", "species_scientific": "Turdus migratorius"}
    table(root / "animalspeak_train.csv", [row, row | {"url": "https://x.org/b%20c.wav", "caption2": ""}])
    table(root / "animalspeak_eval.csv", [row | {"url": "https://x.org/e.wav"}])
    for name in ("1.wav", "b c.wav", "e.wav"):
        sound(root / "audio" / name)
    return root


def birdset(root: Path) -> Path:
    import pandas as pd

    root.mkdir(parents=True, exist_ok=True)
    focal = {"filepath": ["XC1.ogg"], "ebird_code": ["amerob"], "ebird_code_multilabel": [["amerob"]]}
    focal |= {"lat": [42.5], "long": [-76.25], "start_time": [float("nan")], "recordist": ["Bo"], "genus": ["turdus"]}
    focal |= {"license": ["//creativecommons.org/licenses/by/4.0/"], "detected_events": [[[0.5, 1.25]]]}
    pd.DataFrame(focal).to_parquet(root / "HSN_metadata_train.parquet")
    calls = {"start_time": [0.5, 0.5], "end_time": [1.5, 2.0], "ebird_code": ["amerob", "daejun"]}
    calls |= {"ebird_code_multilabel": [["amerob"], ["daejun"]]}
    pd.DataFrame(calls, index=["HSN_001.ogg", "HSN_001.ogg"]).to_parquet(root / "HSN_metadata_test.parquet")
    segments = [("0", "5", "['amerob', 'daejun']"), ("5", "10", "['daejun']"), ("10", "15", "[]")]
    names = ("start_time", "end_time", "ebird_code_multilabel")
    rows = [{"filepath": "HSN_001.ogg"} | dict(zip(names, row, strict=True)) for row in segments]
    table(root / "HSN_metadata_test_5s.csv", rows)
    sound(root / "HSN_train_shard_0001" / "XC1.ogg")
    sound(root / "HSN_test_shard_0001" / "HSN_001.ogg")
    return root


INAT_FILES = {
    "taxa": [
        ("taxon_id", "ancestry", "rank_level", "rank", "name", "active"),
        ("48460", "", "100", "stateofmatter", "Life", "t"),
        ("1", "48460", "70", "kingdom", "Animalia", "t"),
        ("2", "48460/1", "60", "phylum", "Chordata", "t"),
        ("3", "48460/1/2", "50", "class", "Aves", "t"),
        ("7", "48460/1/2/3", "40", "order", "Passeriformes", "t"),
        ("8", "48460/1/2/3/7", "30", "family", "Turdidae", "t"),
        ("9", "48460/1/2/3/7/8", "20", "genus", "Turdus", "t"),
        ("12", "48460/1/2/3/7/8/9", "10", "species", "Turdus migratorius", "t"),
        ("13", "48460/1/2/3/7/8/9/12", "5", "subspecies", "Turdus migratorius propinquus", "t"),
        ("14", "48460/1/2/3/7/8/9", "10", "species", "Turdus merula", "t"),
        # A complex has quotes in its name.
        ("15", "48460/1/2/3/7/8/9", "11", "complex", 'The "dark" thrush', "t"),
    ],
    "observations": [
        (
            "observation_uuid",
            "observer_id",
            "latitude",
            "longitude",
            "positional_accuracy",
            "taxon_id",
            "quality_grade",
            "observed_on",
            "anomaly_score",
        ),
        ("obs-a", "5", "42.5", "-76.25", "10", "12", "research", "2020-05-01", ""),
        ("obs-b", "6", "42.5", "-76.25", "", "13", "research", "2020-05-02", ""),
        ("obs-c", "6", "42.5", "-76.25", "", "12", "needs_id", "2020-05-03", ""),
        ("obs-d", "5", "42.5", "-76.25", "", "14", "research", "2020-05-04", ""),
    ],
    "photos": [
        (
            "photo_uuid",
            "photo_id",
            "observation_uuid",
            "observer_id",
            "extension",
            "license",
            "width",
            "height",
            "position",
        ),
        ("u1", "100", "obs-a", "5", "jpg", "CC-BY", "800", "600", "0"),
        ("u2", "101", "obs-a", "5", "jpeg", "CC-BY", "800", "600", "1"),
        ("u3", "102", "obs-b", "6", "jpg", "CC0", "800", "600", "0"),
        ("u4", "103", "obs-b", "6", "jpg", "CC-BY-NC", "800", "600", "1"),
        ("u5", "104", "obs-c", "6", "jpg", "CC0", "800", "600", "0"),
        ("u6", "105", "obs-d", "5", "jpg", "CC0", "800", "600", "0"),
        # The same photograph in a second observation.
        ("u7", "100", "obs-b", "6", "jpg", "CC-BY", "800", "600", "2"),
    ],
    "observers": [("observer_id", "login", "name"), ("5", "ada", 'Ada "the" Lark'), ("6", "bo", "")],
}


def inat_bytes(name: str) -> bytes:
    """One of the open data's four files: tab-separated, unquoted, gzipped."""
    return gzip.compress("".join("\t".join(row) + "\n" for row in INAT_FILES[name]).encode())


def inat_photos(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in INAT_FILES:
        (root / f"{name}.csv.gz").write_bytes(inat_bytes(name))
    return root
