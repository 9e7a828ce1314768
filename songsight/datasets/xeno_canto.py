"""xeno-canto: the JSON pages of its API, versions 2 and 3, beside the sounds (https://xeno-canto.org/explore/api).

    root/**/*.json              pages, {"recordings": [{"id": "477551", "gen": "Turdus", "sp": "merula", …}, …]}
    root/**/XC477551.mp3        or "XC477551 - Common Blackbird - ….mp3", 477551.mp3, or the record's own `file-name`

Version 2 calls the longitude `lng`, version 3 `lon`. Dates are local, without a zone, and may be half known
("2019-00-00"): `recorded_at` stays null, `date` and `time` are kept as they are.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

import pyarrow as pa

from songsight.datasets import files
from songsight.datasets.folder import ENDINGS
from songsight.errors import UserError
from songsight.store import sheets

_NUMBERED = re.compile(rf"^(?:XC(\d+).*|(\d+))\.(?:{'|'.join(ENDINGS['recordings'])})$", re.IGNORECASE)
# Pictures of the sound.
_LEFT_OUT = ("sono", "osci")
# "Mystery mystery" is a bird that nobody has named, "Sonus naturalis" a soundscape.
_NO_SPECIES = ("", "mystery", "sonus")
# A bird of a genus, and no more is known.
_NO_EPITHET = ("", "sp.", "sp", "spp.")


def read(folder: files.Folder) -> pa.Table:
    """Reads every page below the folder; a recording that several pages list is one row.

    Raises:
        UserError: no page is there, or its records lack `id`, `gen` or `sp`.
    """
    records = _records(folder)
    here = sounds(folder)
    text = pa.string()

    def column(*keys: str) -> list[Any]:
        return [next((row[key] for key in keys if row.get(key) not in (None, "")), None) for row in records]

    paths = [here.get(str(row["id"])) or folder.locate(row.get("file-name") or f"XC{row['id']}.mp3") for row in records]
    species = {
        "scientific_name": [_species(row) for row in records],
        "common_name": [row.get("en") or None if _species(row) else None for row in records],
        "genus": [None if (row["gen"] or "").lower() in _NO_SPECIES else row["gen"] for row in records],
        "species": [row["sp"] if _species(row) else None for row in records],
    }
    result = {
        "recording_id": pa.array([f"XC{row['id']}" for row in records], text),
        "path": pa.array(paths, text),
        **{name: pa.array(values, text) for name, values in species.items()},
        "latitude": pa.array(map(_number, column("lat")), pa.float64()),
        "longitude": pa.array(map(_number, column("lon", "lng")), pa.float64()),
        "license": pa.array(map(_with_scheme, column("lic")), text),
        "rights_holder": pa.array(column("rec"), text),
        "source": pa.array([f"https://xeno-canto.org/{row['id']}" for row in records], text),
        "duration_s": pa.array(map(seconds, column("length")), pa.float64()),
    }
    for key in dict.fromkeys(key for row in records for key in row):
        if key not in _LEFT_OUT and key not in result:
            result[key] = pa.array(map(_as_text, column(key)), text)
    return pa.table(result)


def seconds(length: str | float | None) -> float | None:
    """A length such as "1:23" or "1:02:03" in seconds; None where it is none."""
    parts = str(length or "").split(":")
    if not all(part.isdigit() for part in parts):
        return None
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return float(total)


def _records(folder: files.Folder) -> list[dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for name in folder.tables(r"\.json$"):
        page = files.read_json(folder.open(name))
        if not isinstance(page, dict) or not isinstance(page.get("recordings"), list):
            continue
        for row in page["recordings"]:
            sheets.require(f"{folder.open(name)}: recordings", list(row), ["id", "gen", "sp"])
            records.setdefault(str(row["id"]), row)
    if not records:
        raise UserError(f"{folder.root} has no JSON page with a list of recordings, as xeno-canto's API answers")
    return list(records.values())


def sounds(folder: files.Folder) -> dict[str, str]:
    """Catalogue number → file."""
    found: dict[str, str] = {}
    for file in sorted(folder.files):
        match = _NUMBERED.match(posixpath.basename(file))
        if match:
            found.setdefault(match.group(1) or match.group(2), file)
    return found


def _species(row: dict[str, Any]) -> str | None:
    """Genus and epithet; the subspecies stays in its own column."""
    if (row["gen"] or "").lower() in _NO_SPECIES or (row["sp"] or "").lower() in _NO_EPITHET:
        return None
    return f"{row['gen']} {row['sp']}"


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _with_scheme(url: str | None) -> str | None:
    return f"https:{url}" if url and url.startswith("//") else url


def _as_text(value: Any) -> str | None:
    if isinstance(value, list):
        return "; ".join(str(item) for item in value if item) or None
    return None if value is None else str(value)
