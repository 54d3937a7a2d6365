"""Calibration on simulated pools: the level is kept, a rule that lies is caught, power grows with gap and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from bench.comparison import arms, calibrate, calibrate_methods, rule
from bench.comparison.calibrate import Calibration
from bench.comparison.calibrate_methods import MethodCalibration
from bench.comparison.numbers import Top
from tests.support.comparisons import row
from tests.support.plot_rows import lora_grid


def pool(n: int = 64, sd: float = 0.004, seed: int = 0) -> list[float]:
    """Return accuracies of n runs on 872 examples."""
    scores = np.random.default_rng(seed).normal(0.85, sd, n)
    return [float(score) for score in np.round(scores * 872) / 872]


def calibrated(scores: list[float], **more: object) -> Calibration:
    settings: dict[str, object] = {"n_comparisons": 400, "gaps": ()}
    return calibrate.calibrate(scores, np.random.default_rng(1), **{**settings, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("n_seeds", [6, 8])
def test_the_same_cell_on_both_sides_is_seldom_different(n_seeds: int) -> None:
    found = calibrated(pool(), n_seeds=n_seeds)
    assert found.passed
    assert found.interval.low <= found.false_positive_rate <= found.interval.high
    assert found.attainable_level == {6: 2 / 64, 8: 6 / 128}[n_seeds]
    assert found.interval.low <= found.attainable_level
    assert (found.n_pool, found.n_splits, found.n_comparisons) == ((64, 80, 400) if n_seeds == 6 else (64, 100, 400))
    assert "not shown to be above 5%" in calibrate.sentences(found)[0] or "below 5%" in calibrate.sentences(found)[0]


def test_a_rule_that_claims_too_much_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "rejects", lambda d, rng, **_: abs(d.mean()) > d.std() / len(d) ** 0.5)  # 1 sigma
    found = calibrated(pool())
    assert not found.passed
    assert found.false_positive_rate > 0.2
    assert ": ABOVE 5%" in calibrate.sentences(found)[0]


def test_comparisons_that_move_together_count_for_fewer() -> None:
    alone = np.array([0.0, 0.25, 0.25, 0.5] * 25)
    assert calibrate.effective(alone, 4) == 400  # binomial variance 0.047, observed 0.032: no penalty, no bonus
    together = np.array([0.0, 0.0, 0.0, 1.0] * 25)  # the four of a split always agree: as good as one
    assert calibrate.effective(together, 4) == pytest.approx(100, rel=0.02)
    assert calibrate.effective(np.zeros(10), 4) == 40


def test_power_grows_with_the_gap_and_the_seeds_and_0_has_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "SIZES", (6, 8, 16, 32))
    monkeypatch.setattr(calibrate, "N_POWER", 100)
    found = calibrated(pool(), gaps=(0.0, 0.004, 0.02), n_comparisons=200)
    by = {gap: {p.n: p.power for p in found.power if p.gap == gap} for gap in (0.0, 0.004, 0.02)}
    assert by[0.02][6] > 0.95
    assert by[0.004][32] > by[0.004][8] + 0.2
    assert by[0.004][16] > by[0.0][16] + 0.2
    assert max(by[0.0].values()) <= 0.13  # 5 of 100 are expected, 13 one time in a thousand
    assert (found.seeds_needed(0.02), found.seeds_needed(0.0)) == (6, None)
    assert "A gap of 2 points needs 6 seeds for a power of 80%" in calibrate.sentences(found)[3]
    assert "A gap of 0 points needs more than 32 seeds" in calibrate.sentences(found)[1]


def test_the_same_generator_gives_the_same_calibration() -> None:
    assert calibrated(pool(), gaps=(0.01,), n_comparisons=200) == calibrated(pool(), gaps=(0.01,), n_comparisons=200)


@pytest.mark.parametrize(
    ("scores", "more", "rule"),
    [
        (pool(63), {}, "a pool must hold 64 finite scores or more, but got 63"),
        (pool(64), {"n_seeds": 33}, "a pool must hold 66"),
        ([*pool(63), float("nan")], {}, "finite"),
        (pool(64), {"n_comparisons": 199}, "n_comparisons >= 200"),
    ],
)
def test_what_is_too_little_to_calibrate_on(scores: list[float], more: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        calibrated(scores, **more)


def test_equal_scores_are_never_different() -> None:
    found = calibrated([0.9] * 64)
    assert (found.false_positive_rate, found.interval.low, found.passed) == (0.0, 0.0, True)


# --- two tunings of one method --------------------------------------------------------------------------------------


def cells_of(means: list[float], luck: float, n_seeds: int, seed: int = 0) -> tuple[arms.Cell, ...]:
    """Return cells whose select and metric are their mean and a seed's luck."""
    rng = np.random.default_rng(seed)
    etas = [1e-4 * 2**i for i in range(len(means))]
    trials = lora_grid(etas, (1,), range(n_seeds))
    found = {}
    for t in trials:
        score = means[etas.index(t.eta_A)] + float(rng.normal(0, luck))
        found[t.trial_id] = {**row(t, score), "metric_value": means[etas.index(t.eta_A)]}
    return arms.cells(arms.Arm(name="lora", trials=trials), found, higher_is_better=True)


def of_methods(cells: tuple[arms.Cell, ...], **more: object) -> MethodCalibration:
    settings: dict[str, object] = {"n_tuning_seeds": 1, "top": None, "n_seeds": 8, "higher_is_better": True}
    return calibrate_methods.calibrate(cells, pool(), np.random.default_rng(2), **{**settings, **more})  # type: ignore[arg-type]


def test_one_clear_best_cell_is_found_by_both_tunings() -> None:
    found = of_methods(cells_of([0.8, 0.9, 0.8], 0.002, 3))
    assert (found.different_cells, found.claimed) == (0.0, 0.0)


def test_near_cells_and_one_seed_make_two_methods_of_one_and_more_seeds_mend_it() -> None:
    """Six cells on a slope, half a point apart each, chosen with a luck of half a point."""
    cells = cells_of([0.84, 0.845, 0.85, 0.85, 0.845, 0.84], 0.005, 4)
    one = of_methods(cells)
    assert one.different_cells > 0.5
    assert one.claimed > 0.05
    four = of_methods(cells, n_tuning_seeds=4)
    again = of_methods(cells, top=Top(n_cells=3, seeds=(500, 501, 502)))
    assert four.claimed < one.claimed
    assert again.claimed < one.claimed
    told = calibrate_methods.sentence(again)
    assert "(1 a cell, the best 3 again with 3 more), simulated from its 6 cells, 6 of them with several seeds" in told


def test_equal_cells_are_different_and_seldom_told_apart() -> None:
    found = of_methods(cells_of([0.85] * 6, 0.005, 3))
    assert found.different_cells > 0.6
    assert found.claimed <= 0.05


def test_one_seed_a_cell_is_too_few() -> None:
    cells = cells_of([0.8, 0.9], 0.002, 1)
    assert not calibrate_methods.is_enough(cells)
    with pytest.raises(ValueError, match="2 cells with 2 seeds"):
        of_methods(cells)
