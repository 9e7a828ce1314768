"""Small benchmarks in the exact layouts that the real ones were published in, each species a tone of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image

from tests.songsight.datasets.layouts import table

RATE_HZ = 16000
SPECIES = [
    ("turmer", "Turdus merula", "Eurasian Blackbird", "Turdidae (Thrushes)", "Passeriformes"),
    ("sonthr", "Turdus philomelos", "Song Thrush", "Turdidae (Thrushes)", "Passeriformes"),
    ("gretit1", "Parus major", "Great Tit", "Paridae (Tits)", "Passeriformes"),
]


def tone(species: int, seconds: float = 3.0) -> np.ndarray:
    """A species' tone in a little noise; −1 is the noise alone."""
    rng = np.random.default_rng(species + 1)
    time_s = np.arange(round(RATE_HZ * seconds)) / RATE_HZ
    song = 0.5 * np.sin(2 * np.pi * (600 + 900 * species) * time_s) if species >= 0 else 0
    return (song + 0.01 * rng.standard_normal(len(time_s))).astype(np.float32)


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        soundfile.write(handle, samples, RATE_HZ, format={".ogg": "OGG", ".flac": "FLAC"}.get(path.suffix, "WAV"))


def ebird(path: Path) -> Path:
    """eBird's checklist, as it is exported."""
    names = ("TAXON_ORDER", "CATEGORY", "SPECIES_CODE", "PRIMARY_COM_NAME", "SCI_NAME", "ORDER", "FAMILY")
    rows = [(i, "species", code, com, sci, order, family) for i, (code, sci, com, family, order) in enumerate(SPECIES)]
    return table(path, [dict(zip(names, row, strict=True)) for row in rows])


def ssw60(root: Path) -> Path:
    """https://github.com/visipedia/ssw60"""

    def indexed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"": number, **row} for number, row in enumerate(rows)]

    taxa = [
        {
            "label": label,
            "species_code": code,
            "inat_taxon_id": 7000 + label,
            "inat2021_label": 3000 + label,
            "nabirds_labels": f"{label} {100 + label}",
            "common_name": common,
            "scientific_name": name,
            "family": family,
            "order": order,
        }
        for label, (code, name, common, family, order) in enumerate(SPECIES)
    ]
    table(root / "taxa.csv", indexed(taxa))
    sounds, pictures = [], {"images_inat": [], "images_nabirds": []}
    shape = {"height": 40, "width": 50, "channels": 3}
    for label in range(len(SPECIES)):
        for number, split in enumerate(("train", "train", "test")):
            asset = 45516000 + 10 * label + number
            about = {"samplerate": RATE_HZ, "channels": 1, "samples": 3 * RATE_HZ, "duration_seconds": 3.0}
            sounds.append({"asset_id": asset, "label": label, "split": split} | about)
            write(root / "audio_ml" / f"{asset}.wav", tone(label))
        for part, credit in (("images_inat", "rights_holder"), ("images_nabirds", "photographer")):
            for number, split in enumerate(("train", "val", "test", "test")):
                asset = f"0{label}{number}{'1' if part == 'images_inat' else '2'}"
                row = {"asset_id": asset, "label": label, "split": split} | shape | {credit: "Kim"}
                pictures[part].append(row | ({"license_id": 3} if part == "images_inat" else {}))
                path = root / part / f"{asset}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (50, 40), (70 * label, 40 * number, 90)).save(path)
    table(root / "audio_ml.csv", indexed(sounds))
    for part, rows in pictures.items():
        table(root / f"{part}.csv", indexed(rows))
    return root


def inatsounds(root: Path) -> Path:
    """https://github.com/visipedia/inat_sounds: the third species is not one that scores are averaged over."""
    categories = []
    for number, (_, name, common, family, order) in enumerate(SPECIES):
        genus, epithet = name.split()
        ranks = {"kingdom": "Animalia", "phylum": "Chordata", "class": "Aves", "order": order}
        ranks |= {"family": family.split(" ")[0], "genus": genus, "specific_epithet": epithet}
        folder = "_".join([f"{number:05}", *ranks.values()])
        about = {"id": number, "name": name, "common_name": common, "supercategory": "Aves"}
        categories.append(about | ranks | {"audio_dir_name": folder, "evaluation": int(number < 2)})
    for split, takes in (("train", 2), ("val", 1), ("test", 2)):
        audio, notes = [], []
        for category in categories:
            for take in range(takes):
                name = f"{split}/{category['audio_dir_name']}/{take}.wav"
                # Longer than a window: the file's score is a mean.
                write(root / name, tone(category["id"], 7 if split == "test" else 3))
                about = {"id": len(audio), "duration": 7.0 if split == "test" else 3.0, "file_name": name}
                about |= {"license": 2, "rights_holder": "Ada Lark", "date": "2019-05-04 05:10:00+00:00"}
                audio.append(about | {"latitude": 42.5, "longitude": -76.25, "location_uncertainty": 12})
                notes.append({"id": len(notes), "audio_id": about["id"], "category_id": category["id"]})
        licenses = [{"id": 2, "name": "CC-BY-NC", "url": "http://creativecommons.org/licenses/by-nc/4.0/"}]
        content = {"info": {"year": 2024}, "audio": audio, "categories": categories, "annotations": notes}
        (root / f"{split}.json").write_text(json.dumps(content | {"licenses": licenses}))
    return root


