from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import sklearn.linear_model

from inference.evaluation import baselines
from songsight import metrics


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    return metrics.unit(rng.standard_normal((rows, width))).astype(np.float32)


def test_a_text_mapping_finds_a_linear_map() -> None:
    """Where sounds lie on their texts and the two text spaces are a rotation apart, the mapping is that rotation."""
    rng = np.random.default_rng(0)
    base = unit(rng, 200, 12)
    rotation = np.linalg.qr(rng.standard_normal((12, 12)))[0].astype(np.float32)
    mapped = baselines.text_mapping(base, base, base @ rotation, ridge=1e-6)
    np.testing.assert_allclose(mapped, base @ rotation, atol=1e-3)


@pytest.mark.parametrize("kind", ["ridge", "orthogonal"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("width", [12, 20])
def test_each_text_mapping_finds_a_rotation(kind: str, centred: bool, width: int) -> None:
    """Into a space of the same width or a wider one."""
    rng = np.random.default_rng(4)
    base = unit(rng, 300, 12)
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0][:12].astype(np.float32)
    mapped = baselines.text_mapping(base, base, base @ rotation, 1e-6, kind, centred)  # type: ignore[arg-type]
    np.testing.assert_allclose(mapped, base @ rotation, atol=1e-3)


def test_the_orthogonal_mapping_is_scipys() -> None:
    rng = np.random.default_rng(5)
    base, teacher, sounds = unit(rng, 50, 6), unit(rng, 50, 6), unit(rng, 9, 6)
    expected = sounds @ scipy.linalg.orthogonal_procrustes(base, teacher)[0]
    ours = baselines.text_mapping(sounds, base, teacher, kind="orthogonal", centred=False)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("centred", [True, False])
def test_the_ridge_is_the_one_that_tells_left_out_species_best(centred: bool) -> None:
    """Each species' texts left out in turn and the map fitted anew, with every penalty."""
    rng = np.random.default_rng(8)
    species = rng.permutation(np.repeat(np.arange(9), [4] * 7 + [2, 1]))
    base = metrics.unit(rng.standard_normal((9, 6))[species] + 0.2 * rng.standard_normal((31, 6)) + 0.5)
    teacher = metrics.unit(base @ rng.standard_normal((6, 5)) + 0.4 * rng.standard_normal((31, 5)))
    errors = []
    for ridge in baselines.RIDGES:
        error = 0.0
        for one in range(9):
            kept, held = species != one, species == one
            model = sklearn.linear_model.Ridge(alpha=ridge * 31, fit_intercept=centred).fit(base[kept], teacher[kept])
            error += ((model.predict(base[held]) - teacher[held]) ** 2).sum()
        errors.append(error)
    assert 0 < int(np.argmin(errors)) < len(errors) - 1  # the middle of the grid, or any end would do
    chosen = baselines.choose_ridge(base, teacher, species, centred)
    assert chosen == baselines.RIDGES[int(np.argmin(errors))]
    assert baselines.choose_ridge(base[:4], teacher[:4], np.zeros(4, int)) == 1e-2  # nothing to leave out


def test_sounds_are_centred_by_the_mean_that_is_given() -> None:
    rng = np.random.default_rng(6)
    base, teacher, sounds = unit(rng, 50, 6), unit(rng, 50, 8), unit(rng, 9, 6)
    whole = baselines.text_mapping(sounds, base, teacher)
    np.testing.assert_allclose(
        whole, baselines.text_mapping(sounds, base, teacher, audio_mean_B=sounds.mean(0)), atol=1e-6
    )
    alone = baselines.text_mapping(sounds[:1], base, teacher, audio_mean_B=sounds.mean(0))
    np.testing.assert_allclose(alone, whole[:1], atol=1e-6)


def test_the_chain_asks_with_the_named_species() -> None:
    rng = np.random.default_rng(1)
    names, teacher_names = unit(rng, 9, 12), unit(rng, 9, 7)
    heard = names[[3, 8]] + 0.01
    np.testing.assert_array_equal(baselines.zero_shot_chain(heard, names, teacher_names), teacher_names[[3, 8]])


def test_a_frozen_head_learns_what_is_linear() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 6, 300)
    texts = unit(rng, 6, 8)
    pooled = (np.eye(6)[labels] @ rng.standard_normal((6, 10)) + 0.1 * rng.standard_normal((300, 10))).astype(
        np.float32
    )
    queries = baselines.frozen_head(pooled[:200], texts[labels[:200]], pooled[200:], seed=0, steps=200)
    assert metrics.naming_accuracy(queries, texts, labels[200:], np.arange(6)) > 0.95
    again = baselines.frozen_head(pooled[:200], texts[labels[:200]], pooled[200:], seed=0, steps=200)
    np.testing.assert_array_equal(queries, again)


def test_a_random_projection_is_chance_and_reproducible() -> None:
    rng = np.random.default_rng(3)
    pooled, images = rng.standard_normal((300, 10)), unit(rng, 300, 8)
    labels = np.repeat(np.arange(10), 30)
    queries = baselines.random_projection(pooled, 8, seed=0)
    assert metrics.retrieval_map(queries, images, labels, labels) < 0.13
    np.testing.assert_array_equal(queries, baselines.random_projection(pooled, 8, seed=0))
