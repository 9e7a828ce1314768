from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from distill.metrics import bootstrap


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
                        expected = np.quantile(own[real], 0.5, method="inverted_cdf")
                    else:
                        expected = own[real].mean()
                    assert drawn[r, m] == pytest.approx(expected)


def test_the_figures_themselves() -> None:
    boot = bootstrap.Bootstrap(np.array(["a", "a", "a", "b"]))
    values = np.array([[1.0], [2.0], [3.0], [10.0]])
    assert boot.point(values)[0] == 4
    assert boot.point(values, "macro")[0] == 6
    assert boot.point(values, "median")[0] == 2
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
