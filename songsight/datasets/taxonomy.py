"""Species' names and ranks, joined to rows that lack them.

A taxonomy is any CSV or Parquet table with `scientific_name` and, where known, `common_name`, the ranks of
`tables.RANKS` and eBird's `species_code`. Understood as they are published:

    the eBird/Clements checklist   SCI_NAME, PRIMARY_COM_NAME, SPECIES_CODE, ORDER, FAMILY
                                   https://ebird.org/science/use-ebird-data/the-ebird-taxonomy
    Darwin Core, as iNaturalist    scientificName, vernacularName, kingdom, …, genus, specificEpithet
                                   https://www.inaturalist.org/pages/developers
    iNaturalist's open data        taxa.csv.gz: taxon_id, ancestry, rank, name, where ranks are other rows
                                   https://github.com/inaturalist/inaturalist-open-data
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from songsight.datasets import files
from songsight.errors import UserError
from songsight.store import sheets, tables

_ALIASES = {
    "sci_name": "scientific_name",
    "primary_com_name": "common_name",
    "order1": "order",
    "specific_epithet": "species",
    "specificepithet": "species",
    "scientificname": "scientific_name",
    "vernacularname": "common_name",
}
_NAMES = ("scientific_name", "common_name", *tables.RANKS)

_BY_ANCESTRY = ("taxon_id", "ancestry", "rank", "name")

# Genus and epithet of a species or subspecies; a cross, an aggregate or an open name ("sp.", "cf. merula") has none.
_BINOMIAL = re.compile(r"(\w[\w-]+) (?!spp?\b|cf\b|aff\b)([a-z][a-z-]+)(?![\w./-])(?! [x×] )")

_GLOSS = re.compile(r"\s*\(.*\)\s*$")


def without_gloss(name: str) -> str:
    """A name without the English one in brackets behind it: `Anatidae (Ducks, …)`, as eBird writes, is `Anatidae`."""
    return _GLOSS.sub("", name)


def binomial(name: str) -> tuple[str, str] | None:
    """Genus and epithet: of `Junco hyemalis oreganus` those of its species, of `Empidonax sp.` none."""
    found = _BINOMIAL.match(name)
    return (found.group(1), found.group(2)) if found else None


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
    if folder.table is None:
        raise UserError(f"a taxonomy should be a CSV or Parquet file (got the folder {url})")
    rows = files.read_rows(folder.open(folder.table), text=("taxon_id", "ancestry"))
    lower = [name.lower() for name in rows.column_names]
    by_ancestry = set(_BY_ANCESTRY) <= set(lower)
    entries = _by_ancestry(rows.rename_columns(lower)) if by_ancestry else _by_column(rows, lower, url)

    taxonomy = Taxonomy()
    for row in entries:
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


def _by_column(rows: pa.Table, lower: list[str], url: str) -> list[dict[str, Any]]:
    """The rows of a table with a column a rank."""
    renamed = [_ALIASES[name] if name in _ALIASES and _ALIASES[name] not in lower else name for name in lower]
    sheets.require(url, renamed, ["scientific_name"], sheets.seen(rows))
    present = [name for name in (*_NAMES, "species_code") if name in renamed]
    # By position: in lower case two columns may have come to share a name, of which the first counts.
    chosen = rows.rename_columns(renamed).select([renamed.index(name) for name in present])
    return chosen.to_pylist()


def _by_ancestry(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """The species of a table whose ranks are rows of their own, which `ancestry` lists from the root down."""
    ids, ranks, names = (rows[column].to_pylist() for column in ("taxon_id", "rank", "name"))
    above = {taxon: (rank, name) for taxon, rank, name in zip(ids, ranks, names, strict=True) if rank in tables.RANKS}
    for rank, name, ancestry in zip(ranks, names, rows["ancestry"].to_pylist(), strict=True):
        if rank == "species":
            lineage = dict(above[taxon] for taxon in (ancestry or "").split("/") if taxon in above)
            yield {"scientific_name": name} | lineage


def fill(table: pa.Table, taxonomy: Taxonomy | None) -> tuple[pa.Table, dict[str, int]]:
    """Fills the names and ranks that rows lack; what a data set says itself is kept.

    A row with no scientific name takes it by its common name, a subspecies that the taxonomy lacks has its species'
    common name and ranks. Genus and epithet, if nothing else gives them, are taken from the scientific name. An epithet
    that repeats its genus (`species` = "Turdus merula") loses it.

    Returns:
        The table, and the names that the taxonomy does not have, sorted, with their numbers of rows.
    """
    columns: dict[str, list[Any]] = {name: files.values(table, name) for name in _NAMES}
    unknown: Counter[str] = Counter()
    for index in range(len(table)):
        row = {name: column[index] for name, column in columns.items()}
        if taxonomy and (row["scientific_name"] or row["common_name"]):
            entry = _look_up(taxonomy, row)
            if entry is None:
                unknown[row["scientific_name"] or row["common_name"]] += 1
            else:
                row = {name: value or entry.get(name) for name, value in row.items()}
        _from_binomial(row)
        for name, value in row.items():
            columns[name][index] = value
    for name, column in columns.items():
        array = pa.array(column, pa.string())
        position = table.column_names.index(name) if name in table.column_names else -1
        table = table.append_column(name, array) if position < 0 else table.set_column(position, name, array)
    return table, dict(sorted(unknown.items()))


def _look_up(taxonomy: Taxonomy, row: dict[str, Any]) -> dict[str, str] | None:
    name = row["scientific_name"]
    if not name:
        return taxonomy.by_common.get(name_key(row["common_name"]))
    entry = taxonomy.by_scientific.get(name_key(name))
    species = binomial(name)
    return entry or (taxonomy.by_scientific.get(name_key("".join(species))) if species else None)


def _from_binomial(row: dict[str, Any]) -> None:
    genus, _, behind = (row["scientific_name"] or "").partition(" ")
    if behind:
        row["genus"] = row["genus"] or genus
        found = binomial(row["scientific_name"])
        row["species"] = row["species"] or (found[1] if found else None)
    if row["genus"] and row["species"]:
        row["species"] = row["species"].removeprefix(row["genus"] + " ")
