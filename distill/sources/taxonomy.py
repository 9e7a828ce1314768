"""Species' names and ranks, joined to rows that lack them.

A taxonomy is any CSV or Parquet table with `scientific_name` and, where known, `common_name`, the ranks of
`tables.RANKS` and eBird's `species_code`. The eBird/Clements checklist's own column names are understood
(SCI_NAME, PRIMARY_COM_NAME, SPECIES_CODE, ORDER, FAMILY; https://ebird.org/science/use-ebird-data/the-ebird-taxonomy).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from distill import tables
from distill.sources import files

_ALIASES = {
    "sci_name": "scientific_name",
    "primary_com_name": "common_name",
    "order1": "order",
    "specific_epithet": "species",
}
_NAMES = ("scientific_name", "common_name", *tables.RANKS)

_GLOSS = re.compile(r"\s*\(.*\)\s*$")


def without_gloss(name: str) -> str:
    """A name without the English one in brackets behind it: `Anatidae (Ducks, …)`, as eBird writes, is `Anatidae`."""
    return _GLOSS.sub("", name)


def name_key(name: str) -> str:
    """Letters only, so that `Townsends_Warbler` is `Townsend's Warbler` and `Night-Heron` is `Night Heron`."""
    return re.sub(r"[\W\d_]", "", name).casefold()


@dataclass
class Taxonomy:
    """Rows of names and ranks by scientific name, common name and species code."""

    by_scientific: dict[str, dict[str, str]] = field(default_factory=dict)
    by_common: dict[str, dict[str, str]] = field(default_factory=dict)
    by_code: dict[str, dict[str, str]] = field(default_factory=dict)


def read(url: str) -> Taxonomy:
    """Reads a taxonomy; where a species has several rows, the first known value of each column counts.

    Raises:
        UserError: no such file, or no column with scientific names.
    """
    folder = files.Folder(url)
    rows = files.read_rows(folder.open(folder.table or ""))
    lower = [name.lower() for name in rows.column_names]
    renamed = [_ALIASES[name] if name in _ALIASES and _ALIASES[name] not in lower else name for name in lower]
    files.require(url, renamed, ["scientific_name"])
    rows = rows.rename_columns(renamed)

    taxonomy = Taxonomy()
    present = [name for name in (*_NAMES, "species_code") if name in renamed]
    # By position: in lower case two columns may have come to share a name, of which the first counts.
    for row in rows.select([renamed.index(name) for name in present]).to_pylist():
        if not row["scientific_name"]:
            continue
        known = {name: without_gloss(str(value)) for name, value in row.items() if value is not None}
        entry = taxonomy.by_scientific.setdefault(name_key(row["scientific_name"]), {})
        for name, value in known.items():
            entry.setdefault(name, value)
        if "common_name" in known:
            taxonomy.by_common.setdefault(name_key(known["common_name"]), entry)
        if "species_code" in known:
            taxonomy.by_code.setdefault(known["species_code"], entry)
    return taxonomy


def fill(table: pa.Table, taxonomy: Taxonomy | None) -> tuple[pa.Table, list[str]]:
    """Fills the names and ranks that rows lack; what a data set says itself is kept.

    A row with no scientific name takes it by its common name. Genus and epithet, if nothing else gives them, are taken
    from the scientific name. An epithet that repeats its genus (`species` = "Turdus merula") loses it.

    Returns:
        The table, and the names that the taxonomy does not have, sorted.
    """
    columns: dict[str, list[Any]] = {name: files.values(table, name) for name in _NAMES}
    unknown: set[str] = set()
    look_up = _looker(taxonomy) if taxonomy else None
    for index in range(len(table)):
        row = {name: column[index] for name, column in columns.items()}
        if look_up and (row["scientific_name"] or row["common_name"]):
            entry = look_up(row)
            if entry is None:
                unknown.add(row["scientific_name"] or row["common_name"])
            else:
                row = {name: value or entry.get(name) for name, value in row.items()}
        _from_binomial(row)
        for name, value in row.items():
            columns[name][index] = value
    for name, column in columns.items():
        array = pa.array(column, pa.string())
        position = table.column_names.index(name) if name in table.column_names else -1
        table = table.append_column(name, array) if position < 0 else table.set_column(position, name, array)
    return table, sorted(unknown)


def _looker(taxonomy: Taxonomy) -> Callable[[dict[str, Any]], dict[str, str] | None]:
    def look_up(row: dict[str, Any]) -> dict[str, str] | None:
        if row["scientific_name"]:
            return taxonomy.by_scientific.get(name_key(row["scientific_name"]))
        return taxonomy.by_common.get(name_key(row["common_name"]))

    return look_up


def _from_binomial(row: dict[str, Any]) -> None:
    genus, _, epithet = (row["scientific_name"] or "").partition(" ")
    if epithet:
        row["genus"] = row["genus"] or genus
        row["species"] = row["species"] or epithet
    if row["genus"] and row["species"]:
        row["species"] = row["species"].removeprefix(row["genus"] + " ")
