"""AnimalSpeak, the captioned recordings BioLingual learnt from (arXiv 2308.04978).

    root/*.csv   one table or one a split, two captions a recording: `caption`, `caption2`
                 https://huggingface.co/datasets/davidrrobinson/AnimalSpeak

The published table (source, url, caption, caption2, species_common, species_scientific) describes sounds that are
fetched from their own archives, so the name of its column of files depends on who fetched them: `path`, `local_path`,
`filepath`, `file_name`. Where there is none, a file is looked for by its `url`. BioLingual's own lists have path,
caption and caption2 alone: their rows have no name but what a caption says.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import unquote, urlparse

import pyarrow as pa

from songsight.datasets import files, xeno_canto
from songsight.errors import UserError
from songsight.store import tables

_FILE = ("path", "local_path", "filepath", "file_path", "file_name", "filename")
_SCIENTIFIC = ("scientific_name", "species_scientific", "canonical_name")
_COMMON = ("common_name", "species_common", "common")
_RIGHTS = ("rights_holder", "recordist", "attribution")
_CAPTIONS = ("caption", "caption2")
_TEXT = (*_FILE, "url", *_SCIENTIFIC, *_COMMON, *_RIGHTS, *_CAPTIONS, *tables.RANKS, "split", "license", "source", "id")

_XENO_CANTO = re.compile(r"xeno-canto\.org/(?:XC)?(\d+)(?:/|$)", re.IGNORECASE)


def read(folder: files.Folder, parts: Sequence[str] = ()) -> pa.Table:
    """Reads one table, or a folder's tables with their splits told by their names.

    Raises:
        UserError: no table, or one without files or captions.
    """
    found = folder.tables(r"\.(csv|parquet)$")
    if not found:
        raise UserError(f"{folder.root} has no CSV or Parquet table, as AnimalSpeak has")
    part_of = {name: files.split_in_name(name) or posixpath.basename(name) for name in found}
    chosen = set(files.chosen_parts(dict.fromkeys(part_of.values()), parts, folder.root))
    table = files.stack([_read_part(folder, name) for name in found if part_of[name] in chosen], folder.root)
    if table["recording_id"].null_count:
        # By the file alone: a caption that is corrected later leaves the id as it is.
        ids = files.row_ids((path,) for path in table["path"].to_pylist())
        own = zip(table["recording_id"].to_pylist(), ids, strict=True)
        table = table.set_column(0, "recording_id", pa.array([given or made for given, made in own], pa.string()))
    return table


def _read_part(folder: files.Folder, name: str) -> pa.Table:
    url = folder.open(name)
    rows = files.read_rows(url, ["caption"], _TEXT)
    have = rows.column_names
    if not {*_FILE, "url"} & set(have):
        raise UserError(f"{url} has none of the columns {', '.join((*_FILE, 'url'))} (it has {', '.join(have)})")

    if set(_FILE) & set(have):
        paths = [folder.locate(path) if path else None for path in files.values(rows, *_FILE)]
    else:
        paths = _fetched(folder, files.values(rows, "url"))
    captions = zip(*(files.values(rows, caption) for caption in _CAPTIONS), strict=True)
    text = pa.string()
    split = files.split_in_name(name)
    result = {
        "recording_id": pa.array(files.values(rows, "id"), text),
        "path": pa.array(paths, text),
        "scientific_name": pa.array(files.values(rows, *_SCIENTIFIC), text),
        "common_name": pa.array(files.values(rows, *_COMMON), text),
        "captions": pa.array([[caption for caption in row if caption] for row in captions], pa.list_(text)),
        "split": pa.array([own or split for own in files.values(rows, "split")], text),
        "rights_holder": pa.array(files.values(rows, *_RIGHTS), text),
    }
    return pa.table(result | {column: rows[column] for column in have if column not in result})


def _fetched(folder: files.Folder, links: Sequence[str | None]) -> list[str | None]:
    """Where a download of each address lies: a xeno-canto recording by its catalogue number, another by the address'
    own path, or by its last part where no other address ends so.
    """
    numbered = xeno_canto.sounds(folder)
    addresses = {link: _address(link) for link in links if link}
    namesakes = Counter(posixpath.basename(address) for address in set(addresses.values()))
    paths: dict[str, str] = {}
    for link, address in addresses.items():
        number = _XENO_CANTO.search(link)
        if number:
            paths[link] = numbered.get(number.group(1), f"XC{number.group(1)}.mp3")
            continue
        found = folder.locate(address)
        paths[link] = found if namesakes[posixpath.basename(address)] == 1 or found.endswith(address) else address
    return [paths[link] if link else None for link in links]


def _address(link: str) -> str:
    """`https://x.org/a/b%20c.wav?1699` → `x.org/a/b c.wav`, which is where wget and others put it."""
    parts = urlparse(link)
    return (parts.netloc + unquote(parts.path)).strip("/")
