"""The intervals and the rule of claims as a whole, simulated: what docs/concepts/statistics.md tells holds."""

from __future__ import annotations

import math

import pytest

from bench.core import stats
from tests.support import claim_simulations as simulated
from tests.support.claim_simulations import SD, SIZES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("case", "least"), [("normal", 0.94), ("both arms collapse in 20 %", 0.94), ("exponential", 0.9)]
)
def test_the_interval_of_a_mean_covers(case: str, least: float, n: int) -> None:
    assert simulated.coverage(case, n, times=60_000) >= least  # good to 0.0012; the lowest true one is 0.905


@pytest.mark.parametrize("n", SIZES)
def test_where_one_arm_alone_collapses_no_interval_covers(n: int) -> None:
    """Why such a collapse is told and withholds the claim, instead of being left to an interval."""
    case = "one arm collapses in 20 %"
    for interval in (simulated.inversion, simulated.student_t):
        assert simulated.coverage(case, n, interval, times=4_000) < 0.9
    assert simulated.coverage(case, n, simulated.bootstrap_t, times=1_000) < 0.91


@pytest.mark.parametrize("n_eval", [None, 872])
@pytest.mark.parametrize("n", [8, 10])
def test_four_arms_without_a_gap_are_seldom_told_apart(n: int, n_eval: int | None) -> None:
    false, _ = simulated.claimed(n, (0, 0, 0, 0), n_eval=n_eval)
    assert false <= stats.ALPHA


@pytest.mark.parametrize("n", [8, 10])
def test_a_detectable_gap_is_claimed_in_four_of_five_with_holm_over_four(n: int) -> None:
    gap = stats.detectable_difference(SD * math.sqrt(2), n, n_claims=4)
    assert gap is not None
    false, power = simulated.claimed(n, (gap, 0, 0, 0))
    assert power == pytest.approx(0.8, abs=0.025)
    assert false <= stats.ALPHA


@pytest.mark.parametrize("n", [8, 10])
def test_speed_ups_of_four_equal_arms_are_seldom_claimed(n: int) -> None:
    assert simulated.speed_claimed(n, 4) <= stats.ALPHA


@pytest.mark.parametrize("n", [6, 8, 10])
def test_an_arm_that_collapses_now_and_then_is_hardly_ever_called_better(n: int) -> None:
    """It gains a point and loses 34 in one seed of five: 0.8^14 = 0.044 of such arms show no collapse in 14 runs."""
    by_rule, by_test = simulated.falls(n, n_pool=14 - n)
    assert by_rule <= 0.055
    assert by_test > 2 * by_rule  # the test alone, as it should be seen
    assert simulated.falls(n, n_pool=0)[0] == 0
    assert simulated.falls(n, n_pool=14 - n, rate=0)[0] > 0.75  # and one that never collapses is called better
