from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from songsight.metrics import bootstrap, calibration_error, detection


def windows(levels: int | None, classes: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of 70 windows, with a class that is never there and one that always is."""
    rng = np.random.default_rng(0)
    present = rng.random((70, classes)) < 0.15
    present[:, 0] = False
    if classes > 1:
        present[:, 1] = True
    noise = rng.standard_normal((70, classes))
    scores = present + noise if levels is None else rng.integers(0, levels, (70, classes)).astype(float)
    return scores, present


@pytest.mark.parametrize("levels", [None, 3])
def test_cmap_agrees_with_scikit_learn(levels: int | None) -> None:
    scores, present = windows(levels)
    there = present.any(axis=0)
    theirs = average_precision_score(present[:, there], scores[:, there], average="macro")
    assert detection.cmap(scores, present) == pytest.approx(theirs)
    assert np.isnan(detection.class_average_precision(scores, present)[0])


@pytest.mark.parametrize("levels", [None, 3])
def test_auroc_agrees_with_scikit_learn(levels: int | None) -> None:
    scores, present = windows(levels)
    ours = detection.class_auroc(scores, present)
    assert np.isnan(ours[:2]).all()
    theirs = [roc_auc_score(present[:, c], scores[:, c]) for c in range(2, 90)]
    np.testing.assert_allclose(ours[2:], theirs)
    assert detection.auroc(scores, present) == pytest.approx(np.mean(theirs))


@pytest.mark.parametrize("levels", [None, 3])
def test_the_best_f1_is_the_best_of_all_thresholds(levels: int | None) -> None:
    scores, present = windows(levels, classes=12)
    best, threshold = detection.class_best_f1(scores, present)
    assert np.isnan(best[0])
    for c in range(1, 12):
        tried = {t: f1_score(present[:, c], scores[:, c] >= t) for t in np.unique(scores[:, c])}
        assert best[c] == pytest.approx(max(tried.values()))
        assert f1_score(present[:, c], scores[:, c] >= threshold[c]) == pytest.approx(best[c])
        assert threshold[c] == max(t for t, f1 in tried.items() if f1 == pytest.approx(best[c]))
    assert detection.best_f1(scores, present) == pytest.approx(np.nanmean(best))


def test_where_no_class_is_ever_there_nothing_can_be_said() -> None:
    scores, present = windows(None, classes=1)
    assert np.isnan(detection.cmap(scores, present))
    assert np.isnan(detection.auroc(scores, present))
    assert np.isnan(detection.best_f1(scores, present))


def test_calibration_error_agrees_with_counting() -> None:
    rng = np.random.default_rng(1)
    confidence = np.concatenate([rng.random(300), [0.0, 1.0, 0.2, 0.2]])
    right = rng.random(304) < confidence**2
    expected = 0.0
    for b in range(10):
        inside = (confidence > b / 10) & (confidence <= (b + 1) / 10) | ((b == 0) & (confidence == 0))
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error.expected_calibration_error(confidence, right, 10) == pytest.approx(expected)
    sure = calibration_error.expected_calibration_error(np.ones(4), np.array([True, True, False, True]))
    assert sure == pytest.approx(0.25)
    assert np.isnan(calibration_error.expected_calibration_error(np.zeros(0), np.zeros(0)))
    with pytest.raises(ValueError, match="0 to 1"):
        calibration_error.expected_calibration_error(np.array([1.2]), np.array([True]))


def test_calibrated_probabilities_have_next_to_no_error() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.random(200_000)
    assert calibration_error.expected_calibration_error(confidence, rng.random(200_000) < confidence) < 0.01


@pytest.mark.parametrize(("power", "at_least"), [(1, 0.88), (1.5, 0.95)])
def test_an_interval_of_the_calibration_error_holds_the_point_and_the_truth(power: float, at_least: float) -> None:
    """For a calibrated model, whose error is 0, and for one whose confidence c is right in c^1.5 of the cases."""
    rng = np.random.default_rng(4)
    many = rng.random(1_000_000)
    bins = np.minimum((many * 15).astype(int), 14)
    truth = sum(abs(np.mean((many**power - many) * (bins == b))) for b in range(15))
    held, worlds, plain = 0, 150, 0
    for world in range(worlds):
        confidence = rng.random(300)
        gaps = calibration_error.calibration_gaps(confidence, rng.random(300) < confidence**power)
        boot = bootstrap.Bootstrap(np.arange(300), 200, world)
        point, drawn = boot.point(gaps), boot.draws(gaps)
        low, high = calibration_error.error_interval(point, drawn, 300)
        assert 0 <= low <= np.abs(point).sum() <= high <= 1
        held += low - 1e-3 <= truth <= high
        lowest, highest = np.percentile(np.abs(drawn).sum(axis=1), [2.5, 97.5])
        plain += lowest <= truth <= highest
    assert held >= at_least * worlds
    if power == 1:
        assert plain == 0  # what percentiles of the draws would have told
    few = calibration_error.error_interval(point, drawn, 5)
    assert np.isnan(few).all()


def test_brier_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    probability = rng.dirichlet(np.ones(6), 50)
    own = rng.integers(0, 6, 50)
    own[:6] = np.arange(6)
    theirs = brier_score_loss(own, probability, labels=np.arange(6), scale_by_half=False)
    assert calibration_error.brier_score(probability, own).mean() == pytest.approx(theirs)
    nowhere = calibration_error.brier_score(np.array([[0.5, 0.5]]), np.array([-1]))
    assert nowhere[0] == pytest.approx(0.5)
