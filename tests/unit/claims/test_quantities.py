"""What claims measure, on rows whose answer is worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.claims import quantities
from bench.claims.arms import Arm, NoRows
from bench.claims.claim import Check
from bench.claims.verdict import Estimate
from bench.core import stats

SEEDS = range(8)


def rows_of(
    scores: Callable[[int, float], float], *, method: str, rates: tuple[float, ...], seeds: Any = SEEDS, **more: Any
) -> pd.DataFrame:
    """Return a row for each rate and seed; `scores(seed, rate)` is both what is chosen by and the metric."""
    made = [
        {
            "method": method, "seed": seed, "eta_A": rate, "eta_B": rate, "lr_ratio": 1.0, "rank": 8,
            "metric_name": "accuracy", "status": "ok", "select_metric": scores(seed, rate),
            "metric_value": scores(seed, rate), "task": "t", "model": "m", "init": "zero_B", "curve": None, **more,
        }
        for rate in rates
        for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(made)


def measured(name: str, rows: pd.DataFrame, **settings: Any) -> Estimate:
    return quantities.get(name)(Check(size="tiny", rows=("x",), settings=settings), rows)


LORA, FULL = {"method": "lora"}, {"method": "full"}


def test_a_gain_is_the_paired_difference_in_points() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 8)
    both = [
        rows_of(lambda seed, _: 0.8 + noise[seed], method="lora", rates=(1e-3,)),
        rows_of(lambda seed, _: 0.82 + noise[seed] + 0.001 * seed, method="full", rates=(1e-4,)),
    ]
    found = measured("gain", pd.concat(both, ignore_index=True), first=FULL, second=LORA)
    assert found.value == pytest.approx(2.35)
    interval = stats.mean_interval(2.0 + 0.1 * np.arange(8), np.random.default_rng(0))
    assert interval is not None
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert (found.n, found.over, found.unit) == (8, "seeds", "points")


def test_no_cell_is_scored_on_the_seed_that_chose_it() -> None:
    """Cells of pure noise: the best of 50 on its own seed is far above 0; on the others it is not."""
    noise = {rate: np.random.default_rng(i).normal(0, 1, 8) for i, rate in enumerate(np.linspace(1, 2, 50))}
    rows = rows_of(lambda seed, rate: noise[rate][seed], method="lora", rates=tuple(noise))
    arm = Arm(rows, LORA)
    honest = np.mean(list(arm.score().values()))
    assert abs(honest) < 1.0 < np.mean(arm.scored.max(axis=0))
    places = arm.best_by_others()
    for j in range(8):
        others = np.delete(arm.chosen, j, axis=1).mean(axis=1)
        assert places[j] == others.argmax()


@pytest.mark.parametrize(("named", "stored"), [
    ("query", '["query"]'), ("query,value", '["query", "value"]'), ("all-linear", '"all-linear"'),
])  # fmt: skip
def test_modules_are_named_as_options_have_them_and_found_as_rows_do(named: str, stored: str) -> None:
    rows = rows_of(lambda *_: 0.9, method="lora", rates=(1e-3,), target_modules=stored)
    assert len(Arm(rows, {"target_modules": named}).cells) == 1
    with pytest.raises(NoRows):
        Arm(rows, {"target_modules": "dense"})


def test_a_diverged_run_is_the_worst_and_a_missing_seed_is_left_out() -> None:
    rows = rows_of(lambda seed, rate: rate, method="lora", rates=(0.1, 0.2))
    rows.loc[(rows["eta_A"] == 0.2), "status"] = "diverged"
    assert set(Arm(rows, LORA).best_value("eta_A").values()) == {0.1}
    without = rows.drop(rows.index[(rows["eta_A"] == 0.1) & (rows["seed"] == 3)])
    assert 3 not in Arm(without, LORA).seeds


def test_a_ratio_of_best_rates_is_the_geometric_mean() -> None:
    both = [
        rows_of(lambda seed, rate: -abs(np.log2(rate / (4e-3 if seed % 2 else 1e-3))), method="lora",
                rates=(1e-3, 2e-3, 4e-3)),
        rows_of(lambda _, rate: -abs(np.log2(rate / 1e-4)), method="full", rates=(5e-5, 1e-4, 2e-4)),
    ]  # fmt: skip
    found = measured("best-ratio", pd.concat(both, ignore_index=True), first=LORA, second=FULL)
    assert found.value == pytest.approx(20.0)  # 10 in four seeds, 40 in four
    assert "best on the border in 8 of 8 seeds" in found.details


def test_a_slope_is_that_of_the_best_rate() -> None:
    parts = [
        rows_of(lambda _, rate, rank=rank: -abs(np.log(rate * rank**0.5 / 8e-3)), method="lora",
                rates=tuple(8e-3 / np.sqrt([1, 4, 16])), rank=rank)
        for rank in (1, 4, 16)
    ]  # fmt: skip
    found = measured("slope", pd.concat(parts, ignore_index=True), first=LORA, over="rank")
    assert found.value == pytest.approx(-0.5)


def test_a_ratio_of_dimensions_is_that_of_the_smallest_that_reach_90_percent() -> None:
    """Full fine-tuning has 0.9, so the target is 0.81: model a reaches it at d = 4, b at 16, in odd seeds at none."""

    def rows(model: str, enough: Callable[[int], int]) -> list[pd.DataFrame]:
        full = rows_of(lambda *_: 0.9, method="full", rates=(1e-4,), model=model)
        return [full] + [
            rows_of(lambda seed, _, d=d: 0.82 if d >= enough(seed) else 0.8, method="subspace", rates=(1e-3, 1e-2),
                    model=model).assign(rank=d)
            for d in (4, 16, 64)
        ]  # fmt: skip

    both = pd.concat([*rows("a", lambda _: 4), *rows("b", lambda seed: 16 if seed % 2 == 0 else 65)])
    of = {"reduced": {"method": "subspace"}, "whole": {"method": "full"}}
    found = measured("dimension", both, first={"model": "b"}, second={"model": "a"}, **of)
    assert found.value == pytest.approx((4 * 16) ** 0.5)  # 64, the largest, where none reaches it
    assert found.details == "median d90 40, not reached in 4 of 8 seeds; median d90 4"


def test_a_speed_up_counts_steps_to_the_other_s_last_score() -> None:
    def curve(steps: int) -> list[dict[str, float]]:
        return [{"step": s, "metric_value": min(1.0, s / steps)} for s in range(10, 101, 10)]

    both = [
        rows_of(lambda *_: 1.0, method="lora", rates=(1e-3,)), rows_of(lambda *_: 1.0, method="lora+", rates=(1e-3,)),
    ]  # fmt: skip
    for frame, steps in zip(both, (100, 50), strict=True):
        frame["curve"] = [curve(steps)] * len(frame)
    found = measured("speed-up", pd.concat(both, ignore_index=True), first={"method": "lora+"}, second=LORA)
    assert found.value == pytest.approx(2.0)


def test_seeds_needed_are_those_of_the_detectable_difference() -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, 8)
    both = [
        rows_of(lambda *_: 0.8, method="lora", rates=(1e-3,)),
        rows_of(lambda seed, _: 0.8 + noise[seed], method="full", rates=(1e-4,)),
    ]
    found = measured("seeds-needed", pd.concat(both, ignore_index=True), first=FULL, second=LORA, difference=1.1)
    sd, n = 100 * float(noise.std(ddof=1)), int(found.value)
    told, too_few = stats.detectable_difference(sd, n), stats.detectable_difference(sd, n - 1)
    assert told is not None
    assert told <= 1.1
    assert too_few is None or too_few > 1.1
    assert found.interval is not None
    assert found.interval.low <= found.value <= found.interval.high


def test_a_change_of_gain_is_a_difference_of_differences() -> None:
    parts = [
        rows_of(lambda *_, score=score: score, method=method, rates=(1e-3,), batch_size=size)
        for method, size, score in (("full", 8, 0.8), ("lora", 8, 0.79), ("full", 128, 0.8), ("lora", 128, 0.75))
    ]
    found = measured(
        "gain-change", pd.concat(parts, ignore_index=True), first=FULL, second=LORA, before={"batch_size": 8},
        after={"batch_size": 128},
    )  # fmt: skip
    assert found.value == pytest.approx(4.0)


def test_agreement_is_spearman_s_correlation() -> None:
    rates = (1e-3, 2e-3, 4e-3)
    parts = [
        rows_of(lambda _, rate: rate, method="lora", rates=rates, share=1.0),
        rows_of(lambda seed, rate: rate if seed < 4 else -rate, method="lora", rates=rates, share=0.1),
    ]
    found = measured(
        "agreement", pd.concat(parts, ignore_index=True), first={"share": 0.1}, second={"share": 1.0}, by=["eta_A"]
    )
    assert found.value == pytest.approx(0.0)


def test_a_ratio_of_seconds_is_the_median_within_rounds() -> None:
    rows = pd.DataFrame(
        [
            {"method": method, "repeat": i, "seconds_per_step": seconds, "device": "a CPU"}
            for method, times in (("full", [2, 4, 6, 8, 10, 12]), ("lora", [1, 2, 3, 4, 5, 3]))
            for i, seconds in enumerate(times)
        ]
    )
    found = measured("seconds-ratio", rows, first=FULL, second=LORA)
    assert (found.value, found.n, found.over) == (2.0, 6, "rounds")
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (2.0, 4.0)


def test_a_side_of_a_ratio_that_means_two_cases_has_no_verdict() -> None:
    rows = pd.DataFrame(
        [
            {"method": method, "lora_dropout": dropout, "case": f"{method} {dropout}", "repeat": i, "device": "a CPU"}
            | {"seconds_per_step": seconds}
            for method, dropout, seconds in (("full", 0.0, 4.0), ("lora", 0.0, 2.0), ("lora", 0.1, 1.0))
            for i in range(6)
        ]
    )
    with pytest.raises(NoRows, match=r"several cases .* lora 0\.0, lora 0\.1"):
        measured("seconds-ratio", rows, first=FULL, second=LORA)
    assert measured("seconds-ratio", rows, first=FULL, second=LORA | {"lora_dropout": 0.0}).value == 2.0


def test_a_count_needs_no_seeds() -> None:
    rows = pd.DataFrame({"method": ["full", "lora", "lora"], "stored_bytes": [400, 4, 4]})
    found = measured("count", rows, first=LORA, second=FULL, column="stored_bytes")
    assert (found.value, found.over) == (0.01, "nothing")
    rows.loc[2, "stored_bytes"] = 5
    with pytest.raises(NoRows, match="2 values"):
        measured("count", rows, first=LORA, second=FULL, column="stored_bytes")


def test_a_power_of_the_width_is_that_of_the_theory_s_rows() -> None:
    rows = pd.DataFrame(
        [
            {"power_A": -1, "power_B": 0, "width": width, "seed": seed, "of_A": width**-1.0, "of_B": 1.0}
            for width in (64, 128, 256)
            for seed in SEEDS
        ]
    )
    assert measured("width-power", rows, power_A=-1, power_B=0, of="A").value == pytest.approx(-1.0)
    assert measured("width-power", rows, power_A=-1, power_B=0, of="B").value == pytest.approx(0.0)


@pytest.mark.parametrize("where", [{"method": "dora"}, {"no_such_column": 1}])
def test_rows_that_are_not_there_are_told(where: dict[str, Any]) -> None:
    with pytest.raises(NoRows):
        Arm(rows_of(lambda *_: 1.0, method="lora", rates=(1e-3,)), where)
