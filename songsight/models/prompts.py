"""The texts about a species that a teacher is asked for.

The string text types are those BioCLIP was trained on (arXiv 2311.18803, section 3.2, and the BioCLIP-2 model card):
no prefix such as "a photo of"; where a species has no common name the `_com` types fall back to the bare name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from songsight.store.tables import RANKS

TEXT_TYPES = ("sci", "com", "taxon", "sci_com", "taxon_com", "caption")
"""scientific, common, taxonomic, and the first two with the common name; `caption` draws one of a row's captions."""


def scientific(row: Mapping[str, Any]) -> str:
    """`Genus epithet`, as the row gives it."""
    return row["scientific_name"]


def taxonomic(row: Mapping[str, Any]) -> str:
    """`Kingdom Phylum Class Order Family Genus epithet`: the ranks that are known, from the root down.

    A row without genus and epithet takes both from its scientific name.
    """
    known = {rank: row.get(rank) for rank in RANKS}
    genus, _, epithet = row["scientific_name"].partition(" ")
    known["genus"] = known["genus"] or genus
    known["species"] = (known["species"] or epithet).removeprefix(f"{known['genus']} ")  # some tables repeat the genus
    return " ".join(name for rank in RANKS if (name := known[rank]))


def text(row: Mapping[str, Any], text_type: str) -> str:
    """One text about a row's species.

    Args:
        row: has `scientific_name`; `common_name` and the ranks where known.
        text_type: one of `TEXT_TYPES` other than `caption`.

    Raises:
        ValueError: an unknown text type.
    """
    common = (row.get("common_name") or "").strip()
    match text_type:
        case "sci":
            return scientific(row)
        case "com":
            return common or scientific(row)
        case "taxon":
            return taxonomic(row)
        case "sci_com":
            return f"{scientific(row)} with common name {common}" if common else scientific(row)
        case "taxon_com":
            return f"{taxonomic(row)} with common name {common}" if common else taxonomic(row)
    raise ValueError(f"unknown text type {text_type!r} (known: {', '.join(TEXT_TYPES)})")


def texts(row: Mapping[str, Any], text_type: str) -> list[str]:
    """Every text that a draw of this type can give for a row: one, or each caption (none: the scientific name)."""
    if text_type != "caption":
        return [text(row, text_type)]
    return [caption for caption in row.get("captions") or [] if caption] or [scientific(row)]
