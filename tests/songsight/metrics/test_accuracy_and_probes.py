from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from songsight import metrics
from songsight.metrics import accuracy, probes


def clouds(species: int = 5, train: int = 200, test: int = 80, width: int = 8) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((species, width))
    labels, asked = rng.integers(0, species, train), rng.integers(0, species, test)
    return (
        centres[labels] + 0.9 * rng.standard_normal((train, width)),
        centres[asked] + 0.9 * rng.standard_normal((test, width)),
        labels,
        asked,
    )


@pytest.mark.parametrize("top", [1, 3, 5])
def test_naming_agrees_with_scikit_learn(top: int) -> None:
    rng = np.random.default_rng(0)
    queries, names = (metrics.unit(rng.standard_normal((n, 6))) for n in (60, 9))
    own = rng.integers(0, 9, 60)
    theirs = top_k_accuracy_score(own, queries @ names.T, k=top, labels=np.arange(9))
    assert metrics.naming_accuracy(queries, names, own, np.arange(9), top) == pytest.approx(theirs)


def test_naming_of_ties_and_of_strangers() -> None:
    names = np.eye(3)
    queries = metrics.unit(np.array([[1, 0.5, 0], [0.9, 1, 0], [0, 0.9, 1.0]]))
    labels = np.array(["a", "a", "b"])
    assert metrics.naming_accuracy(queries, names, labels, np.array(["a", "b", "c"])) == pytest.approx(1 / 3)
    assert metrics.naming_accuracy(queries, names, labels, np.array(["a", "b", "c"]), top=2) == 1
    same = np.ones((3, 3))
    assert metrics.naming_accuracy(same, same, labels, np.array(["a", "b", "c"])) == 0  # the same of all is no answer
    assert not accuracy.naming_right(queries, names, np.array(["x", "a", "a"]), np.array(["a", "b", "c"]), top=3)[0]


def test_probabilities_are_scipys_softmax() -> None:
    rng = np.random.default_rng(1)
    queries, names = (metrics.unit(rng.standard_normal((n, 6))) for n in (10, 4))
    expected = scipy.special.softmax(np.exp(2.0) * queries @ names.T, axis=1)
    np.testing.assert_allclose(accuracy.probabilities(queries, names, 2.0), expected)


def test_knn_agrees_with_scikit_learn() -> None:
    train, test, labels, asked = clouds(width=3)
    theirs = KNeighborsClassifier(1, metric="cosine").fit(train, labels).score(test, asked)
    assert metrics.knn_accuracy(train, test, labels, asked, k=1) == pytest.approx(theirs)
    # With more neighbours only equal votes are decided differently: there the first label wins, here the nearer one.
    model = KNeighborsClassifier(5, metric="cosine").fit(train, labels)
    ours = probes.knn_right(train, test, labels, asked, 5)
    distances, neighbours = model.kneighbors(test)
    votes = np.stack([(labels[neighbours] == label).sum(axis=1) for label in range(5)], axis=1)
    tied = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1
    assert 3 < tied.sum() < 40
    np.testing.assert_array_equal(ours[~tied], (model.predict(test) == asked)[~tied])
    for query in np.flatnonzero(tied):
        likeness = [(1 - distances[query])[labels[neighbours[query]] == label].sum() for label in range(5)]
        best = np.flatnonzero(votes[query] == votes[query].max())
        assert ours[query] == (best[np.argmax([likeness[label] for label in best])] == asked[query])
    alone = probes.knn_right(train, test, np.zeros(200, int), np.zeros(80, int))
    assert alone.all()  # one class


def test_leaving_a_recordist_out_is_leaving_their_recordings_out() -> None:
    train, test, labels, asked = clouds()
    rng = np.random.default_rng(4)
    people = np.array(["ann", "bob", "cy", None], dtype=object)
    by, test_by = people[rng.integers(0, 4, 200)], people[rng.integers(0, 4, 80)]
    ours = probes.knn_right(train, test, labels, asked, 5, by, test_by)
    for q in range(80):
        keep = np.array([test_by[q] is None or one != test_by[q] for one in by])
        alone = probes.knn_right(train[keep], test[q : q + 1], labels[keep], asked[q : q + 1], 5)
        assert ours[q] == alone[0]
    everyone_ann = np.full(200, "ann", object)
    assert np.isnan(probes.knn_right(train, test, labels, asked, 5, everyone_ann, np.full(80, "ann", object))).all()


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_linear_probe_is_scikit_learns(strength: float) -> None:
    train, test, labels, _ = clouds(species=7, width=12)
    scaler = StandardScaler().fit(train)
    theirs = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(scaler.transform(train), labels)
    ours = probes.linear_probe(train, test, labels, strength)
    # What is decided by more than the two solvers' tolerance is decided alike.
    logits = np.sort(theirs.decision_function(scaler.transform(test)), axis=1)
    sure = logits[:, -1] - logits[:, -2] > 1e-2
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(ours[sure], theirs.predict(scaler.transform(test))[sure])
    assert set(probes.linear_probe(train, test, np.full(200, "one"))) == {"one"}
