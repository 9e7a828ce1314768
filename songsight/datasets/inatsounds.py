"""iNatSounds 2024 (https://github.com/gvanhorn38/iNatSounds).

root/train.json, val.json, test.json    audio, categories, annotations, licenses
root/train/<category>/<recording>.wav   22.05 kHz, joined by `file_name`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from songsight.datasets import files
from songsight.errors import UserError
from songsight.store import sheets, tables

_SPLITS = ("train", "val", "test")
_RANKS = {rank: "specific_epithet" if rank == "species" else rank for rank in tables.RANKS}
# Columns with names of their own in the table, or with none: the note that joins a sound and its species.
_READ = {"id", "file_name", "duration", "license", "rights_holder", "date"}
_READ |= {"latitude", "longitude", "location_uncertainty"}
_READ_OF_SPECIES = {"id", "name", "common_name", "supercategory", "evaluation", *_RANKS.values()}
_NEEDED = {
    "audio": ("id", "file_name"),
    "categories": ("id", "name"),
    "annotations": ("audio_id", "category_id"),
}


def read(folder: files.Folder, parts: Sequence[str] = ()) -> pa.Table:
    """Reads the splits that are there, or those asked for.

    Raises:
        UserError: none of the three JSON files is there, or one lacks a list that it should have.
    """
    here = [split for split in _SPLITS if f"{split}.json" in folder.files]
    if not here:
        raise UserError(f"{folder.root} has no train.json, val.json or test.json, as iNatSounds 2024 has")
    chosen = files.chosen_parts(here, parts, folder.root)
    return files.stack([_read_split(folder, split) for split in chosen], folder.root)


def species(folder: files.Folder, split: str) -> list[dict[str, Any]]:
    """Every species that a split's JSON lists, in its order, whether or not a recording of it is there.

    Returns:
        rows with `scientific_name`, `common_name`, the ranks and `evaluation` (1 for the species that the paper's
        scores are averaged over; None where the list does not say).

    Raises:
        UserError: the split's JSON is not one, or lists no categories.
    """
    url = folder.open(f"{split}.json")
    content = files.read_json(url)
    sheets.require(url, list(content), ["categories"])
    if not content["categories"]:
        raise UserError(f"{url} lists no categories")
    sheets.require(f"{url}: categories", list(content["categories"][0]), _NEEDED["categories"])
    found: dict[str, dict[str, Any]] = {}
    for row in content["categories"]:
        names = {"scientific_name": row["name"], "common_name": row.get("common_name")}
        ranks = {rank: row.get(key) for rank, key in _RANKS.items()}
        found.setdefault(row["name"], names | ranks | {"evaluation": row.get("evaluation")})
    return list(found.values())


def _read_split(folder: files.Folder, split: str) -> pa.Table:
    url = folder.open(f"{split}.json")
    content = files.read_json(url)
    sheets.require(url, list(content), _NEEDED)
    for name, needed in _NEEDED.items():
        if not content[name]:
            raise UserError(f"{url} lists no {name}")
        sheets.require(f"{url}: {name}", list(content[name][0]), needed)
    audio: list[dict[str, Any]] = content["audio"]
    categories = {category["id"]: category for category in content["categories"]}
    licenses = {license["id"]: license.get("name") for license in content.get("licenses", [])}
    category_of = {note["audio_id"]: categories.get(note["category_id"], {}) for note in content["annotations"]}
    species = [category_of.get(row["id"], {}) for row in audio]

    def text(values: Any) -> pa.Array:
        return pa.array(values, pa.string())

    def number(key: str) -> pa.Array:
        return pa.array([row.get(key) for row in audio], pa.float64())

    def rest(rows: list[dict[str, Any]], read: set[str]) -> dict[str, pa.Array]:
        names = dict.fromkeys(name for row in rows for name in row if name not in read)
        return {name: files.array([row.get(name) for row in rows]) for name in names}

    table = pa.table(
        {
            # Ids start again in each of the three files.
            "recording_id": text(f"{split}-{row['id']}" for row in audio),
            "path": text(_path(folder, split, row.get("file_name")) for row in audio),
            "scientific_name": text(each.get("name") for each in species),
            "common_name": text(each.get("common_name") for each in species),
            **{rank: text(each.get(key) for each in species) for rank, key in _RANKS.items()},
            "split": text([split] * len(audio)),
            "latitude": number("latitude"),
            "longitude": number("longitude"),
            "recorded_at": pa.array((files.utc(row.get("date")) for row in audio), pa.timestamp("us", tz="UTC")),
            "license": text(licenses.get(row.get("license")) for row in audio),
            "rights_holder": text(row.get("rights_holder") for row in audio),
            "source": text(["iNatSounds 2024"] * len(audio)),
            "duration_s": number("duration"),
            "location_uncertainty_m": number("location_uncertainty"),
            "date": text(row.get("date") for row in audio),
            "supercategory": text(each.get("supercategory") for each in species),
            "category_id": pa.array((each.get("id") for each in species), pa.int64()),
            # 1 for the 1,212 species that the paper's scores are averaged over.
            "evaluation": pa.array((each.get("evaluation") for each in species), pa.int64()),
        }
    )
    for name, column in (rest(species, _READ_OF_SPECIES) | rest(audio, _READ)).items():
        if name not in table.column_names:
            table = table.append_column(name, column)
    return table


def _path(folder: files.Folder, split: str, file_name: str | None) -> str | None:
    """`file_name` may or may not begin with its split; both are looked for before the base name alone."""
    if not file_name:
        return None
    below_split = f"{split}/{file_name}"
    return below_split if below_split in folder.files else folder.locate(file_name)
