from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inference.match.ranges import Ranges, week_of
from songsight.errors import UserError
from songsight.store import tables

MAY, DECEMBER = datetime(2024, 5, 14, tzinfo=UTC), datetime(2024, 12, 31)
NAMES = ["Aus aus", "Bus bus", "Cus cus"]


def table(folder: Path, rows: list[tuple], columns: str) -> str:
    url = str(folder / "range.parquet")
    tables.write_table(url, pa.Table.from_pylist([dict(zip(columns.split(), row, strict=True)) for row in rows]))
    return url


@pytest.fixture
def ranges(tmp_path: Path) -> Ranges:
    """Two cells of 0.5 × 1 degree; Cus cus is in no row, Dus dus in no run."""
    rows = [
        ("Aus aus", 50.25, 8.5, 18, 0.8),
        ("Aus aus", 50.75, 8.5, 18, 0.1),
        ("Aus aus", 50.75, 9.5, 48, 0.5),
        ("Bus bus", 50.25, 9.5, 18, 1.0),
        ("Dus dus", 50.25, 9.5, 18, 1.0),
    ]
    return Ranges(table(tmp_path, rows, "scientific_name latitude longitude week weight"), NAMES)


@pytest.mark.parametrize(
    ("day", "week"), [((1, 1), 1), ((1, 7), 1), ((1, 8), 2), ((1, 22), 4), ((1, 31), 4), ((2, 1), 5), ((12, 31), 48)]
)
def test_weeks_are_four_to_a_month(day: tuple[int, int], week: int) -> None:
    assert week_of(datetime(2024, *day)) == week


def test_place_and_season_choose_the_row(ranges: Ranges) -> None:
    assert ranges.weights(50.3, 8.1, MAY).tolist() == pytest.approx([0.8, 0, 1])
    assert ranges.weights(50.9, 8.9, MAY).tolist() == pytest.approx([0.1, 0, 1])
    assert ranges.weights(50.25, 9.5, MAY).tolist() == pytest.approx([0, 1, 1])
    assert ranges.weights(50.9, 9.9, DECEMBER).tolist() == pytest.approx([0.5, 0, 1])


def test_what_is_not_known_of_a_recording_does_not_narrow(ranges: Ranges) -> None:
    assert ranges.weights(None, None, MAY).tolist() == pytest.approx([0.8, 1, 1])
    assert ranges.weights(50.9, 9.9, None).tolist() == pytest.approx([0.5, 0, 1])
    assert ranges.weights(None, None, None).tolist() == pytest.approx([0.8, 1, 1])
    assert ranges.cell(-12, -70) is None
    assert ranges.weights(-12, -70, MAY).tolist() == pytest.approx([0.8, 1, 1])


def test_the_prior_is_bayes_rule_for_the_softmax(ranges: Ranges) -> None:
    scores = np.array([0.6, 0.62, 0.58])
    added = ranges.added([(50.3, 8.1, MAY), (50.9, 8.9, MAY)], temperature=0.05)
    assert added.dtype == np.float32
    assert np.isneginf(added[:, 1]).all()
    for row, weights in zip(added, ([0.8, 0, 1], [0.1, 0, 1]), strict=True):
        with np.errstate(divide="ignore"):
            posterior = np.exp((scores + row) / 0.05)
        expected = np.exp(scores / 0.05) * weights
        np.testing.assert_allclose(posterior / posterior.sum(), expected / expected.sum(), rtol=1e-4)


def test_months_and_a_table_without_places_or_seasons(tmp_path: Path) -> None:
    by_month = Ranges(table(tmp_path, [("Aus aus", 5, 0.5)], "scientific_name month weight"), NAMES)
    assert [by_month.weights(1, 2, when)[0] for when in (MAY, datetime(2024, 5, 31), DECEMBER)] == [0.5, 0.5, 0]
    always = Ranges(table(tmp_path, [("Aus aus", 0.5)], "scientific_name weight"), NAMES)
    assert always.weights(None, None, MAY).tolist() == [0.5, 1, 1]


def test_the_date_line_is_no_edge(tmp_path: Path) -> None:
    rows = [("Aus aus", 0.5, 179.5, 1.0), ("Aus aus", 0.5, -179.5, 0.5), ("Aus aus", 0.5, 178.5, 0.1)]
    found = Ranges(table(tmp_path, rows, "scientific_name latitude longitude weight"), NAMES)
    assert found.cells_C2 is not None
    assert found.cells_C2[found.cell(0.4, -179.2)].tolist() == [0.5, -179.5]
    assert abs(found.cells_C2[found.cell(0.4, -180)][1]) == 179.5


def test_the_grid_is_that_of_the_whole_table(tmp_path: Path) -> None:
    rows = [("Zus zus", 50.0 + 0.25 * step, 8.0, 1.0) for step in range(4)] + [("Aus aus", 50.0, 8.0, 0.5)]
    url = table(tmp_path, rows, "scientific_name latitude longitude weight")
    assert Ranges(url, ()).cell(50.7, 8.2) is not None
    assert Ranges(url, NAMES).weights(50.7, 8.2, MAY).tolist() == [0, 1, 1]
    assert Ranges(url, NAMES).weights(50.1, 8.2, MAY).tolist() == [0.5, 1, 1]


def test_bad_tables_are_named(tmp_path: Path) -> None:
    for rows, columns, message in (
        ([("Aus aus", 1.5)], "scientific_name weight", "weight should be from 0 to 1"),
        ([("Aus aus", None)], "scientific_name weight", "weight should be"),
        ([("Aus aus", "x")], "scientific_name weight", "weight should be numbers .*; Parquet"),
        ([("Aus aus", 49, 1.0)], "scientific_name week weight", "week should be from 1 to 48"),
        ([("Aus aus", 1.0, 1.0)], "scientific_name latitude weight", "both latitude and longitude"),
        ([("Aus aus",)], "scientific_name", "no column 'weight'"),
    ):
        with pytest.raises(UserError, match=message):
            Ranges(table(tmp_path, rows, columns), NAMES)
    with pytest.raises(UserError, match="--range: no such file"):
        Ranges("/no/range.csv", NAMES)