def birdset(root: Path) -> Path:
    """https://huggingface.co/datasets/DBD-research-group/BirdSet: two data sets in one folder, one only in part."""
    import pandas as pd

    codes = [code for code, *_ in SPECIES]
    root.mkdir(parents=True, exist_ok=True)
    focal = {"filepath": [f"XC{i}.ogg" for i in range(6)], "ebird_code": [codes[i % 3] for i in range(6)]}
    focal |= {
        "ebird_code_multilabel": [[code] for code in focal["ebird_code"]],
        "lat": [42.5] * 6,
        "long": [-76.25] * 6,
    }
    focal |= {"start_time": [float("nan")] * 6, "end_time": [float("nan")] * 6, "recordist": ["Bo"] * 6}
    pd.DataFrame(focal).to_parquet(root / "HSN_metadata_train.parquet")
    for i in range(6):
        write(root / "HSN_train_shard_0001" / f"XC{i}.ogg", tone(i % 3))
    present = [[0], [1], [0, 1], [], [2], [0]]
    sound = np.concatenate([sum((tone(s, 5) for s in own), tone(-1, 5)) for own in present])
    write(root / "HSN_test_shard_0001" / "HSN_001_20150708_061805.ogg", sound / 2)
    segments = [
        {
            "filepath": "HSN_001_20150708_061805.ogg",
            "start_time": 5 * place,
            "end_time": 5 * place + 5,
            "ebird_code_multilabel": str([codes[s] for s in own]),
        }
        for place, own in enumerate(present)
    ]
    table(root / "HSN_metadata_test_5s.csv", segments)
    pd.DataFrame(
        {"filepath": ["gone.ogg"], "ebird_code": ["turmer"], "ebird_code_multilabel": [["turmer"]]}
    ).to_parquet(root / "POW_metadata_train.parquet")
    return root


BIRDSET_PRESENT = [[0], [1], [0, 1], [], [2], [0]]


