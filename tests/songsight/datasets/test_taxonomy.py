"""Names and ranks, joined to rows that lack them."""

from pathlib import Path

import pyarrow as pa
import pytest

from songsight.datasets import taxonomy
from songsight.errors import UserError
from songsight.store import tables
from tests.songsight.datasets import layouts


def test_ebirds_checklist_gives_names_and_ranks(tmp_path: Path) -> None:
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    rows = {
        "scientific_name": ["Turdus migratorius", None, None, "Parus major", None, "Parus major"],
        "common_name": [None, "Townsends Warbler", "dark eyed junco", None, None, None],
    }
    table, unknown = taxonomy.fill(pa.table(rows), taxa)
    filled = table.to_pylist()
    assert [row["scientific_name"] for row in filled[:3]] == [
        "Turdus migratorius",
        "Setophaga townsendi",
        "Junco hyemalis",
    ]
    assert filled[0]["common_name"] == "American Robin"
    assert (filled[0]["family"], filled[0]["order"]) == ("Turdidae", "Passeriformes")
    assert (filled[1]["genus"], filled[1]["species"]) == ("Setophaga", "townsendi")
    assert filled[0]["kingdom"] is None
    assert unknown == {"Parus major": 2}
    assert filled[4]["scientific_name"] is None


def test_what_a_row_says_itself_is_kept(tmp_path: Path) -> None:
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    row = {"scientific_name": ["Turdus migratorius"], "common_name": ["Robin"], "family": ["Muscicapidae"]}
    table, _ = taxonomy.fill(pa.table(row), taxa)
    assert table.to_pylist()[0] | {"order": None} == table.to_pylist()[0] | {
        "common_name": "Robin",
        "family": "Muscicapidae",
        "order": None,
    }


def test_epithet_without_a_taxonomy() -> None:
    rows = {
        "scientific_name": ["Turdus merula", "Turdus", "Junco hyemalis oreganus"],
        "species": ["Turdus merula", None, None],
    }
    table, unknown = taxonomy.fill(pa.table(rows), None)
    assert unknown == {}
    assert table["genus"].to_pylist() == ["Turdus", None, "Junco"]
    assert table["species"].to_pylist() == ["merula", None, "hyemalis"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Junco hyemalis", ("Junco", "hyemalis")),
        ("Junco hyemalis oreganus", ("Junco", "hyemalis")),
        ("Junco hyemalis (Linnaeus, 1758)", ("Junco", "hyemalis")),
        ("junco hyemalis", ("junco", "hyemalis")),
        ("Anas platyrhynchos x rubripes", None),
        ("Anas platyrhynchos × rubripes", None),
        ("Anas platyrhynchos/rubripes", None),
        ("Empidonax sp.", None),
        ("Empidonax spp", None),
        ("Turdus cf. merula", None),
        ("Junco", None),
    ],
)
def test_binomials(name: str, found: tuple[str, str] | None) -> None:
    assert taxonomy.binomial(name) == found


def test_a_subspecies_has_its_species_ranks(tmp_path: Path) -> None:
    taxa = taxonomy.read(str(layouts.ebird(tmp_path / "ebird.csv")))
    names = ["Junco hyemalis oreganus", "Junco hyemalis x Zonotrichia albicollis", "Junco sp."]
    table, unknown = taxonomy.fill(pa.table({"scientific_name": names}), taxa)
    first, cross, open_name = table.to_pylist()
    assert first["scientific_name"] == "Junco hyemalis oreganus"
    assert [first[name] for name in ("common_name", "family", "genus", "species")] == [
        *("Dark-eyed Junco", "Passerellidae", "Junco", "hyemalis")
    ]
    assert [(row["genus"], row["species"], row["family"]) for row in (cross, open_name)] == [("Junco", None, None)] * 2
    assert unknown == dict.fromkeys(names[1:], 1)


def test_inaturalists_own_taxonomies(tmp_path: Path) -> None:
    ranks = {"kingdom": "Animalia", "phylum": "Chordata", "class": "Aves", "order": "Passeriformes"}
    ranks |= {"family": "Turdidae", "genus": "Turdus"}
    darwin_core = {"id": 12, "scientificName": "Turdus migratorius", "taxonRank": "species"} | ranks
    layouts.table(tmp_path / "taxa.csv", [darwin_core | {"specificEpithet": "migratorius"}])
    layouts.inat_photos(tmp_path / "open_data")
    for url in (tmp_path / "taxa.csv", tmp_path / "open_data" / "taxa.csv.gz"):
        taxa = taxonomy.read(str(url))
        names = ["Turdus migratorius", "Turdus migratorius propinquus", "Nemo nemo"]
        table, unknown = taxonomy.fill(pa.table({"scientific_name": names}), taxa)
        assert unknown == {"Nemo nemo": 1}
        for row in table.to_pylist()[:2]:
            assert {rank: row[rank] for rank in tables.RANKS} == ranks | {"species": "migratorius"}


def test_several_rows_of_a_species_complete_each_other(tmp_path: Path) -> None:
    rows = [
        {"scientific_name": "Turdus merula", "family": "", "order": "Passeriformes"},
        {"scientific_name": "Turdus merula", "family": "Turdidae", "order": "Other"},
    ]
    taxa = taxonomy.read(str(layouts.table(tmp_path / "t.csv", rows)))
    table, _ = taxonomy.fill(pa.table({"scientific_name": ["turdus merula"]}), taxa)
    row = table.to_pylist()[0]
    assert (row["family"], row["order"]) == ("Turdidae", "Passeriformes")
    assert row["scientific_name"] == "turdus merula"


def test_a_table_without_scientific_names_is_refused(tmp_path: Path) -> None:
    path = layouts.table(tmp_path / "t.csv", [{"name": "x", "family": "y"}])
    with pytest.raises(UserError, match=r"has no column 'scientific_name' \(it has name, family\)"):
        taxonomy.read(str(path))
    with pytest.raises(UserError, match="no such file"):
        taxonomy.read(str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="a taxonomy should be a CSV or Parquet file"):
        taxonomy.read(str(tmp_path))
