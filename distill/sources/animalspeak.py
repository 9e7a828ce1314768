"""AnimalSpeak, the captioned recordings BioLingual learnt from (arXiv 2308.04978).

    root/*.csv   one table or one a split, two captions a recording (`caption`, `caption2`), scientific and common names
                 https://huggingface.co/datasets/davidrrobinson/AnimalSpeak

The table describes sounds that are fetched from their own archives, so the name of its column of files depends on who
fetched them: `path`, `local_path`, `filepath`, `file_name` or, for the last part of it, `url`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from urllib.parse import unquote, urlparse

import pyarrow as pa

from distill import tables
from distill.errors import UserError
from distill.sources import files

_FILE = ("path", "local_path", "filepath", "file_path", "file_name", "filename")
_SCIENTIFIC = ("scientific_name", "species_scientific", "canonical_name")
_COMMON = ("common_name", "species_common", "common")
_RIGHTS = ("rights_holder", "recordist", "attribution")
_CAPTIONS = ("caption", "caption2")
_TEXT = (*_FILE, "url", *_SCIENTIFIC, *_COMMON, *_RIGHTS, *_CAPTIONS, *tables.RANKS, "split", "license", "source", "id")


def read(folder: files.Folder, parts: Sequence[str] = ()) -> pa.Table:
    """Reads one table, or a folder's tables with their splits told by their names.

    Raises:
        UserError: no table, or one without files, captions or a kind of name.
    """
    found = folder.tables(r"\.(csv|parquet)$")
    if not found:
        raise UserError(f"{folder.root} has no CSV or Parquet table, as AnimalSpeak has")
    part_of = {name: files.split_in_name(name) or posixpath.basename(name) for name in found}
    chosen = set(files.chosen_parts(dict.fromkeys(part_of.values()), parts, folder.root))
    read_parts = [_read_part(folder, name) for name in found if part_of[name] in chosen]
    return pa.concat_tables(read_parts, promote_options="permissive")


def _read_part(folder: files.Folder, name: str) -> pa.Table:
    url = folder.open(name)
    rows = files.read_rows(url, ["caption"], _TEXT)
    have = rows.column_names
    for wanted in ((*_FILE, "url"), (*_SCIENTIFIC, *_COMMON)):
        if not set(wanted) & set(have):
            raise UserError(f"{url} has none of the columns {', '.join(wanted)} (it has {', '.join(have)})")

    if set(_FILE) & set(have):
        paths = files.values(rows, *_FILE)
    else:
        paths = [posixpath.basename(unquote(urlparse(link or "").path)) for link in files.values(rows, "url")]
    paths = [folder.locate(path) if path else None for path in paths]
    captions = zip(*(files.values(rows, caption) for caption in _CAPTIONS), strict=True)
    text = pa.string()
    split = files.split_in_name(name)
    result = {
        "recording_id": pa.array(files.values(rows, "id") if "id" in have else map(files.short_hash, paths), text),
        "path": pa.array(paths, text),
        "scientific_name": pa.array(files.values(rows, *_SCIENTIFIC), text),
        "common_name": pa.array(files.values(rows, *_COMMON), text),
        "captions": pa.array([[caption for caption in row if caption] for row in captions], pa.list_(text)),
        "split": pa.array([own or split for own in files.values(rows, "split")], text),
        "rights_holder": pa.array(files.values(rows, *_RIGHTS), text),
    }
    return pa.table(result | {column: rows[column] for column in have if column not in result})
