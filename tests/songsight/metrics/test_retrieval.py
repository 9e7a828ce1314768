from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from songsight import metrics
from songsight.metrics import retrieval


def test_average_precision_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.standard_normal((40, 60)), rng.random((40, 60)) < 0.1
    relevant[0] = True
    ours = metrics.average_precision(scores, relevant)
    for query in range(40):
        if relevant[query].any():
            assert ours[query] == pytest.approx(average_precision_score(relevant[query], scores[query]))
        else:
            assert np.isnan(ours[query])


def test_tied_scores_do_not_depend_on_the_gallerys_order() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 4, (30, 50)).astype(float)
    relevant = rng.random((30, 50)) < 0.2
    ours = metrics.average_precision(scores, relevant)
    shuffle = rng.permutation(50)
    np.testing.assert_allclose(ours, metrics.average_precision(scores[:, shuffle], relevant[:, shuffle]))
    expected = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(ours, expected)


def asked(rng: np.random.Generator, queries: int, size: int, species: int, levels: int | None) -> tuple:
    """Vectors and labels; with `levels` of so few values that most scores are tied."""
    draw = rng.standard_normal if levels is None else (lambda shape: rng.integers(-levels, levels + 1, shape))
    labels = rng.integers(0, species, queries), rng.integers(0, species, size)
    names = np.array([f"species {i}" for i in range(species)])
    return (
        np.asarray(draw((queries, 6)), np.float32),
        np.asarray(draw((size, 6)), np.float32),
        names[labels[0]],
        names[labels[1]],
    )


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("species", [1, 4, 300])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_retrieval_agrees_with_scikit_learn_and_with_counting(species: int, levels: int | None, device: str) -> None:
    """Random and tied scores, one class, and so many classes that most queries have no answer."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    queries, gallery, asks, holds = asked(np.random.default_rng(species), 50, 70, species, levels)
    found = retrieval.retrieve(queries, gallery, asks, holds, nearest=5, block=13, device=device)
    scores, relevant = queries @ gallery.T, asks[:, None] == holds[None, :]
    assert (species < 300) == relevant.any(axis=1).all()
    for q in range(50):
        own, others = scores[q][relevant[q]], scores[q][~relevant[q]]
        if not len(own):
            assert np.isnan(found.average_precision[q])
            assert np.isnan(found.first_rank[q])
            assert np.isnan(found.found_within(5)[q])
            continue
        assert found.average_precision[q] == pytest.approx(average_precision_score(relevant[q], scores[q]))
        assert found.first_rank[q] == 1 + sum(other >= max(own) for other in others)
        assert found.found_within(5)[q] == (found.first_rank[q] <= 5)
        near = scores[q][found.nearest[q]]
        np.testing.assert_allclose(near, np.sort(scores[q])[::-1][:5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.average_precision, metrics.average_precision(scores, relevant), rtol=1e-12)


@pytest.mark.parametrize("levels", [None, 1])
def test_the_precision_recall_curve_is_scikit_learns_interpolated(levels: int | None) -> None:
    queries, gallery, asks, holds = asked(np.random.default_rng(5), 20, 90, 4, levels)
    found = retrieval.retrieve(queries, gallery, asks, holds)
    scores, relevant = queries @ gallery.T, asks[:, None] == holds[None, :]
    expected = np.zeros((20, 101))
    for q in range(20):
        precision, recall, _ = precision_recall_curve(relevant[q], scores[q])
        # Its last point, precision 1 at recall 0, stands for no answer at all.
        for level in range(101):
            expected[q, level] = precision[:-1][recall[:-1] >= level / 100 - 1e-12].max()
    np.testing.assert_allclose(found.precision, expected.mean(axis=0))


def test_blocks_change_nothing() -> None:
    """Whole numbers leave no room for rounding: to the last bit, and with ties."""
    queries, gallery, asks, holds = asked(np.random.default_rng(6), 200, 150, 9, 3)
    whole = retrieval.retrieve(queries, gallery, asks, holds, block=200)
    for block in (1, 7, 199):
        part = retrieval.retrieve(queries, gallery, asks, holds, block=block)
        np.testing.assert_array_equal(whole.average_precision, part.average_precision)
        np.testing.assert_array_equal(whole.first_rank, part.first_rank)
        np.testing.assert_array_equal(whole.precision, part.precision)


@pytest.mark.parametrize("levels", [None, 1])
def test_torch_ranks_as_numpy_does(levels: int | None) -> None:
    """What runs on a GPU, on whatever device there is."""
    import torch

    queries, gallery, asks, holds = asked(np.random.default_rng(7), 40, 60, 4, levels)
    holds = np.sort(holds)
    first, last = (np.searchsorted(holds, asks, side) for side in ("left", "right"))
    place = np.arange((last - first).max())
    block = (queries, np.minimum(first[:, None] + place, 59), place < (last - first)[:, None], 3)
    ranking = retrieval._Ranking(gallery, "cpu")
    expected = ranking._by_numpy(*block)
    ranking.gallery_ND = torch.from_numpy(gallery)
    found = ranking._by_torch(*block)
    np.testing.assert_array_equal(found[0][block[2]], expected[0][block[2]])
    np.testing.assert_array_equal(found[1][block[2]], expected[1][block[2]])
    if levels is None:
        np.testing.assert_array_equal(found[2], expected[2])


def test_many_answers_are_sorted_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery, asks, holds = asked(np.random.default_rng(8), 40, 60, 3, 1)
    compared = retrieval.retrieve(queries, gallery, asks, holds)
    monkeypatch.setattr(retrieval, "_FEW_ANSWERS", 0)
    in_order = retrieval.retrieve(queries, gallery, asks, holds)
    np.testing.assert_array_equal(compared.average_precision, in_order.average_precision)
    np.testing.assert_array_equal(compared.first_rank, in_order.first_rank)


def test_nothing_to_find_or_to_ask_is_no_error() -> None:
    vectors, labels = np.eye(3, dtype=np.float32), np.array(["a", "b", "c"])
    nothing = retrieval.retrieve(vectors, vectors[:0], labels, labels[:0], nearest=2)
    assert np.isnan(nothing.average_precision).all()
    assert nothing.nearest.shape == (3, 0)
    assert len(retrieval.retrieve(vectors[:0], vectors, labels[:0], labels).first_rank) == 0


def test_vectors_that_are_no_numbers_are_refused() -> None:
    vectors, labels = np.eye(3), np.array(["a", "b", "c"])
    with pytest.raises(ValueError, match="finite"):
        retrieval.retrieve(vectors * np.nan, vectors, labels, labels)
    with pytest.raises(ValueError, match="width 2"):
        retrieval.retrieve(vectors[:, :2], vectors, labels, labels)


def test_chance_is_what_shuffling_gives() -> None:
    rng = np.random.default_rng(2)
    for relevant, size in ((1, 5), (3, 7), (30, 600), (1, 1), (4, 4)):
        orders = rng.permuted(np.tile(np.arange(size) < relevant, (4000, 1)), axis=1)
        shuffled = metrics.average_precision(-np.tile(np.arange(size), (4000, 1)), orders)
        expected = float(retrieval.chance_average_precision(relevant, size))
        assert shuffled.mean() == pytest.approx(expected, abs=4 * shuffled.std() / math.sqrt(4000) + 1e-12)


def test_random_vectors_are_at_chance() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(20), 30)
    queries, gallery = (metrics.unit(rng.standard_normal((600, 16))) for _ in range(2))
    expected = float(retrieval.chance_average_precision(30, 600))
    assert metrics.retrieval_map(queries, gallery, labels, labels) == pytest.approx(expected, abs=0.003)


def test_perfect_is_one_and_unanswerable_queries_are_left_out() -> None:
    vectors = np.eye(4)
    assert metrics.retrieval_map(vectors, vectors, np.arange(4), np.arange(4)) == 1
    assert metrics.retrieval_map(vectors, vectors[:2], np.arange(4), np.arange(2)) == 1
    assert np.isnan(metrics.retrieval_map(vectors, vectors, np.arange(4), np.arange(4) + 10))
