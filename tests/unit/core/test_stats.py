"""Statistics against values worked by hand, enumeration, published tables, and simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as distributions
from scipy.stats import permutation_test

from bench.comparison import landscape
from bench.core import stats

INF = math.inf


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- paired differences -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0], 1.0),
        ([1.0, 2.0], 0.5),  # |sums| 3, 1, 1, 3
        ([1.0, 2.0, 3.0], 0.25),
        ([1.0, 2.0, -3.0], 1.0),  # the observed sum is 0
        ([1.0, 2.0, -1.0], 0.75),  # sums 2 4 0 2 and their negatives: 6 of 8 reach 2
        ([0.0, 0.0, 0.0], 1.0),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 0.0], 2 / 32),  # a zero cannot tell: the floor is that of five pairs
        ([0.1] * 6, 2 / 64),
        ([-0.1] * 6, 2 / 64),
    ],
)
def test_sign_flip_by_hand(differences: list[float], p: float) -> None:
    assert stats.sign_flip_p(differences, rng()) == p


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_sign_flip_is_the_enumeration_of_all_signs(whole: list[int]) -> None:
    patterns = itertools.product((1, -1), repeat=len(whole))
    hits = [abs(sum(s * d for s, d in zip(signs, whole, strict=True))) >= abs(sum(whole)) for signs in patterns]
    # thirds are not exact in floats: ties must still count as ties
    assert stats.sign_flip_p([d / 3 for d in whole], rng()) == sum(hits) / len(hits)


def test_sign_flip_beyond_enumeration_agrees_with_it_and_never_gives_0() -> None:
    d = rng(3).normal(0.4, 1, stats.EXACT_PAIRS + 1)
    signs = stats._signs(len(d))
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-12)
    assert stats.sign_flip_p(d, rng()) == pytest.approx(exact, abs=4 * math.sqrt(exact / stats.N_FLIPS))
    assert stats.sign_flip_p([1.0] * 40, rng()) == 1 / (stats.N_FLIPS + 1)


@pytest.mark.parametrize("n", [6, 9, 12])
def test_the_exact_sign_flip_test_is_scipys_permutation_test(n: int) -> None:
    for d in (rng().normal(size=n), rng().integers(-4, 5, size=n) / 872):  # the second has ties and zeros
        found = permutation_test((d,), np.sum, permutation_type="samples", n_resamples=2**n)
        assert stats.sign_flip_p(d, rng()) == pytest.approx(found.pvalue, rel=1e-12)


def test_sign_flip_keeps_its_level_exactly_where_every_sign_is_as_likely() -> None:
    """Over all 2^n signs of the same sizes, p <= alpha happens in a share of at most alpha: what a level is."""
    sizes = np.array([0.3, 1.1, 0.7, 2.0, 0.2, 1.6, 0.9])
    ps = [stats.sign_flip_p(sizes * signs, rng()) for signs in itertools.product((1, -1), repeat=7)]
    for alpha in (0.02, 0.05, 0.1, 0.3):
        assert np.mean(np.array(ps) <= alpha) <= alpha
    assert min(ps) == stats.attainable_p(7) == 2 / 128


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (8, 0.0078125), (10, 2 / 1024)])
def test_attainable_p(n: int, p: float) -> None:
    assert stats.attainable_p(n) == p
    assert stats.attainable_p(n, 4) == min(1, 4 * p)


@pytest.mark.parametrize(("n", "level"), [(5, 0), (6, 1 / 32), (8, 6 / 128), (10, 25 / 512)])
def test_attainable_level(n: int, level: float) -> None:
    assert stats.attainable_level(n) == level


@pytest.mark.parametrize(("claims", "n"), [(1, 6), (2, 7), (3, 7), (4, 8), (8, 9)])
def test_pairs_needed_for_a_family(claims: int, n: int) -> None:
    assert stats.pairs_needed(claims) == n
    assert stats.attainable_p(n, claims) <= stats.ALPHA
    assert n == stats.MIN_PAIRS or stats.attainable_p(n - 1, claims) > stats.ALPHA


def by_test(d: np.ndarray, centre: float) -> float:
    """Return the sign-flip p of differences from a centre."""
    return stats.sign_flip_p(d - centre, rng())


@given(st.lists(st.integers(-5, 9), min_size=6, max_size=9))
def test_the_interval_inverts_the_sign_flip_test(whole: list[int]) -> None:
    d = np.array(whole) / 4  # exact in binary, so that equal differences equal their mean
    found = stats.mean_interval(d, rng())
    assert found is not None
    for inside in (found.low, found.high, d.mean()):
        assert by_test(d, inside) > 0.05
    for outside in (found.low - 1e-6, found.high + 1e-6):
        assert by_test(d, outside) <= 0.05
    assert found.excludes(0) == (stats.sign_flip_p(d, rng()) <= 0.05)


def test_the_interval_by_hand() -> None:
    """64 * 0.025 = 1.6: of six values the smallest and the largest subset mean; of five none is extreme enough."""
    assert stats.mean_interval([3, 1, 2, 6, 5, 4], rng()) == stats.Interval(low=1, high=6)
    assert stats.mean_interval([3, 1, 2, 6, 5], rng()) is None
    assert stats.mean_interval([3, 1, 2, 6, 5], rng(), level=0.9) == stats.Interval(low=1, high=6)
    # 2^7 * 0.025 = 3.2: the third smallest mean of subsets of 0, 0, 0, 0, 0, 0, 7 is 0, the third largest 7 / 2
    assert stats.mean_interval([0, 0, 0, 0, 0, 0, 7], rng()) == stats.Interval(low=0, high=3.5)
    assert stats.mean_interval([0.25] * 6, rng()) == stats.Interval(low=0.25, high=0.25)


def test_beyond_enumeration_the_interval_is_of_random_subsets() -> None:
    d = rng(3).normal(0.4, 1, stats.EXACT_PAIRS + 2)
    found = stats.mean_interval(d, rng())
    assert found is not None
    half = distributions.t(len(d) - 1).ppf(0.975) * d.std(ddof=1) / math.sqrt(len(d))
    assert (found.low, found.high) == (
        pytest.approx(d.mean() - half, abs=0.1 * half),
        pytest.approx(d.mean() + half, abs=0.1 * half),
    )


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_what_has_no_interval_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="n >= 1 and finite"):
        stats.mean_interval(bad, rng())


def test_zero_differences_double_the_smallest_p() -> None:
    assert stats.attainable_p(8) == 2 / 256
    assert stats.attainable_p(8, n_zeros=1) == 4 / 256 == stats.sign_flip_p([1, 2, 3, 4, 5, 6, 7, 0], rng())
    assert stats.attainable_p(8, 4, n_zeros=2) == 32 / 256


# --- signs, examples, medians -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        ([2, 2, 2, 2, 2, 2], [1] * 6, 2 / 64),
        ([INF, INF, INF, INF, INF, 2], [1] * 6, 2 / 64),  # a target not reached against one reached is a sign
        ([INF] * 6, [INF] * 6, 1.0),  # never reached by both: a tie
        ([2, 2, 2, 2, 2, 1], [1] * 6, 2 / 32),  # ties are left out
        ([1, 1, 1, 1, 1, 9], [2] * 6, 2 * 7 / 64),  # of sizes only the sign counts
    ],
)
def test_the_sign_test_by_hand(first: list[float], second: list[float], p: float) -> None:
    assert stats.sign_p(first, second) == pytest.approx(p)
    assert stats.sign_p(second, first) == pytest.approx(p)


def test_the_probability_of_outperforming_counts_ties_half() -> None:
    assert stats.outperforms([1, 2, 3, -INF], [0, 2, 4, -INF]) == (1 + 0.5 + 0 + 0.5) / 4


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_whole_numbers_have_the_exact_sign_flip_p(whole: list[int]) -> None:
    assert stats.whole_sign_flip_p(whole) == pytest.approx(stats.sign_flip_p(whole, rng()), rel=1e-9)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 5), (1, 9), (9, 1), (0, 6), (40, 22), (600, 500)])
def test_with_one_seed_it_is_mcnemars_exact_test(b: int, c: int) -> None:
    expected = distributions.binomtest(b, b + c).pvalue if b + c else 1.0
    assert stats.whole_sign_flip_p([1] * b + [-1] * c + [0] * 7) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "low", "high", "covered"),
    [(2, 1, 2, 0.5), (3, 1, 3, 0.75), (5, 1, 5, 0.9375), (6, 1, 6, 0.96875), (7, 1, 7, 0.984375), (9, 2, 8, 0.9609375)],
)
def test_order_statistics_of_a_median(n: int, low: float, high: float, covered: float) -> None:
    found = stats.median_interval(list(range(n, 0, -1)))
    assert found == (stats.Interval(low=low, high=high), pytest.approx(covered))
    assert stats.median_interval([1.0]) is None
    draws = rng(n).exponential(size=(4000, n))
    hits = [not stats.median_interval(list(d))[0].excludes(math.log(2)) for d in draws]  # type: ignore[index]
    assert np.mean(hits) == pytest.approx(covered, abs=3.5 * math.sqrt(covered * (1 - covered) / 4000))


# --- families and examples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),  # 4*.005, 3*.01, 2*.03, then 1*.04 raised to .06
        ((0.5, 0.9), (1.0, 1.0)),
        ((0.02,), (0.02,)),
        ((), ()),
    ],
)
def test_holm_by_hand(p: tuple[float, ...], adjusted: tuple[float, ...]) -> None:
    assert stats.holm(p) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_stepwise_procedure_rejects(p: list[float], alpha: float) -> None:
    order, rejected = sorted(range(len(p)), key=lambda i: p[i]), set()
    for step, i in enumerate(order):
        if min(1.0, (len(p) - step) * p[i]) > alpha:
            break
        rejected.add(i)
    assert {i for i, q in enumerate(stats.holm(p)) if q <= alpha} == rejected


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0.0, 0.3085), (1, 20, 0.0013, 0.2487), (10, 10, 0.6915, 1.0)]
)
def test_clopper_pearson_against_tables(hits: int, n: int, low: float, high: float) -> None:
    found = stats.clopper_pearson(hits, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    exact = distributions.binomtest(hits, n).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


# --- tuning -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8))
def test_the_expected_best_of_n_is_the_mean_over_all_subsets(whole: list[int]) -> None:
    expected = [np.mean([max(s) for s in itertools.combinations(whole, n)]) for n in range(1, len(whole) + 1)]
    assert landscape.expected_best(whole) == pytest.approx(expected)


def test_what_is_reported_need_not_be_what_was_chosen_by() -> None:
    select, report = [0.3, 0.9, 0.5, -INF], [30.0, 10.0, 20.0, 5.0]
    expected = [
        np.mean([report[max(s, key=lambda i: select[i])] for s in itertools.combinations(range(4), n)])
        for n in range(1, 5)
    ]
    assert landscape.expected_best(report, chosen_by=select) == pytest.approx(expected)
    assert landscape.expected_best(report, chosen_by=select)[-1] == 10.0


def test_the_expected_best_of_a_large_grid_is_finite_and_rises() -> None:
    curve = landscape.expected_best(rng().normal(size=400))
    assert np.isfinite(curve).all()
    assert (np.diff(curve) >= -1e-12).all()


def test_width_by_hand() -> None:
    found = landscape.width_within([1, 2, 4, 8, 16], [0.0, 0.98, 1.0, 0.98, 0.5])
    # 0.99 is crossed half-way between 2 and 4, and half-way between 4 and 8, on the log axis
    assert found.octaves == pytest.approx(1.0)
    assert (found.low, found.high) == (pytest.approx(2**1.5), pytest.approx(2**2.5))
    assert (found.open_low, found.open_high) == (False, False)


def test_width_at_the_ends_of_the_grid_and_beside_diverged_rates() -> None:
    flat = landscape.width_within([1e-4, 2e-4, 4e-4], [0.9, 0.9, 0.9])
    assert flat.octaves == pytest.approx(2)
    assert (flat.open_low, flat.open_high) == (True, True)
    cliff = landscape.width_within([1, 2, 4], [0.9, 0.9, -INF])
    assert cliff.octaves == pytest.approx(1)
    assert (cliff.open_low, cliff.open_high) == (True, False)
    alone = landscape.width_within([1, 2, 4], [-INF, 0.9, -INF])
    assert (alone.octaves, alone.low) == (0.0, 2.0)


def test_only_the_connected_region_counts_and_negative_scores_have_a_region_too() -> None:
    assert landscape.width_within([1, 2, 4], [1.0, 0.0, 1.0]).octaves == pytest.approx(0.01)
    assert landscape.width_within([1, 2, 4], [-2.0, -1.0, -2.0]).octaves == pytest.approx(0.02)


# --- time to target -----------------------------------------------------------------------------------------------


def test_steps_to_target() -> None:
    steps, curve = [10, 20, 30], [0.5, 0.8, 0.7]
    assert stats.steps_to_target(steps, curve, 0.7) == 20
    assert stats.steps_to_target(steps, curve, 0.8) == 20
    assert stats.steps_to_target(steps, curve, 0.81) == INF
    assert stats.steps_to_target(steps, [None, None, 0.9], 0.8) == 30
    assert stats.steps_to_target(steps, [3.0, 2.0, 1.0], 2.0, higher_is_better=False) == 20
    assert stats.steps_to_target([], [], 0.5) == INF


@pytest.mark.parametrize(
    ("values", "middle"), [([3, 1, 2], 2), ([1, 2, 3, 4], 2.5), ([1, 2, INF], 2), ([1, 2, 3, INF], 2.5),
                           ([1, INF], INF), ([1, INF, INF], INF), ([INF, INF], INF)]
)  # fmt: skip
def test_misses_stay_in_the_median(values: list[float], middle: float) -> None:
    assert stats.median(values) == middle


def test_a_ratio_of_medians() -> None:
    found = stats.median_ratio([200.0] * 6, [100.0] * 6, rng())
    assert (found.value, found.interval, found.n) == (2.0, stats.Interval(low=2.0, high=2.0), 6)
    spread = stats.median_ratio([180, 190, 200, 210, 220, 230], [100, 95, 105, 100, 110, 90], rng())
    assert spread.value == pytest.approx(2.05)
    assert 1.7 < spread.interval.low < 2.05 < spread.interval.high < 2.5


def test_a_ratio_of_medians_with_misses() -> None:
    never = stats.median_ratio([INF] * 6, [100.0] * 6, rng())
    assert (never.value, never.interval) == (INF, stats.Interval(low=INF, high=INF))
    lost = stats.median_ratio([100.0] * 6, [INF] * 6, rng())
    assert (lost.value, lost.interval) == (0.0, stats.Interval(low=0.0, high=0.0))
    nothing = stats.median_ratio([INF] * 6, [INF] * 6, rng())
    assert (nothing.value, nothing.interval) == (None, stats.Interval(low=0.0, high=INF))
    some = stats.median_ratio([100, 100, 100, 100, INF, INF], [50.0] * 6, rng())
    assert some.value == 2.0
    assert some.interval == stats.Interval(low=2.0, high=INF)


def test_the_interval_of_a_ratio_covers() -> None:
    draws, hits = rng(7), 0
    for _ in range(150):
        top, bottom = draws.lognormal(math.log(2), 0.2, 15), draws.lognormal(0, 0.2, 15)
        hits += not stats.median_ratio(top, bottom, draws).interval.excludes(2.0)
    assert hits / 150 > 0.9


@pytest.mark.parametrize(("n", "n_claims", "sds"), [(8, 4, 1.91), (8, 1, 1.18), (10, 4, 1.33)])
def test_the_rule_detects_a_detectable_difference_with_its_power(n: int, n_claims: int, sds: float) -> None:
    """At n = 8 and four claims all differences must have one sign: Phi(1.91)^8 = 0.80."""
    gap, draws = stats.detectable_difference(0.4, n, n_claims=n_claims), rng(11)
    assert gap == pytest.approx(0.4 * sds, abs=0.4 * 0.02)
    hits = [n_claims * stats.sign_flip_p(draws.normal(gap, 0.4, n), draws) <= stats.ALPHA for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.035)


def test_nothing_is_detectable_where_no_p_is_small_enough_and_many_pairs_are_the_t_tests() -> None:
    assert stats.detectable_difference(1.0, 7, n_claims=4) is None
    enumerated = stats.detectable_difference(1.0, stats.N_POWER_PAIRS)
    formula = stats.detectable_difference(1.0, stats.N_POWER_PAIRS + 1)
    assert enumerated is not None
    assert formula is not None
    assert formula < enumerated < 1.08 * formula
    assert stats.detectable_difference(0.0, 8) == 0
