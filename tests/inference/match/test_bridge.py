from __future__ import annotations

import numpy as np
import pytest

from inference.match.bridge import bridged
from songsight import metrics


def unit(seed: int, *shape: int) -> np.ndarray:
    return metrics.unit(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_without_weight_nothing_moves() -> None:
    queries = unit(0, 5, 8)
    np.testing.assert_array_equal(bridged(queries, unit(1, 3, 8), 0, 0.1), queries)


def test_with_all_weight_and_a_cold_softmax_the_query_is_its_nearest_text() -> None:
    queries, names = unit(0, 20, 8), unit(1, 6, 8)
    np.testing.assert_allclose(
        bridged(queries, names, 1, 1e-4), names[(queries @ names.T).argmax(axis=1)], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.75, 1.0])
def test_equals_the_formula_one_by_one(weight: float) -> None:
    queries, names = unit(0, 7, 8), unit(1, 4, 8)
    for query, found in zip(queries, bridged(queries, names, weight, 0.2), strict=True):
        shares = [np.exp(query @ name / 0.2) for name in names]
        named = sum(share * name for share, name in zip(shares, names, strict=True)) / sum(shares)
        named /= np.linalg.norm(named)
        drawn = (1 - weight) * query + weight * named
        np.testing.assert_allclose(found, drawn / np.linalg.norm(drawn), rtol=1e-4, atol=1e-5)
        assert found.dtype == np.float32


@pytest.mark.parametrize(("weight", "temperature"), [(-0.1, 1), (1.1, 1), (float("nan"), 1), (0.5, 0), (0.5, -1)])
def test_what_is_no_weight_or_temperature_is_refused(weight: float, temperature: float) -> None:
    with pytest.raises(ValueError, match="should be"):
        bridged(unit(0, 1, 8), unit(1, 2, 8), weight, temperature)


def test_a_bridge_without_piers_is_refused() -> None:
    with pytest.raises(ValueError, match="one species"):
        bridged(unit(0, 1, 8), np.zeros((0, 8), np.float32), 0.5, 1)
