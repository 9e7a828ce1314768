from __future__ import annotations

import numpy as np
import pytest

from inference.match import codes
from inference.match.matching import Matcher
from songsight import metrics
from tests.inference.match.test_matching import gallery


def unit(seed: int, *shape: int) -> np.ndarray:
    return metrics.unit(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("width", [8, 13, 768])
def test_a_code_holds_the_signs(width: int) -> None:
    vectors = unit(0, 5, width)
    packed, cosine = codes.encode(vectors)
    assert packed.shape == (5, -(-width // 8))
    restored = codes.decode(packed, cosine, width)
    np.testing.assert_array_equal(restored >= 0, vectors >= 0)
    np.testing.assert_allclose(np.sum(restored * vectors, axis=1), 1, rtol=1e-5)  # exact along the vector itself
    np.testing.assert_allclose(np.linalg.norm(restored, axis=1), 1 / cosine, rtol=1e-5)


def test_products_with_codes_estimate_cosines_without_bias() -> None:
    vectors, others = unit(0, 400, 768), unit(1, 400, 768)
    near = metrics.unit(vectors + 0.7 * others)  # at cosines about 0.8
    restored = codes.decode(*codes.encode(vectors), 768)
    error = np.sum(restored * near, axis=1) - np.sum(vectors * near, axis=1)
    assert abs(error.mean()) < 0.003
    # Uniformly random directions lie √(2/π) = 0.80 from their signs: b beside x is 0.75 as long as x.
    assert error.std() == pytest.approx(0.6 * 0.75 / np.sqrt(767), rel=0.15)


def test_what_is_kept_equals_a_count_by_hand() -> None:
    shown = gallery(list("aabbccddee"), 32)
    vectors = unit(3, 40, 32)
    found = codes.kept(vectors, Matcher(shown, 1), k=3)
    restored = codes.decode(*codes.encode(vectors), 32)
    species = images = 0
    for exact, coded in zip(vectors @ shown.vectors.T, restored @ shown.vectors.T, strict=True):
        species += shown.species[exact.argmax()] == shown.species[coded.argmax()]
        images += len(set(np.argsort(-exact)[:3]) & set(np.argsort(-coded)[:3]))
    assert found == codes.Kept(40, species, images, 120)
    assert 0.2 < found.shares()["recall_of_images"] < 1
    assert (found + found).shares()["same_best_species"] == species / 40


def test_more_photographs_than_there_are_is_all_of_them() -> None:
    found = codes.kept(unit(0, 4, 8), Matcher(gallery(list("abc"), 8), 1))
    assert found.shares()["recall_of_images"] == 1


def test_nothing_compared_is_no_number() -> None:
    assert codes.NONE_KEPT.shares() == {"windows": 0, "same_best_species": None, "recall_of_images": None}