def birdset_cut(root: Path) -> Path:
    """BirdSet's published shards, unpacked: each segment of `test_5s` is a file of its own, and times count in it.

    Two soundscapes of three segments; `HSN_001` begins in its table at the second of them.
    """
    import pandas as pd

    codes = [code for code, *_ in SPECIES]
    rows = []
    for place, own in enumerate(BIRDSET_PRESENT):
        scape, begin = ("HSN_001_20150708_061805", "HSN_002_20150709_061805")[place // 3], 5 * (place % 3)
        name = f"{scape}_{begin:03}_{begin + 5:03}.ogg"
        write(root / "HSN" / f"HSN_test5s_shard_000{1 + place % 2}" / name, _sung(own))
        labels = [codes[s] for s in own]
        row = {"filepath": name, "start_time": 0.0, "end_time": 5.0, "ebird_code_multilabel": labels}
        rows.append(row | {"lat": 43.8, "long": -114.4})
    pd.DataFrame(rows).to_parquet(root / "HSN" / "HSN_metadata_test_5s.parquet")
    return root


def birdset_export(root: Path, embedded: bool) -> Path:
    """What `datasets` exports: Parquet shards, classes as numbers, sounds inside or as files beside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    codes = [code for code, *_ in SPECIES]
    label = {"names": codes, "_type": "ClassLabel"}
    many = {"feature": label, "_type": "List"}
    about = {"info": {"features": {"ebird_code": label, "ebird_code_multilabel": many}}}
    for shard in (0, 1):
        rows = []
        for place in range(3 * shard, 3 * shard + 3):
            name = f"HSN_00{shard + 1}_20150708_061805_{5 * place % 15:03}_{5 * place % 15 + 5:03}.ogg"
            path = root / "HSN_sounds" / name
            write(path, _sung(BIRDSET_PRESENT[place]))
            sound = {"bytes": path.read_bytes() if embedded else None, "path": name}
            if embedded:
                path.unlink()
            row = {"filepath": f"/home/somebody/cache/{name}", "audio": sound, "ebird_code": None}
            times = {"start_time": 0.0, "end_time": 5.0}
            rows.append(row | times | {"ebird_code_multilabel": BIRDSET_PRESENT[place]})
        table = pa.Table.from_pylist(rows).cast(
            pa.schema(
                [
                    ("filepath", pa.string()),
                    ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                    ("ebird_code", pa.int64()),
                    ("start_time", pa.float64()),
                    ("end_time", pa.float64()),
                    ("ebird_code_multilabel", pa.list_(pa.int64())),
                ]
            )
        )
        folder = root / "HSN"
        folder.mkdir(parents=True, exist_ok=True)
        described = table.replace_schema_metadata({"huggingface": json.dumps(about)})
        pq.write_table(described, folder / f"test_5s-0000{shard}-of-00002.parquet")
    return root


def _sung(present: list[int]) -> np.ndarray:
    """Five seconds in which some species sing."""
    return sum((tone(s, 5) for s in present), tone(-1, 5)) / 2


def beans(root: Path) -> Path:
    """https://github.com/earthspecies/beans behind its own scripts: a classification and a detection set."""
    sets = [
        {
            "name": "watkins",
            "type": "classification",
            **{f"{split}_data": f"data/watkins/annotations.{split}.csv" for split in ("train", "valid", "test")},
            "num_labels": 2,
            "labels": ["Great_Tit", "Song_Thrush"],
            "unknown_label": None,
            "sample_rate": 44100,
            "max_duration": 3,
        },
        {
            "name": "enabirds",
            "type": "detection",
            **{f"{split}_data": f"data/enabirds/{split}.jsonl" for split in ("train", "valid", "test")},
            "num_labels": 3,
            "labels": ["turmer", "gretit1", "OTHR"],
            "unknown_label": "OTHR",
            "sample_rate": 32000,
            "window_width": 2,
            "window_shift": 1,
        },
        {
            "name": "hiceas",
            "type": "detection",
            **{f"{split}_data": f"data/hiceas/{split}.jsonl" for split in ("train", "valid", "test")},
            "num_labels": 1,
            "labels": [1],
            "unknown_label": None,
            "sample_rate": 22050,
            "window_width": 10,
            "window_shift": 5,
        },
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "datasets.yml").write_text(yaml.safe_dump(sets, sort_keys=False))
    for split, takes in (("train", 3), ("valid", 1), ("test", 2)):
        rows = []
        for label, species in (("Great_Tit", 2), ("Song_Thrush", 1)):
            for take in range(takes):
                path = f"data/watkins/{label}/{split}{take}.wav"
                write(root / path, tone(species))
                rows.append({"": len(rows) * 7, "path": path, "label": label})
        table(root / f"data/watkins/annotations.{split}.csv", rows)
        lines = []
        for take in range(takes):
            path = f"data/enabirds/wav/{split}{take}.wav"
            sound = np.concatenate([tone(0, 2), tone(-1, 2), tone(2, 1.5)])
            write(root / path, sound)
            calls = [{"st": 0.0, "ed": 2.0, "label": "turmer"}, {"st": 4.0, "ed": 5.5, "label": "gretit1"}]
            lines.append(json.dumps({"path": path, "length": 5.5, "annotations": calls}))
        (root / f"data/enabirds/{split}.jsonl").write_text("".join(line + "\n" for line in lines))
    return root


def soundscapes(root: Path) -> Path:
    """Three recordings, two of them with Raven tables beside them, one of which lists nothing."""
    sound = np.concatenate([tone(0, 5), tone(1, 5), tone(-1, 5), tone(1, 4)])
    write(root / "site-a" / "20240514_053000.flac", sound)
    write(root / "site-a" / "quiet.wav", tone(-1, 5))
    write(root / "site-b" / "not-listened-to.wav", tone(2, 5))
    header = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies"
    calls = [(0.5, 4.5, "turmer"), (5.2, 9.9, "sonthr"), (9.95, 10.01, "sonthr"), (11, 12, ""), (15, 19, "sonthr")]
    rows = [f"{i}\tSpectrogram 1\t1\t{a}\t{b}\t500\t4000\t{name}" for i, (a, b, name) in enumerate(calls, 1)]
    folder = root / "annotations"
    folder.mkdir()
    (folder / "20240514_053000.Table.1.selections.txt").write_text("\n".join([header, *rows]))
    (folder / "quiet.Table.1.selections.txt").write_text(header)
    return root
