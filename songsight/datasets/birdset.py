"""BirdSet, focal training and soundscape tests (https://huggingface.co/datasets/DBD-research-group/BirdSet).

    root/HSN_metadata_train.parquet     a row a focal xeno-canto recording; XCM_metadata.parquet and XCL's have no split
    root/HSN_metadata_test.parquet      a row a call in a soundscape: `start_time`, `end_time`, `ebird_code`
    root/HSN_metadata_test_5s.parquet   a row a 5 s segment: `ebird_code_multilabel`, empty where nothing calls
    root/HSN_test5s_shard_0001/*.ogg    unpacked anywhere below, joined by the base name of `filepath`; the segments are
                                        files of their own, and then each one's times are 0 and 5

Parquet or CSV; the split is what the file's name ends in. So it is in what `datasets` exports, in shards and with class
numbers (`HSN/test_5s-00000-of-00001.parquet`, `HSN/test_5s/0000.parquet`): the numbers' names are in the file itself.
The sounds are too, and have to be written out under the names in `filepath` to be read here.

Species are eBird codes, which a taxonomy with `species_code` (eBird's own checklist has it) turns into names; without
one a row has the name that it carries itself, if any. A segment in which several species call has no
`scientific_name`; its `scientific_names`, like its codes, list them all, null for a code that has no name.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from songsight.datasets import files
from songsight.datasets.taxonomy import Taxonomy
from songsight.errors import UserError
from songsight.store import sheets

_SPLITS = ("train", "valid", "test", "test_5s")
_SHARD = r"(?:-\d+-of-\d+)?"
_TABLE = re.compile(rf"(?:(?:^|_)({'|'.join(_SPLITS)}){_SHARD}|(_metadata))\.(?:parquet|csv)$")
_NUMBERED = re.compile(rf"(?:^|/)({'|'.join(_SPLITS)})/\d+\.parquet$")

_RENAMED = {
    "lat": "latitude",
    "long": "longitude",
    "recordist": "rights_holder",
    "start_time": "start_s",
    "end_time": "end_s",
    "length": "duration_s",
    # The genus and order come with the taxonomy, in the spelling that everything else has.
    "genus": "birdset_genus",
    "order": "birdset_order",
}


def read(folder: files.Folder, parts: Sequence[str] = (), taxonomy: Taxonomy | None = None) -> pa.Table:
    """Reads the splits that are there, or those asked for.

    Args:
        folder: the metadata files and, below it, the sounds.
        parts: some of train, valid, test and test_5s.
        taxonomy: gives names to eBird's codes, if there is one that has them.

    Raises:
        UserError: no metadata, columns missing, class numbers whose names are nowhere, or sounds that are nowhere but
            in the tables.
    """
    found = {name: split for name in folder.tables(r"\.(parquet|csv)$") if (split := split_of(name))}
    if not found:
        raise UserError(f"{folder.root} has no …train, …test or …test_5s .parquet or .csv, as BirdSet has")
    chosen = set(files.chosen_parts(dict.fromkeys(found.values()), parts, folder.root))
    seen: Counter[str] = Counter()
    read_parts = [read_table(folder, name, split, taxonomy, seen) for name, split in found.items() if split in chosen]
    return files.stack(read_parts, folder.root)


def split_of(name: str) -> str | None:
    """The split of a metadata file; None for a file that is none."""
    found = _TABLE.search(posixpath.basename(name)) or _NUMBERED.search(name)
    return (found.group(1) or "train") if found else None


def notes(_: files.Folder, table: pa.Table, taxonomy: Taxonomy | None) -> list[str]:
    """What the reader of a table should know of the codes that got no name."""
    singles, many = files.values(table, "ebird_code"), files.values(table, "ebird_code_multilabel")
    named = files.values(table, "scientific_name")
    known = taxonomy.by_code if taxonomy else {}
    rows = zip(singles, many, named, strict=True)
    codes = Counter(
        code
        for single, several, name in rows
        if not name
        for code in ([single] if single else several or [])
        if not known.get(code)
    )
    if not codes:
        return []
    if not known:
        return [
            f"eBird codes without names: {len(codes):,}; --taxonomy with species_code and scientific_name, such as "
            "eBird's own checklist, names them"
        ]
    common = ", ".join(f"{code} ({count:,} rows)" for code, count in codes.most_common(5))
    return [f"codes that the taxonomy lacks: {len(codes):,} ({common}{', …' if len(codes) > 5 else ''})"]


def with_codes(taxonomy: Taxonomy | None) -> Taxonomy:
    """The taxonomy, if it can name species by eBird's codes.

    Raises:
        UserError: it cannot.
    """
    if taxonomy is None or not taxonomy.by_code:
        raise UserError(
            "birdset names species by eBird's codes: --taxonomy needs a table with species_code and scientific_name, "
            "such as eBird's own checklist"
        )
    return taxonomy


def read_table(
    folder: files.Folder,
    name: str,
    split: str,
    taxonomy: Taxonomy | None = None,
    seen: Counter[str] | None = None,
) -> pa.Table:
    """Reads one metadata file of the folder; see `read`.

    Args:
        folder: the data set's.
        name: of the file.
        split: that it describes, as BirdSet calls it.
        taxonomy: gives names to eBird's codes.
        seen: how many rows each recording had in the split's other files; it is counted on.
    """
    url = folder.open(name)
    rows = files.read_rows(url, text=("filepath", "ebird_code", "ebird_code_multilabel", "license", "source"))
    described = json.loads((rows.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    rows = _with_class_names(rows, features)
    if "filepath" not in rows.column_names and files.INDEX in rows.column_names:
        rows = rows.rename_columns({files.INDEX: "filepath"})
    sheets.require(url, rows.column_names, ["filepath"], sheets.seen(rows))
    if not {"ebird_code", "ebird_code_multilabel"} & set(rows.column_names):
        sheets.require(url, rows.column_names, ["ebird_code or ebird_code_multilabel"])

    names = [posixpath.basename(path) if path else None for path in rows["filepath"].to_pylist()]
    paths = [folder.locate(each) if each else None for each in names]
    if "audio" in features and not folder.files & set(paths):
        raise UserError(f"{url} has its sounds inside: write them out below {folder.root}, named as in filepath")
    singles = files.values(rows, "ebird_code")
    many = [_codes(url, code) for code in files.values(rows, "ebird_code_multilabel")]
    # A segment's only label is all its labels; a recording or call has one of its own.
    several = split == "test_5s" or not any(singles)
    codes = many if several else [_codes(url, code) for code in singles]
    known = taxonomy.by_code if taxonomy else {}
    species = [[known.get(code, {}).get("scientific_name") for code in each] for each in codes]
    own = files.values(rows, "scientific_name")

    text = pa.string()
    result = {
        "recording_id": pa.array(_ids(names, split, Counter() if seen is None else seen), text),
        "path": pa.array(paths, text),
        "scientific_name": pa.array(
            [given or (each[0] if len(each) == 1 else None) for given, each in zip(own, species, strict=True)], text
        ),
        "split": pa.array([split] * len(rows), text),
        "scientific_names": pa.array(species, pa.list_(text)),
        "ebird_code_multilabel": pa.array(many, pa.list_(text)),
    }
    for column in rows.column_names:
        if column in result or column in ("filepath", files.INDEX):
            continue
        values = rows[column]
        # A pandas frame writes a number that is not known as NaN.
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        result[_RENAMED.get(column, column)] = values
    return pa.table(result)


def _ids(names: list[str | None], split: str, seen: Counter[str]) -> list[str]:
    """The file's name; where one has many calls or segments, with their number in the table's order."""
    ids = []
    for name in names:
        key = f"{split}/{name}"
        number = f"#{seen[key]}" if split.startswith("test") or seen[key] else ""
        ids.append(key + number)
        seen[key] += 1
    return ids


def _with_class_names(rows: pa.Table, features: Mapping[str, Any]) -> pa.Table:
    """What `datasets` wrote as numbers of classes, by the classes' names; it writes −1 for one that is not known."""
    for place, column in enumerate(rows.column_names):
        names = _class_names(features.get(column))
        if not names:
            continue
        name_of = dict(enumerate(names))
        if pa.types.is_list(rows.schema.field(column).type):
            several = [value and [name_of.get(each) for each in value] for value in rows[column].to_pylist()]
            rows = rows.set_column(place, column, pa.array(several, pa.list_(pa.string())))
        else:
            single = [name_of.get(value) for value in rows[column].to_pylist()]
            rows = rows.set_column(place, column, pa.array(single, pa.string()))
    return rows


def _class_names(feature: Any) -> list[str] | None:
    """A list of classes is a list in one version of the library, and an object around the class in others."""
    if isinstance(feature, list):
        return _class_names(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    return feature.get("names") or _class_names(feature.get("feature"))


def _codes(url: str, value: Any) -> list[str]:
    """The codes in a cell: a list, a list as Python prints it, one code, or nothing."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise UserError(f"{url}: ebird_code_multilabel is no list: {value}") from None
    codes = value if isinstance(value, list) else [value]
    if any(isinstance(code, int) for code in codes):
        raise UserError(f"{url} has class numbers where BirdSet's metadata has eBird codes: use its …_metadata_… files")
    return [code for code in codes if code]
