from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from songsight.metrics import bootstrap


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=(80, 1))
    ours = bootstrap.Bootstrap(np.arange(80), resamples=4000, seed=1)
    low, high = bootstrap.interval(ours.draws(values))
    theirs = scipy.stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert [low[0], high[0]] == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_every_statistic_is_what_drawing_by_hand_gives() -> None:
    """The counts are turned back into the queries that they stand for."""
    rng = np.random.default_rng(1)
    species = rng.choice(["a", "b", "c", "d"], 31)
    values = rng.standard_normal((31, 2))
    values[3, 0] = np.nan
    boot = bootstrap.Bootstrap(species, resamples=25, seed=3)
    for over in ("recordings", "species"):
        for statistic in ("mean", "macro", "median"):
            drawn = boot.draws(values, statistic, over)
            counts = np.concatenate([q for q, _ in boot._counts(over)]).astype(int)
            for r in range(25):
                rows = boot._order[np.repeat(np.arange(31), counts[r])]
                for m in range(2):
                    own = values[rows, m]
                    real = np.isfinite(own)
                    if statistic == "macro":
                        means = {s: np.nanmean(own[species[rows] == s]) for s in set(species[rows][real])}
                        if over == "species":  # a species drawn twice counts twice
                            sizes = {s: (species == s).sum() for s in means}
                            times = {s: (species[rows] == s).sum() / sizes[s] for s in means}
                        else:
                            times = dict.fromkeys(means, 1)
                        expected = sum(times[s] * means[s] for s in means) / sum(times.values())
                    elif statistic == "median":
                        expected = np.median(own[real])
                    else:
                        expected = own[real].mean()
                    assert drawn[r, m] == pytest.approx(expected)


def test_the_figures_themselves() -> None:
    boot = bootstrap.Bootstrap(np.array(["a", "a", "a", "b"]))
    values = np.array([[1.0], [2.0], [3.0], [10.0]])
    assert boot.point(values)[0] == 4
    assert boot.point(values, "macro")[0] == 6
    assert boot.point(values, "median")[0] == 2.5
    assert boot.point(values[:, [0]] * [[1], [1], [1], [np.nan]], "median")[0] == 2
    assert np.isnan(boot.point(values * np.nan)).all()
    assert np.isnan(bootstrap.interval(boot.draws(values * np.nan))).all()


def test_species_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    species = np.repeat(np.arange(10), 50)
    values = (rng.standard_normal(10)[species] + 0.1 * rng.standard_normal(500))[:, None]
    boot = bootstrap.Bootstrap(species, seed=0)
    widths = []
    for over in ("recordings", "species"):
        low, high = bootstrap.interval(boot.draws(values, "mean", over))  # type: ignore[arg-type]
        widths.append(high[0] - low[0])
    assert widths[1] > 3 * widths[0]


def test_intervals_hold_what_they_promise() -> None:
    """Of 95 % intervals for a known mean about 95 % hold it, and p is below 0.05 in about 5 % of the cases."""
    rng = np.random.default_rng(5)
    held, small = 0, 0
    for seed in range(200):
        values = rng.standard_normal((60, 1))
        drawn = bootstrap.Bootstrap(np.arange(60), resamples=400, seed=seed).draws(values)
        low, high = bootstrap.interval(drawn)
        held += low[0] <= 0 <= high[0]
        small += bootstrap.p_value(drawn)[0] < 0.05
    assert 178 <= held <= 199
    assert 1 <= small <= 22


def test_an_expanded_interval_is_as_wide_as_students() -> None:
    """Of a mean of few normal values: that of the plain percentiles is too short."""
    for many, seed in ((12, 1), (30, 2)):
        values = np.random.default_rng(seed).standard_normal((many, 1))
        boot = bootstrap.Bootstrap(np.arange(many), resamples=20000)
        low, high = bootstrap.interval(boot.draws(values), boot.units(values))
        theirs = scipy.stats.ttest_1samp(values[:, 0], 0).confidence_interval()
        assert high[0] - low[0] == pytest.approx(theirs.high - theirs.low, rel=0.12)
        plain = bootstrap.interval(boot.draws(values))
        assert plain[1][0] - plain[0][0] < (high[0] - low[0]) * (0.88 if many == 12 else 0.97)


