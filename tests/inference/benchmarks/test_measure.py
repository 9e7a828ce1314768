from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from inference.benchmarks import measure, probe


def test_several_labels_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((60, 7)) < 0.2
    present[:, 6] = False
    scores = np.round(rng.random((60, 7)) + 0.5 * present, 1)
    row = measure.several(scores, present, absent_counts=True)
    judged = present.any(axis=0)
    precision = [sk.average_precision_score(present[:, c], scores[:, c]) for c in np.flatnonzero(judged)]
    assert row["cmAP"] == pytest.approx(np.mean(precision))
    assert row["mAP"] == pytest.approx(np.sum(precision) / 7)
    area = [sk.roc_auc_score(present[:, c], scores[:, c]) for c in np.flatnonzero(judged)]
    assert row["AUROC"] == pytest.approx(np.mean(area))
    curves = [sk.precision_recall_curve(present[:, c], scores[:, c])[:2] for c in np.flatnonzero(judged)]
    best = [np.nanmax(2 * p * r / np.where(p + r > 0, p + r, 1)) for p, r in curves]
    assert row["F1"] == pytest.approx(np.mean(best))
    labelled = present.any(axis=1)
    assert row["top1"] == np.mean(present[labelled, scores[labelled].argmax(axis=1)])
    assert row["cmAP_low"] <= row["cmAP"] <= row["cmAP_high"]


def test_one_label_agrees_with_scikit_learn_and_is_averaged_over_the_classes_asked_for() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 8, 200)
    scores = rng.random((200, 8)) + 0.4 * (labels[:, None] == np.arange(8))
    averaged = np.arange(8) < 5
    row = measure.single(scores, labels, averaged)
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
    everything_alike = measure.single(np.zeros((200, 8)), labels, averaged)
    assert everything_alike["top1"] == everything_alike["top5"] == 0


@pytest.mark.parametrize("several", [False, True])
def test_chance_is_what_random_scores_come_to(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RESAMPLES", 2)  # the intervals are not looked at
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 6, 40)[:, None] == np.arange(6)
    present = labels | (rng.random((40, 6)) < 0.15) if several else labels
    if several:
        present[:, 5] = False
    everything = np.ones(6, bool)
    rows = []
    for _ in range(400):
        scores = rng.random(present.shape)
        if several:
            rows.append(measure.several(scores, present, absent_counts=True))
        else:
            rows.append(measure.single(scores, present.argmax(axis=1), everything))
    for name, value in measure.chance(present, several, everything, absent_counts=True).items():
        if name == "F1":
            assert np.isnan(value)
            continue
        found = np.array([row[name] for row in rows])
        assert abs(found.mean() - value) < 4 * found.std() / np.sqrt(len(found)), name


@pytest.mark.parametrize("several", [False, True])
def test_the_probe_is_scikit_learns_logistic_regression(several: bool) -> None:
    rng = np.random.default_rng(3)
    train, test = rng.standard_normal((80, 5)), rng.standard_normal((30, 5))
    if several:
        present = (train @ rng.standard_normal((5, 3)) + rng.standard_normal((80, 3))) > 0
    else:
        present = (train @ rng.standard_normal((5, 3))).argmax(axis=1)[:, None] == np.arange(3)
    found = probe.logits(train, present, test, several, strength=0.5)
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=0.5, max_iter=1000, tol=1e-8)
    if several:
        theirs = OneVsRestClassifier(model).fit(scaler.transform(train), present.astype(int))
        assert np.allclose(found, theirs.decision_function(scaler.transform(test)), atol=5e-3)
    else:
        fitted = model.fit(scaler.transform(train), present.argmax(axis=1))
        theirs = fitted.decision_function(scaler.transform(test))
        centred = found - found.mean(axis=1, keepdims=True)
        assert np.allclose(centred, theirs - theirs.mean(axis=1, keepdims=True), atol=5e-3)


def test_the_penalty_is_chosen_on_the_validation_set() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((40, 3))
    present = (vectors[:, 0] > 0)[:, None] == np.array([False, True])
    seen = []

    def how_good(logits: np.ndarray) -> float:
        seen.append(np.abs(logits).max())
        return -abs(seen[-1] - seen[0]) if len(seen) > 1 else -1e9

    strength = probe.chosen(vectors, present, vectors, False, how_good)
    assert len(seen) == len(probe.STRENGTHS)
    assert seen == sorted(seen)  # a weaker penalty gives larger logits
    assert strength == probe.STRENGTHS[1]
    assert probe.chosen(vectors, present, vectors[:0], False, how_good) == 1
