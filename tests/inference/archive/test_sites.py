from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.annotate import publish
from inference.archive import sites
from songsight.errors import UserError
from songsight.store import tables


@pytest.mark.parametrize(
    ("rule", "path", "site"),
    [
        (None, "forest/north/a.wav", "forest/north"),
        (None, "a.wav", "archive"),
        ("1", "forest/north/a.wav", "forest"),
        ("2", "forest/north/a.wav", "north"),
        ("3", "forest/north/a.wav", "unknown"),
        (r"(SM\d+)_", "x/SM0012_20240514_053000.wav", "SM0012"),
        (r"_(\d+)/(?P<site>[a-z]+)", "card_3/oak/a.wav", "oak"),
        (r"SM\d+", "x/SM0012_2024.wav", "SM0012"),
        (r"(SM\d+)_", "x/20240514_053000.wav", "unknown"),
        (None, "/lead.wav", "archive"),
        (None, "oak//a.wav", "oak"),
        ("1", "/oak/a.wav", "oak"),
        ("2", "oak//north/a.wav", "north"),
        ("1", "007/a.wav", "site-007"),
        ("1", "2024-05-14/a.wav", "site-2024-05-14"),
        ("1", "1e5/a.wav", "site-1e5"),
        ("1", "2.5d/a.wav", "site-2.5d"),
        ("1", "NaN/a.wav", "site-NaN"),
        ("1", "12b/a.wav", "12b"),
    ],
)
def test_rules(rule: str | None, path: str, site: str) -> None:
    assert sites.SiteRule.parse(rule, "/data/archive/").of(path) == site


def test_a_rule_that_is_none() -> None:
    with pytest.raises(UserError, match="--site should be a folder level such as 1, or a regular expression"):
        sites.SiteRule.parse("(SM", "/data")


NAMES = [
    "north/plot 3",
    "Grünwald+x",
    "Лес",
    "all 100%",
    "a=b?",
    'quo"te*',
    "site-007",
    "unknown",
    "name#1",
    "[x]{y}",
    "a\\b",
]


def table_of(folder: Path, names: list[str], date: str) -> None:
    for number, name in enumerate(names):
        rows = [{"recording": f"{name}.wav", "start_s": float(number), "score": 0.5}]
        table = tables.conform(pa.Table.from_pylist(rows), tables.HITS).drop_columns("site")
        tables.write_table(str(folder / sites.partition(name, date) / "part-0001-000.parquet"), table)


@pytest.mark.parametrize("date", ["2024-05-14", "unknown"])
@pytest.mark.parametrize("names", [NAMES, ["site-007", "site-12"], ["site-2024-05-14"], ["unknown"]])
def test_readers_find_the_same_sites(tmp_path: Path, names: list[str], date: str) -> None:
    """As their users call them: no schema given."""
    assert all(sites.site_name(name) == name for name in names)
    folder = tmp_path / "hits"
    table_of(folder, names, date)
    expected = sorted((f"{name}.wav", name, date) for name in names)

    def rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
        return sorted(zip(frame["recording"], frame["site"], frame["date"].astype(str), strict=True))

    assert rows(pq.read_table(folder).to_pandas()) == expected
    assert rows(ds.dataset(folder, partitioning="hive").to_table().to_pandas()) == expected
    assert rows(pd.read_parquet(folder)) == expected
    found = duckdb.sql(f"select recording, site, date::varchar as date from read_parquet('{folder}/**/*.parquet')")
    assert sorted(found.fetchall()) == expected
    assert (
        sorted(
            publish.read_hits(str(tmp_path))
            .select(["recording", "site", "date"])
            .to_pandas()
            .itertuples(index=False, name=None)
        )
        == expected
    )
    one = ds.dataset(folder, partitioning="hive").to_table(filter=ds.field("site") == names[0])
    assert one["recording"].to_pylist() == [f"{names[0]}.wav"]


@settings(max_examples=300)
@given(st.text(max_size=300))
def test_any_name_is_a_folder(text: str) -> None:
    name = sites.site_name(text)
    assert name
    assert sites.site_name(name) == name
    folder = sites.folder_name(name)
    assert "/" not in folder
    assert len(folder.encode("utf-8", "surrogatepass")) <= 200