@pytest.mark.parametrize("species", [1, 2, 3, 5, 6, 8, 12])
@pytest.mark.parametrize("even", [True, False])
def test_few_species_seldom_differ_by_chance(species: int, even: bool) -> None:
    """Two models that are equally good for species at large: p over species is below 0.05 in at most 5 % of worlds.

    Each species is better told by one of them, so that its recordings agree. 300 worlds: 5 % is 15, and three standard
    errors are 11 more.
    """
    rng = np.random.default_rng(species)
    found, plain, shut = 0, 0, 0
    for world in range(300):
        recordings = np.full(species, 6) if even else 1 + rng.geometric(0.1, species)
        names = np.repeat(np.arange(species), recordings)
        values = (rng.standard_normal(species)[names] + 0.5 * rng.standard_normal(len(names)))[:, None]
        boot = bootstrap.Bootstrap(names, 600, world)
        drawn, units = boot.draws(values, over="species"), boot.units(values, over="species")
        p = bootstrap.p_value(drawn, units)[0]
        low, high = bootstrap.interval(drawn, units)
        found += p < 0.05  # never so for NaN
        plain += bootstrap.p_value(drawn)[0] < 0.05
        shut += low[0] > 0 or high[0] < 0
        if species < bootstrap.FEWEST:
            assert np.isnan([p, low[0], high[0]]).all()
    assert found <= 26
    assert shut <= 36  # of six things the draws end before the interval does: it misses in 7.5 %
    if species <= 3:
        assert plain > 50  # what the plain bootstrap would have told


def test_a_true_difference_of_few_species_is_found() -> None:
    names = np.repeat(np.arange(8), 5)
    values = 1 + 0.3 * np.random.default_rng(0).standard_normal((40, 1))
    boot = bootstrap.Bootstrap(names)
    for over in ("recordings", "species"):
        drawn, units = boot.draws(values, "mean", over), boot.units(values, "mean", over)  # type: ignore[arg-type]
        assert bootstrap.p_value(drawn, units)[0] < 0.05
        assert bootstrap.interval(drawn, units)[0][0] > 0.5


def test_units_are_counted_by_their_weight() -> None:
    """A mean of groups weighs each by its size; of n values with weights w the variance is that of (Σw)²/Σw²."""
    species = np.array(["a"] * 500 + list("bcdefghij"))
    boot = bootstrap.Bootstrap(species)
    values = np.ones((509, 2))
    values[500:, 1] = np.nan
    mean = boot.units(values, "mean", "species")
    assert mean == pytest.approx([509**2 / (500**2 + 9), 1])
    assert boot.units(values, "macro", "species") == pytest.approx([10, 1])
    assert boot.units(values, "mean", "recordings") == pytest.approx([509, 500])
    rng = np.random.default_rng(0)
    weight = np.where(species == "a", 1 / 500, 1.0)
    noise = rng.standard_normal((4000, 509)) @ weight / weight.sum()
    assert boot.units(values[:, :1], "macro", "recordings")[0] == pytest.approx(1 / noise.var(), rel=0.1)
    assert boot.units(values * np.nan).tolist() == [0, 0]


def test_what_is_no_number_is_no_difference() -> None:
    drawn = np.full((100, 1), np.nan)
    assert np.isnan(bootstrap.p_value(drawn)).all()
    assert np.isnan(bootstrap.p_value(drawn, np.array([50.0]))).all()
    # Resamples without a value are left out, and are no draws of a difference.
    some = np.where(np.arange(100)[:, None] < 50, np.nan, 1.0)
    assert bootstrap.p_value(some)[0] == pytest.approx(2 / 51)


def test_equal_things_do_not_differ() -> None:
    values = np.random.default_rng(6).random((30, 1))
    boot = bootstrap.Bootstrap(np.arange(30))
    assert bootstrap.p_value(boot.draws(values) - boot.draws(values))[0] == 1
    assert bootstrap.p_value(boot.draws(values + 1))[0] == pytest.approx(2 / 1001)


def test_the_same_seed_draws_the_same() -> None:
    values = np.random.default_rng(7).random((30, 1))
    first, again, other = (bootstrap.Bootstrap(np.arange(30), 50, seed).draws(values) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
