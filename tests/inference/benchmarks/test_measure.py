from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from inference.benchmarks import curves, measure, probe
from inference.benchmarks.measure import Scored, Truth
from inference.benchmarks.redraw import Redrawn
from songsight.metrics import probes


def said(scores: np.ndarray, present: np.ndarray) -> Scored:
    return Scored(scores, measure.places(scores, present))


def several_random(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, a class that is nowhere, units without labels."""
    rng = np.random.default_rng(seed)
    present = rng.random((60, 7)) < 0.2
    present[:, 6] = False
    return np.round(rng.random((60, 7)) + 0.5 * present, 1), present


def best_f1(present: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    precision, recall, _ = sk.precision_recall_curve(present, scores, sample_weight=weights)
    return float(np.nanmax(2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)))


def test_several_labels_agree_with_scikit_learn() -> None:
    scores, present = several_random()
    truth = Truth(True, present, 7, absent_counts=True)
    row = measure.row(measure.figures(truth, said(scores, present), Redrawn(np.arange(60), 20)))
    judged = np.flatnonzero(present.any(axis=0))
    precision = [sk.average_precision_score(present[:, c], scores[:, c]) for c in judged]
    assert row["cmAP"] == pytest.approx(np.mean(precision))
    assert row["mAP"] == pytest.approx(np.sum(precision) / 7)
    assert row["AUROC"] == pytest.approx(np.mean([sk.roc_auc_score(present[:, c], scores[:, c]) for c in judged]))
    assert row["F1"] == pytest.approx(np.mean([best_f1(present[:, c], scores[:, c]) for c in judged]))
    # Right where nothing that is not there scores as high as the best of what is.
    right = [own[there].max() > own[~there].max() for own, there in zip(scores, present, strict=True) if there.any()]
    assert row["top1"] == np.mean(right)


def test_one_label_agrees_with_scikit_learn_and_is_averaged_over_the_classes_asked_for() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 8, 200)
    present = labels[:, None] == np.arange(8)
    scores = rng.random((200, 8)) + 0.4 * present
    truth = Truth(False, present[:, :5], 8)
    scored = Scored(scores[:, :5], measure.places(scores, present))
    row = measure.row(measure.figures(truth, scored, Redrawn(np.arange(200), 20)))
    named = scores.argmax(axis=1)
    recall = sk.recall_score(labels, named, average=None)
    assert row["top1"] == pytest.approx(recall[:5].mean())
    asked = labels < 5
    assert row["accuracy"] == pytest.approx((named == labels)[asked].mean())
    within = [
        sk.top_k_accuracy_score(labels[labels == c], scores[labels == c], k=5, labels=np.arange(8)) for c in range(5)
    ]
    assert row["top5"] == pytest.approx(np.mean(within))
    precision = [sk.average_precision_score(labels == c, scores[:, c]) for c in range(5)]
    assert row["mAP"] == pytest.approx(np.mean(precision))
    alike = np.zeros((200, 8))
    everything_alike = measure.figures(truth, Scored(alike[:, :5], measure.places(alike, present)), Redrawn(labels, 2))
    assert everything_alike["top1"].value == everything_alike["top5"].value == 0


def test_a_resample_is_scikit_learn_with_each_recording_weighing_as_often_as_it_is_drawn() -> None:
    scores, present = several_random(3)
    recording = np.repeat([f"r{i}" for i in range(12)], 5)
    redrawn = Redrawn(recording, 15, seed=4)
    truth = Truth(True, present, 7, absent_counts=True)
    found = measure.figures(truth, said(scores, present), redrawn)
    place = measure.places(scores, present)
    for r in range(15):
        times = {name: redrawn.times_GR[g, r] for g, name in enumerate(np.unique(recording))}
        weights = np.array([times[name] for name in recording])
        assert weights.sum() == 60  # twelve recordings of five units, twelve drawn
        judged = [c for c in range(7) if (present[:, c] * weights).sum()]
        own = {c: sk.average_precision_score(present[:, c], scores[:, c], sample_weight=weights) for c in judged}
        assert found["cmAP"].recordings[r] == pytest.approx(np.mean(list(own.values())))
        assert found["mAP"].recordings[r] == pytest.approx(sum(own.values()) / 7)
        area = [sk.roc_auc_score(present[:, c], scores[:, c], sample_weight=weights) for c in judged]
        assert found["AUROC"].recordings[r] == pytest.approx(np.mean(area))
        best = [best_f1(present[:, c], scores[:, c], weights) for c in judged]
        assert found["F1"].recordings[r] == pytest.approx(np.mean(best))
        labelled = present.any(axis=1)
        top = np.average((place <= 1)[labelled], weights=weights[labelled])
        assert found["top1"].recordings[r] == pytest.approx(top)


def test_a_resample_of_species_brings_all_units_of_a_species() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 50)
    present = labels[:, None] == np.arange(4)
    scores = rng.random((50, 4)) + 0.3 * present
    redrawn = Redrawn(np.arange(50), 10, seed=6)
    found = measure.figures(Truth(False, present, 4), said(scores, present), redrawn)
    right = scores.argmax(axis=1) == labels
    for r in range(10):
        times = redrawn.species(4)[:, r]
        assert found["accuracy"].species[r] == pytest.approx(np.average(right, weights=times[labels]))
        by_class = [right[labels == c].mean() for c in range(4)]
        assert found["top1"].species[r] == pytest.approx(np.average(by_class, weights=times))
        weights = redrawn.times_GR[redrawn.group, r]
        drawn = [c for c in range(4) if weights[labels == c].sum()]
        again = [np.average(right[labels == c], weights=weights[labels == c]) for c in drawn]
        assert found["top1"].recordings[r] == pytest.approx(np.mean(again))


def test_windows_of_one_recording_are_not_independent() -> None:
    """Twenty windows a recording that all do alike: the interval is that of ten things, not of two hundred."""
    rng = np.random.default_rng(7)
    good = np.repeat(rng.random(10) < 0.5, 20)
    present = np.tile([True, False], (200, 1))
    scores = np.where(good[:, None], [1.0, 0.0], [0.0, 1.0])
    truth = Truth(True, present, 2)
    wide = measure.row(measure.figures(truth, said(scores, present), Redrawn(np.repeat(np.arange(10), 20), 2000)))
    narrow = measure.row(measure.figures(truth, said(scores, present), Redrawn(np.arange(200), 2000)))
    share = good.mean()
    for row, things in ((wide, 10), (narrow, 200)):
        width = row["top1_high"] - row["top1_low"]
        assert width == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / things), rel=0.2)
    alone = measure.row(measure.figures(truth, said(scores, present), Redrawn(np.zeros(200), 50)))
    assert alone["top1"] == share
    assert np.isnan(alone["top1_low"])  # one recording says nothing of others
    assert np.isnan(alone["top1_species_low"])


@pytest.mark.parametrize("several", [False, True])
def test_chance_is_what_random_scores_come_to(several: bool) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 6, 40)[:, None] == np.arange(6)
    present = labels | (rng.random((40, 6)) < 0.15) if several else labels
    if several:
        present[:, 5] = False
    truth = Truth(several, present, 6, absent_counts=several)
    redrawn = Redrawn(np.arange(40), 2)  # the intervals are not looked at
    rows = []
    for _ in range(400):
        made = measure.figures(truth, said(rng.random(present.shape), present), redrawn)
        rows.append({name: figure.value for name, figure in made.items()})
    for name, value in measure.chance(truth).items():
        if name == "F1":
            assert np.isnan(value)
            continue
        found = np.array([row[name] for row in rows])
        assert abs(found.mean() - value) < 4 * found.std() / np.sqrt(len(found)), name


def test_what_a_unit_counts_for_is_shared_by_its_species() -> None:
    present = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    share = Truth(True, present, 3).share
    assert sparse.issparse(share)
    assert share.toarray().tolist() == [[0.5, 0.5], [0, 1]]


@pytest.mark.parametrize("ties", [False, True])
def test_curves_agree_with_scikit_learn(ties: bool) -> None:
    rng = np.random.default_rng(8)
    present = rng.random((80, 3)) < 0.3
    scores = rng.random((80, 3)) + 0.4 * present
    scores = np.round(scores, 1) if ties else scores

    def theirs(present_n: np.ndarray, scores_n: np.ndarray) -> list[float]:
        precision, recall, _ = sk.precision_recall_curve(present_n, scores_n)
        return [precision[recall >= level - 1e-9].max() for level in curves.RECALL_LEVELS if level > 0]

    found = curves.macro(scores, present)
    mean = np.mean([theirs(present[:, c], scores[:, c]) for c in range(3)], axis=0)
    # scikit-learn ends every curve at precision 1 and recall 0, which is no threshold: level 0 is left out.
    assert np.allclose(found[1:], mean)
    together = curves.micro(scores, present)
    assert together is not None
    assert np.allclose(together[1:], theirs(present.ravel(), scores.ravel()))


@pytest.mark.parametrize("several", [False, True])
def test_the_probe_is_scikit_learns_logistic_regression(several: bool) -> None:
    rng = np.random.default_rng(3)
    train, test = rng.standard_normal((80, 5)), rng.standard_normal((30, 5))
    if several:
        labels = (train @ rng.standard_normal((5, 3)) + rng.standard_normal((80, 3))) > 0
    else:
        labels = (train @ rng.standard_normal((5, 3))).argmax(axis=1)
    found = probes.fit(train, labels, 3, strength=0.5)(test)
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=0.5, max_iter=1000, tol=1e-8)
    if several:
        theirs = OneVsRestClassifier(model).fit(scaler.transform(train), labels.astype(int))
        assert np.allclose(found, theirs.decision_function(scaler.transform(test)), atol=5e-3)
    else:
        theirs = model.fit(scaler.transform(train), labels).decision_function(scaler.transform(test))
        centred = found - found.mean(axis=1, keepdims=True)
        assert np.allclose(centred, theirs - theirs.mean(axis=1, keepdims=True), atol=5e-3)


def test_the_penalty_is_chosen_on_the_validation_set() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((40, 3))
    labels = (vectors[:, 0] > 0).astype(int)
    seen = []

    def how_good(logits: np.ndarray) -> float:
        seen.append(np.abs(logits).max())
        return -abs(seen[-1] - seen[0]) if len(seen) > 1 else -1e9

    found = probe.chosen(vectors, labels, 2, vectors, how_good)
    assert len(seen) == len(probe.STRENGTHS)
    assert seen == sorted(seen)  # a weaker penalty gives larger logits
    assert np.array_equal(found(vectors), probes.fit(vectors, labels, 2, probe.STRENGTHS[1])(vectors))
    plain = probe.chosen(vectors, labels, 2, vectors[:0], how_good)
    assert np.array_equal(plain(vectors), probes.fit(vectors, labels, 2, 1.0)(vectors))
