"""From windows' vectors to the species of their hits: the bridge, then the match, by the options of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from inference.match import gallery as galleries
from inference.match.bridge import DEFAULT_TEMPERATURE, bridged
from inference.match.calibration import Calibration, probability
from inference.match.gallery import Gallery
from inference.match.matching import Matcher, Matches, Score
from inference.match.ranges import Ranges
from inference.match.zero_shot import NameMatcher
from songsight.models.encoder import Method


@dataclass(frozen=True)
class Scoring:
    """How species are scored.

    Attributes:
        score: see `matching.Score`.
        bridge: weight of the species' texts, see `bridge`.
        temperature: of the model's softmax over texts.
        method: whether windows are matched with photographs, or with a ClapModel's names.
        names: URL of those names, see `zero_shot.names_table`.
        calibration: of the scores, where there is one.
        min_probability: lowest one of a hit, where there is a calibration.
        range: URL of a range table, where there is one.
        place: latitude and longitude of recordings that do not say their own.
    """

    score: Score = "max"
    bridge: float = 0.0
    temperature: float = DEFAULT_TEMPERATURE
    method: Method = "distilled"
    names: str | None = None
    calibration: Calibration | None = None
    min_probability: float = 0.0
    range: str | None = None
    place: tuple[float | None, float | None] = (None, None)


class Scorer:
    """Scores windows against a gallery.

    Args:
        gallery: the photographs that may be hit; its texts are the bridge's bank, those of species without a photograph
            left included.
        top_k: species to keep for each window.
        scoring: how.
    """

    def __init__(self, gallery: Gallery, top_k: int, scoring: Scoring) -> None:
        self.scoring = scoring
        named, self.names_SD = gallery.names, gallery.name_vectors
        if scoring.method == "zero-shot":
            assert scoring.names is not None
            named, vectors_SD = galleries.read_vectors(scoring.names, "names")
            species = named["scientific_name"].to_pylist()
            self.matcher: Matcher | NameMatcher = NameMatcher(gallery, species, vectors_SD, top_k)
        else:
            self.matcher = Matcher(gallery, top_k, score=scoring.score)
        self.species = self.matcher.species
        self.common_names: dict[str, str | None] = dict(
            zip(named["scientific_name"].to_pylist(), named["common_name"].to_pylist(), strict=True)
        )

        self.ranges = Ranges(scoring.range, [str(name) for name in self.species]) if scoring.range else None
        self.lines_S2 = scoring.calibration.lines([str(name) for name in self.species]) if scoring.calibration else None

    def probabilities(self, found: Matches) -> np.ndarray | None:
        """The probability of each match, float64 [windows, k]; None without a calibration."""
        if self.lines_S2 is None:
            return None
        return probability(self.lines_S2[found.species], found.scores)

    def match(self, vectors_BD: np.ndarray, facts_B: Sequence[Mapping[str, Any]], starts_B: Sequence[float]) -> Matches:
        """The best species of each window.

        Args:
            vectors_BD: as the model gives them, float32 [windows, width].
            facts_B: what is known of each window's recording: `start_utc` or `start_local`, `latitude`, `longitude`.
            starts_B: seconds of each window in its recording.
        """
        how = self.scoring
        added_BS = None
        if self.ranges is not None:
            places = [self._place(fact, start_s) for fact, start_s in zip(facts_B, starts_B, strict=True)]
            added_BS = self.ranges.added(places, how.temperature)
        if how.method == "zero-shot":
            return self.matcher.match(vectors_BD, added_BS)
        return self.matcher.match(bridged(vectors_BD, self.names_SD, how.bridge, how.temperature), added_BS)

    def _place(self, fact: Mapping[str, Any], start_s: float) -> tuple[float | None, float | None, datetime | None]:
        latitude, longitude = fact.get("latitude"), fact.get("longitude")
        if latitude is None or longitude is None:
            latitude, longitude = self.scoring.place
        begin: datetime | None = fact.get("start_utc") or fact.get("start_local")
        return latitude, longitude, begin + timedelta(seconds=start_s) if begin else None
