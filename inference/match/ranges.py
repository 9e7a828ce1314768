"""Where and when a species is to be expected: a table of weights by place and season, added to scores as a prior.

The table has scientific_name, weight (0 to 1) and, as it knows them, latitude and longitude (degrees, the middle of a
cell of a regular grid; a cell reaches half way to its neighbours) and week (1 to 48, four to a month as eBird and
BirdNET count them: days 1–7, 8–14, 15–21, 22–end) or month (1 to 12). Rows of weight 0 may be left out.

A window's score of a species becomes score + T · ln(weight), T the model's temperature: scores are what the model's
softmax over species takes, divided by T, so that this is Bayes' rule with the weights as prior. Weight 1 changes
nothing, weight 0 rules the species out. A species that the table names nowhere is left alone: nothing is known of it.
Where a recording's place or date is not known, or its place is in no cell, the highest weight over all of them counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from songsight.errors import UserError
from songsight.store import sheets, tables

WEEKS = 48
_ALL_YEAR = 0
_SINGLE_CELL_DEG = 1.0


def week_of(moment: datetime) -> int:
    """The week of a date, 1 to 48."""
    return (moment.month - 1) * 4 + min((moment.day - 1) // 7, 3) + 1


class Ranges:
    """A range table, for the species of one run.

    Args:
        url: Parquet or CSV.
        species: scientific names, in the order that weights are asked for.
        option: that gave it, for error lines.

    Raises:
        UserError: no such table, a column missing, or a value that is no place, week or weight.
    """

    def __init__(self, url: str, species: Sequence[str], option: str = "--range") -> None:
        table = tables.read_table(url, option, ("scientific_name", "weight"))
        names = set(table.column_names)
        if ("latitude" in names) != ("longitude" in names):
            raise UserError(f"{option}: {url} should have both latitude and longitude, or neither")
        number_of = {name: number for number, name in enumerate(species)}
        listed = table["scientific_name"].to_pylist()
        self.known_S = np.isin(np.array(list(species)), np.unique(np.array(listed, str)))
        keep = np.array([name in number_of for name in listed], bool)

        how = sheets.seen(table) or "Parquet"

        def column(name: str, least: float, most: float) -> np.ndarray:
            try:
                values = tables.numbers(table[name]).to_numpy()
            except (ValueError, NotImplementedError) as error:
                raise UserError(f"{option}: {url}: {name} should be numbers ({error}; {how})") from None
            if not ((values >= least) & (values <= most)).all():
                raise UserError(f"{option}: {url}: {name} should be from {least:g} to {most:g}")
            return values

        self.weight_R = column("weight", 0, 1)[keep].astype(np.float32)
        self.species_R = np.array([number_of[name] for name in listed if name in number_of], int)
        if "week" in names:
            self.first_R = self.last_R = column("week", 1, WEEKS)[keep].astype(int)
        elif "month" in names:
            month_R = column("month", 1, 12)[keep].astype(int)
            self.first_R, self.last_R = month_R * 4 - 3, month_R * 4
        else:
            self.first_R = self.last_R = np.zeros(len(self.weight_R), int)
        self.cells_C2 = None
        if "latitude" in names:
            # The grid is that of the whole table, whatever species the run has.
            places = np.stack([column("latitude", -90, 90), column("longitude", -180, 180)], axis=1)
            self.cells_C2, which = np.unique(places, axis=0, return_inverse=True)
            self.cell_R = which.reshape(-1)[keep]
            self.step_2 = np.array([_step(axis) for axis in self.cells_C2.T])
        self._asked: dict[tuple[int | None, int | None], np.ndarray] = {}

    def cell(self, latitude: float | None, longitude: float | None) -> int | None:
        """The row in `cells_C2` of the cell that a place is in; None where it is in none, or not known."""
        if self.cells_C2 is None or latitude is None or longitude is None:
            return None
        away_C2 = np.abs(self.cells_C2 - (latitude, longitude))
        away_C2[:, 1] = np.minimum(away_C2[:, 1], 360 - away_C2[:, 1])
        nearest = int((away_C2 / self.step_2).max(axis=1).argmin())
        return None if (away_C2[nearest] > self.step_2 / 2 + 1e-9).any() else nearest

    def weights(self, latitude: float | None, longitude: float | None, when: datetime | None) -> np.ndarray:
        """Each species' weight at a place and a time, float32 [species]."""
        key = (self.cell(latitude, longitude), week_of(when) if when else None)
        if key not in self._asked:
            cell, week = key
            rows = np.ones(len(self.weight_R), bool)
            if cell is not None:
                rows &= self.cell_R == cell
            if week is not None:
                rows &= (self.first_R == _ALL_YEAR) | ((self.first_R <= week) & (week <= self.last_R))
            weight_S = np.zeros(len(self.known_S), np.float32)
            np.maximum.at(weight_S, self.species_R[rows], self.weight_R[rows])
            self._asked[key] = np.where(self.known_S, weight_S, np.float32(1))
        return self._asked[key]

    def added(
        self, places: Sequence[tuple[float | None, float | None, datetime | None]], temperature: float
    ) -> np.ndarray:
        """What is added to scores, float32 [windows, species].

        Args:
            places: latitude, longitude and time of each window, None where not known.
            temperature: T above.
        """
        weight_BS = np.stack([self.weights(*place) for place in places])
        with np.errstate(divide="ignore"):
            return (temperature * np.log(weight_BS)).astype(np.float32)


def _step(values: np.ndarray) -> float:
    """The grid's step along an axis: the smallest difference of two places."""
    distinct = np.unique(np.round(values, 6))
    return float(np.diff(distinct).min()) if len(distinct) > 1 else _SINGLE_CELL_DEG
