"""BirdSet, focal training and soundscape tests (https://huggingface.co/datasets/DBD-research-group/BirdSet).

    root/HSN_metadata_train.parquet     a row a focal xeno-canto recording
    root/HSN_metadata_test.parquet      a row a call in a soundscape: `start_time`, `end_time`, `ebird_code`
    root/HSN_metadata_test_5s.parquet   a row a 5 s segment: `ebird_code_multilabel`, empty where nothing calls
    root/**/*.ogg                       unpacked anywhere below, joined by the base name of `filepath`

Hugging Face's own exports write codes as numbers of classes, and say in the table's schema what the classes are.

Parquet or CSV; the split is what the file's name ends in. Species are eBird codes, which a taxonomy with `species_code`
(eBird's own checklist has it) turns into names. A segment in which several species call has no `scientific_name`; its
`scientific_names`, like its codes, list them all.
"""

from __future__ import annotations

import ast
import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import UserError
from distill.sources import files
from distill.sources.taxonomy import Taxonomy

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
        parts: some of train, test and test_5s.
        taxonomy: gives names to eBird's codes.

    Raises:
        UserError: no metadata, columns missing, class numbers in place of codes, or no taxonomy with codes.
    """
    taxonomy = with_codes(taxonomy)
    found = folder.tables(r"(?:^|_)(train|test|test_5s)\.(parquet|csv)$")
    if not found:
        raise UserError(f"{folder.root} has no …train, …test or …test_5s .parquet or .csv, as BirdSet has")
    split_of = {name: files.split_in_name(name) or "test" for name in found}
    chosen = set(files.chosen_parts(dict.fromkeys(split_of.values()), parts, folder.root))
    read_parts = [read_table(folder, name, split_of[name], taxonomy) for name in found if split_of[name] in chosen]
    return pa.concat_tables(read_parts, promote_options="permissive")


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


def read_table(folder: files.Folder, name: str, split: str, taxonomy: Taxonomy) -> pa.Table:
    """Reads one metadata file of the folder; see `read`."""
    url = folder.open(name)
    rows = files.read_rows(url, text=("filepath", "ebird_code", "ebird_code_multilabel", "license", "source"))
    if "filepath" not in rows.column_names and files.INDEX in rows.column_names:
        rows = rows.rename_columns({files.INDEX: "filepath"})
    files.require(url, rows.column_names, ["filepath"])
    if not {"ebird_code", "ebird_code_multilabel"} & set(rows.column_names):
        files.require(url, rows.column_names, ["ebird_code or ebird_code_multilabel"])

    for column in ("ebird_code", "ebird_code_multilabel"):
        rows = _with_codes_for_numbers(rows, column)
    names = [posixpath.basename(path) for path in rows["filepath"].to_pylist()]
    singles = files.values(rows, "ebird_code")
    many = [_codes(url, code) for code in files.values(rows, "ebird_code_multilabel")]
    # A segment's only label is all its labels; a recording or call has one of its own.
    codes = many if split == "test_5s" else [_codes(url, code) for code in singles]
    species = [[taxonomy.by_code.get(code, {}).get("scientific_name") for code in each] for each in codes]

    text = pa.string()
    result = {
        "recording_id": pa.array(_ids(names, split), text),
        "path": pa.array([folder.locate(each) for each in names], text),
        "scientific_name": pa.array([each[0] if len(each) == 1 else None for each in species], text),
        "split": pa.array([split] * len(rows), text),
        "scientific_names": pa.array([[each for each in row if each] for row in species], pa.list_(text)),
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


def _with_codes_for_numbers(rows: pa.Table, column: str) -> pa.Table:
    """Codes in place of class numbers, where the table's schema says which class has which."""
    about = json.loads((rows.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = about.get("info", {}).get("features", {}).get(column) or {}
    while "feature" in feature:  # of a list, that of its items
        feature = feature["feature"]
    classes = feature.get("names")
    if not classes or column not in rows.column_names:
        return rows

    def named(value: Any) -> Any:
        return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value

    values = [[named(v) for v in each] if isinstance(each, list) else named(each) for each in rows[column].to_pylist()]
    return rows.set_column(rows.column_names.index(column), column, pa.array(values))


def _ids(names: list[str], split: str) -> list[str]:
    """The file's name; where one has many calls or segments, with their number in the table's order."""
    if split == "train":
        return [f"train/{name}" for name in names]
    seen: Counter[str] = Counter()
    ids = []
    for name in names:
        ids.append(f"{split}/{name}#{seen[name]}")
        seen[name] += 1
    return ids


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
