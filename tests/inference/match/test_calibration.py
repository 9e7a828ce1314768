from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from inference.match import calibration
from inference.match.calibration import Calibration
from songsight.errors import UserError
from songsight.metrics import calibration_error


def drawn(hits: int, species: int = 12, spread: float = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Scores, truth, species, recordings and p of a world whose curves are known: logit p = −6 + 10·score + own."""
    rng = np.random.default_rng(seed)
    own = spread * rng.standard_normal(species)
    species_N = rng.integers(species, size=hits)
    scores_N = rng.uniform(0, 1, hits)
    p_N = expit(-6 + 10 * scores_N + own[species_N])
    return scores_N, rng.random(hits) < p_N, species_N, rng.integers(40, size=hits), p_N


def test_one_curve_for_all_is_logistic_regression() -> None:
    scores, right, species, _, _ = drawn(2000)
    pooled, lines = calibration.fit(scores, right, species, 12, spread=0)
    theirs = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(scores[:, None], right)
    np.testing.assert_allclose(pooled, [theirs.intercept_[0], theirs.coef_[0, 0]], rtol=5e-3)
    np.testing.assert_array_equal(lines, np.tile(pooled, (12, 1)))


def test_it_finds_the_curve_that_the_world_was_made_with() -> None:
    scores, right, species, groups, p = drawn(20_000, spread=1.5)
    found = calibration.held_out(scores, right, species, groups, 12)
    assert np.abs(found - p).mean() < 0.01
    assert calibration.calibration_error(found, right) < 0.02
    assert calibration.brier(found, right) < calibration.brier(scores, right)


def test_a_rare_species_stays_near_to_all_and_a_common_one_finds_its_own() -> None:
    scores, right, species, _, _ = drawn(4000, species=2, seed=1)
    right[species == 1] = scores[species == 1] > 0.2  # sings at lower scores than the other
    some = np.flatnonzero(species == 1)
    distance = {}
    for count in (3, len(some)):
        keep = np.concatenate([np.flatnonzero(species == 0), some[:count]])
        pooled, lines = calibration.fit(scores[keep], right[keep], species[keep], 3, spread=1.0)
        at = np.array([0.4])
        distance[count] = abs(calibration.probability(lines[1], at) - calibration.probability(lines[0], at))[0]
        np.testing.assert_allclose(lines[2], pooled, rtol=1e-3)  # no hit of its own: the common curve
    assert distance[3] < 0.5 * distance[len(some)]


def test_the_spread_is_chosen_by_what_is_held_out() -> None:
    alike = drawn(3000)
    assert calibration.choose_spread(*alike[:4], 12) <= 0.25
    unlike = drawn(3000, spread=2.0)
    assert calibration.choose_spread(*unlike[:4], 12) >= 1.0


def test_a_held_out_recording_has_no_say() -> None:
    scores, right, species, groups, _ = drawn(400)
    before = calibration.held_out(scores, right, species, groups, 12, 0.5)
    flipped = np.where(groups == 7, ~right, right)
    after = calibration.held_out(scores, flipped, species, groups, 12, 0.5)
    np.testing.assert_allclose(after[groups == 7], before[groups == 7])
    assert np.abs(after - before)[groups != 7].max() > 1e-4


def test_a_perfect_score_does_not_run_off_to_infinity() -> None:
    scores = np.linspace(0, 1, 50)
    pooled, lines = calibration.fit(scores, scores > 0.5, np.zeros(50, int), 1, spread=1.0)
    assert np.isfinite(pooled).all()
    assert np.isfinite(lines).all()
    assert pooled[1] > 0


def test_measures_by_hand() -> None:
    p, right = np.array([0.05, 0.05, 0.95, 1.0]), np.array([False, True, True, True])
    assert calibration.brier(p, right) == pytest.approx((0.05**2 + 0.95**2 + 0.05**2 + 0) / 4)
    assert calibration.calibration_error(p, right) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_the_bins_that_are_drawn_are_those_of_the_error() -> None:
    """On the edges, too: 0.1 ends the first of ten bins."""
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(200), np.arange(11) / 10])
    right = rng.random(211) < p
    mean, share, hits = calibration.reliability(p, right)
    assert hits.sum() == 211
    error = np.nansum(np.abs(mean - share) * hits) / 211
    assert calibration.calibration_error(p, right) == pytest.approx(error)
    two_classes = calibration_error.brier_score(np.stack([1 - p, p], axis=1), right.astype(int))
    assert calibration.brier(p, right) == pytest.approx(two_classes.mean() / 2)


def test_a_file_comes_back_and_knows_what_it_was_fitted_to(tmp_path: Path) -> None:
    made_with = {"model": "m", "gallery": "g", "score": "max", "bridge": 0.25}
    made = Calibration(made_with, (-1.0, 2.0), {"Strix aluco": (0.0, 4.0)}, 3, {"brier": 0.1})
    url = str(tmp_path / "c.json")
    made.write(url)
    found = calibration.read(url)
    found.check(made_with)
    np.testing.assert_allclose(found.lines(["Strix aluco", "Parus major"]), [[0, 4], [-1, 2]])
    np.testing.assert_allclose(calibration.probability(found.lines(["Strix aluco"]), np.array([0.5])), expit(2))
    for key, other in (("model", "n"), ("gallery", "h"), ("score", "prototype"), ("bridge", 0.5)):
        with pytest.raises(UserError, match=f"another {key}"):
            found.check(made_with | {key: other})


def test_scores_may_come_to_be_made_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = {"model": "m", "score": "max"}
    monkeypatch.setitem(calibration.IN_0_1, "context_s", 0.0)
    for fitted, asked in ((earlier, earlier | {"context_s": 0.0}), (earlier | {"context_s": 0.0}, earlier)):
        Calibration(fitted, (-1.0, 2.0), {}).check(asked)
    for fitted, asked in ((earlier, earlier | {"context_s": 9.0}), (earlier | {"context_s": 9.0}, earlier)):
        with pytest.raises(UserError, match=r"another context_s"):
            Calibration(fitted, (-1.0, 2.0), {}).check(asked)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"songsight_calibration": 1, "x": 2})])
def test_something_else_is_no_calibration(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match="is no calibration"):
        calibration.read(str(tmp_path / "c.json"))
    with pytest.raises(UserError, match="no such file"):
        calibration.read(str(tmp_path / "d.json"))
