from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from inference.match.gallery import Gallery
from inference.match.matching import Matcher, Score
from songsight import metrics

SPECIES = list("cabacbddaacbe")


def gallery(species: list[str], width: int = 6) -> Gallery:
    vectors = metrics.unit(np.random.default_rng(0).standard_normal((len(species), width))).astype(np.float32)
    images = pa.table({"image_id": [str(i) for i in range(len(species))], "scientific_name": species})
    return Gallery(
        {}, images, vectors, pa.table({"scientific_name": sorted(set(species))}), vectors[: len(set(species))]
    )


def windows(count: int = 20, width: int = 6) -> np.ndarray:
    return metrics.unit(np.random.default_rng(1).standard_normal((count, width))).astype(np.float32)


def brute_force(shown: Gallery, window: np.ndarray, score: Score) -> dict[str, float]:
    """Each species' score, photograph by photograph."""
    own = {name: shown.vectors[shown.species == name] for name in set(shown.species)}
    if score == "prototype":
        means = {name: rows.mean(axis=0) for name, rows in own.items()}
        return {name: float(mean @ window / np.linalg.norm(mean)) for name, mean in means.items()}
    most = 1 if score == "max" else 3
    return {name: float(np.mean(sorted(rows @ window)[-most:])) for name, rows in own.items()}


@pytest.mark.parametrize("top_k", [1, 3, 99])
@pytest.mark.parametrize("score", ["max", "mean-top-3", "prototype"])
def test_equals_brute_force(top_k: int, score: Score) -> None:
    shown = gallery(SPECIES)
    matcher = Matcher(shown, top_k, images_per_hit=2, score=score)
    found = matcher.match(windows())
    for w, window in enumerate(windows()):
        cosines = shown.vectors @ window
        best = brute_force(shown, window, score)
        expected = sorted(best, key=lambda name: -best[name])[:top_k]
        assert [str(matcher.species[s]) for s in found.species[w]] == expected
        np.testing.assert_allclose(found.scores[w], [best[name] for name in expected], rtol=1e-4, atol=1e-6)
        for k, name in enumerate(expected):
            rows = sorted((i for i, s in enumerate(SPECIES) if s == name), key=lambda i: -cosines[i])[:2]
            assert [row for row in found.images[w, k] if row >= 0] == rows
            np.testing.assert_allclose(found.image_scores[w, k, : len(rows)], cosines[rows], rtol=1e-5)
            assert np.isnan(found.image_scores[w, k, len(rows) :]).all()


def test_the_same_photograph_three_times_counts_three_times() -> None:
    shown = gallery(list("aaaabb"))
    shown.vectors[1:3] = shown.vectors[0]
    found = Matcher(shown, 1, score="mean-top-3").match(shown.vectors[:1])
    assert found.scores[0, 0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("score", ["max", "mean-top-3", "prototype"])
def test_what_is_added_decides_who_is_best(score: Score) -> None:
    matcher = Matcher(gallery(SPECIES), 2, score=score)
    plain = Matcher(gallery(SPECIES), 99, score=score).match(windows())
    added = np.full((20, 5), -np.inf, np.float32)
    added[:, 3] = -0.5  # d alone may be hit
    found = matcher.match(windows(), added)
    assert (found.species[:, 0] == 3).all()
    assert np.isneginf(found.scores[:, 1]).all()
    np.testing.assert_allclose(found.scores[:, 0], plain.scores[plain.species == 3] - 0.5, rtol=1e-4, atol=1e-6)
