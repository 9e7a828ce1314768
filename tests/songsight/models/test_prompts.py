from __future__ import annotations

import pytest

from songsight.models import prompts

BLACKBIRD = {
    "scientific_name": "Turdus merula",
    "common_name": "Eurasian Blackbird",
    "kingdom": "Animalia",
    "phylum": "Chordata",
    "class": "Aves",
    "order": "Passeriformes",
    "family": "Turdidae",
    "genus": "Turdus",
    "species": "merula",
}
TAXON = "Animalia Chordata Aves Passeriformes Turdidae Turdus merula"


@pytest.mark.parametrize(
    ("text_type", "expected"),
    [
        ("sci", "Turdus merula"),
        ("com", "Eurasian Blackbird"),
        ("taxon", TAXON),
        ("sci_com", "Turdus merula with common name Eurasian Blackbird"),
        ("taxon_com", f"{TAXON} with common name Eurasian Blackbird"),
    ],
)
def test_texts_are_those_of_bioclip(text_type: str, expected: str) -> None:
    assert prompts.text(BLACKBIRD, text_type) == expected


def test_without_a_common_name_the_bare_name_stands() -> None:
    row = BLACKBIRD | {"common_name": None}
    found = [prompts.text(row, kind) for kind in ("com", "sci_com", "taxon_com")]
    assert found == ["Turdus merula", "Turdus merula", TAXON]


def test_unknown_ranks_are_left_out_and_names_filled_in() -> None:
    assert prompts.taxonomic({"scientific_name": "Turdus merula", "order": "Passeriformes"}) == (
        "Passeriformes Turdus merula"
    )


def test_captions_fall_back_to_the_name() -> None:
    assert prompts.texts(BLACKBIRD | {"captions": ["a flute", ""]}, "caption") == ["a flute"]
    assert prompts.texts(BLACKBIRD | {"captions": None}, "caption") == ["Turdus merula"]


def test_an_unknown_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown text type 'latin'"):
        prompts.text(BLACKBIRD, "latin")


def test_what_tables_of_others_write_otherwise() -> None:
    repeated = BLACKBIRD | {"species": "Turdus merula", "common_name": " "}
    assert [prompts.text(repeated, kind) for kind in ("taxon", "taxon_com", "com")] == [TAXON, TAXON, "Turdus merula"]
