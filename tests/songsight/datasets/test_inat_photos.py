"""iNaturalist's open data: photographs chosen from four large files."""

import gzip
from pathlib import Path
from typing import Any

import fsspec
import pytest

from songsight.datasets import files, inat_photos
from songsight.errors import UserError
from songsight.store.tables import RANKS
from tests.songsight.datasets import layouts

ROBIN = ["Turdus migratorius"]


def read(root: Path | str, **options: Any) -> list[dict[str, Any]]:
    return inat_photos.read(files.Folder(str(root)), **options).to_pylist()


def test_a_species_and_its_subspecies_with_credits_and_ranks(tmp_path: Path) -> None:
    rows = read(layouts.inat_photos(tmp_path), species_list=ROBIN)
    # Research grade alone; the two observations' first photographs come before their second ones.
    assert {row["image_id"] for row in rows[:2]} == {"100", "102"}
    assert {row["image_id"] for row in rows[2:]} == {"101", "103"}
    by_id = {row["image_id"]: row for row in rows}
    assert by_id["101"]["path"] == "s3://inaturalist-open-data/photos/101/medium.jpeg"
    assert by_id["100"]["rights_holder"] == 'Ada "the" Lark'
    assert by_id["102"]["rights_holder"] == "bo"  # no name, so the login
    assert by_id["102"]["source"] == "https://www.inaturalist.org/observations/obs-b"
    assert by_id["102"]["license"] == "CC0"
    for row in rows:
        assert row["scientific_name"] == "Turdus migratorius"
        ranks = ["Animalia", "Chordata", "Aves", "Passeriformes", "Turdidae", "Turdus"]
        assert [row[rank] for rank in RANKS[:-1]] == ranks


def test_licenses_grades_and_the_number_a_species(tmp_path: Path) -> None:
    root = layouts.inat_photos(tmp_path)

    def ids(**options: Any) -> set[str]:
        return {row["image_id"] for row in read(root, **options)}

    assert ids(species_list=ROBIN, licenses=["cc0"]) == {"102"}
    assert ids(species_list=ROBIN, licenses=["CC0"], quality_grade="any") == {"102", "104"}
    assert ids(species_list=ROBIN, quality_grade="needs_id") == {"104"}
    assert ids(species_list=[*ROBIN, "Turdus merula", "Nemo nemo"], per_species=1) in ({"100", "105"}, {"102", "105"})
    assert read(root, species_list=ROBIN, per_species=2) == read(root, species_list=ROBIN, per_species=2)


def test_another_filesystem_is_streamed() -> None:
    fs = fsspec.filesystem("memory")
    for name in layouts.INAT_FILES:
        fs.pipe_file(f"/songsight-inat/{name}.csv.gz", layouts.inat_bytes(name))
    rows = read("memory://songsight-inat", species_list=["Turdus merula"])
    assert [row["image_id"] for row in rows] == ["105"]


def test_faults(tmp_path: Path) -> None:
    root = layouts.inat_photos(tmp_path)
    with pytest.raises(UserError, match="no photographs of these species"):
        read(root, species_list=["Nemo nemo"])
    with pytest.raises(UserError, match="--species-list"):
        read(root)
    (root / "observers.csv.gz").unlink()
    with pytest.raises(UserError, match=r"no observers.csv.gz"):
        read(root, species_list=ROBIN)
    (root / "observers.csv.gz").write_bytes(layouts.inat_bytes("taxa"))
    with pytest.raises(UserError, match="no column 'observer_id', 'login'"):
        read(root, species_list=ROBIN)
    (root / "observers.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"observers.csv.gz is not a gzipped table"):
        read(root, species_list=ROBIN)


def test_a_download_that_broke_off_is_no_smaller_data_set(tmp_path: Path) -> None:
    root = layouts.inat_photos(tmp_path)
    rows = [layouts.INAT_FILES["photos"][0]] + [
        (f"v{number}", str(1000 + number), "obs-a", "5", "jpg", f"CC-BY-{number * 7919}", "8", "6", "0")
        for number in range(20_000)
    ]
    whole = gzip.compress("".join("\t".join(row) + "\n" for row in rows).encode())
    (root / "photos.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"photos"):
        read(root, species_list=ROBIN)
