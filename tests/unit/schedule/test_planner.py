"""Packs: every trial in exactly one, whatever is finished and in whatever order the grid is written."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.spec import Meaning, Pack, Trial
from bench.engine.sizes import VALUES_KEPT, Shape, shape_of
from bench.schedule import estimate, planner
from bench.schedule.estimate import Calibration, Place, Workload
from bench.schedule.planner import Limits
from bench.sweep import planning
from tests.campaigns.scale.cluster import simulate
from tests.support.sweep_helpers import BUDGET, OPTIONS, family, grid, ids, records, study, trial

PLACE = Place(device="fake")
WORK = Workload(matmul_params=1000, train_tokens=10.0, n_eval=50, eval_tokens=20.0, n_select=16)


def plan(trials: tuple[Trial, ...], size: int | None = None) -> tuple[Pack, ...]:
    return planner.plan(trials, limits=Limits(max_pack_size=size), family=family)


def loras(n: int, seed: int = 0) -> tuple[Trial, ...]:
    return tuple(trial(eta_A=1e-5 * (i + 1), seed=seed) for i in range(n))


def test_every_trial_is_in_exactly_one_pack_of_one_seed_and_family() -> None:
    trials = grid()
    packs = plan(trials, 4)
    assert ids(t for pack in packs for t in pack.trials) == ids(trials)
    assert all(len({(t.seed, family(t)) for t in pack.trials}) == 1 for pack in packs)


@pytest.mark.parametrize(("n", "cap", "sizes"), [(18, 16, [9, 9]), (33, 16, [11, 11, 11]), (16, 16, [16]),
                                                 (17, 8, [6, 6, 5]), (1, 16, [1])])  # fmt: skip
def test_packs_of_a_family_are_balanced(n: int, cap: int, sizes: list[int]) -> None:
    assert [pack.size for pack in plan(loras(n), cap)] == sizes


def test_packs_do_not_depend_on_the_order_of_the_grid() -> None:
    trials = list(grid())
    expected = {pack.pack_id for pack in plan(tuple(trials), 4)}
    random.Random(0).shuffle(trials)
    assert {pack.pack_id for pack in plan(tuple(trials), 4)} == expected


def test_seeds_come_one_after_the_other() -> None:
    order = [pack.trials[0].seed for pack in plan(grid(seeds=(3, 1, 2)), 4)]
    assert list(dict.fromkeys(order)) == [3, 1, 2]
    assert order == sorted(order, key=[3, 1, 2].index)


def test_full_fine_tuning_runs_alone_and_loras_of_any_rank_together_by_the_methods_own_word() -> None:
    trials = (
        *(trial(rank=rank, lora_alpha=float(rank), eta_A=eta) for rank in (2, 8) for eta in (1e-4, 1e-3)),
        trial(method="lora", eta_B=1e-3),
        trial(lora_dropout=0.1),
        trial(target_modules=("query",)),
        *(trial(method="mora", mora_type=t, mora_rounding="floor", rank=r, eta_B=None, lora_alpha=None, init=None)
          for t in (1, 6) for r in (2, 8)),
        *(trial(method="full", eta_A=eta, eta_B=None, rank=None, lora_alpha=None, lora_dropout=None, init=None,
                target_modules=None) for eta in (1e-5, 1e-4)),
    )  # fmt: skip
    packs = planner.plan(trials)
    assert [t.method for t in packs[0].trials].count("lora+") == 4
    assert sorted(pack.size for pack in packs) == [1, 1, 1, 1, 1, 1, 1, 1, 5]
    assert [t.rank for t in packs[0].trials] == [2, 2, 8, 8, 8]


def test_what_a_pack_must_share_beside_its_family_splits_it() -> None:
    pair = (trial(), trial(eta_A=2e-3))
    assert len(plan(pair)) == 1
    for change in ({"seed": 1}, {"data_hash": "e"}, {"model_hash": "n"}, {"task": "x"}, {"model": "x"},
                   {"budget": replace(BUDGET, max_steps=21)}):  # fmt: skip
        assert len(plan((pair[0], replace(pair[1], **change)))) == 2  # type: ignore[arg-type]


def test_whole_packs_stay_as_planned_whatever_is_finished() -> None:
    packs = plan(grid(), 4)
    finished = {t.trial_id for pack in packs[:3] for t in pack.trials}
    left = planner.pending(packs, finished, limits=Limits(max_pack_size=4), family=family)
    assert [p.pack_id for p in left] == [p.pack_id for p in packs[3:]]
    assert planner.pending(packs, {t.trial_id for t in grid()}, family=family) == ()


def test_what_is_left_of_half_finished_packs_is_packed_together() -> None:
    packs = plan(loras(12), 4)
    finished = {t.trial_id for pack in packs for t in pack.trials[:3]}
    left = planner.pending(packs, finished, limits=Limits(max_pack_size=4), family=family)
    assert [pack.size for pack in left] == [3]


@given(n=st.integers(1, 80), cap=st.integers(1, 20), done=st.integers(0, 8))
def test_cutting_what_is_left_gives_the_packs_that_were_left(n: int, cap: int, done: int) -> None:
    def one_family(one: Trial) -> Hashable:
        return 0

    limits = Limits(max_pack_size=cap)
    packs = planner.plan(loras(n), limits=limits, family=one_family)
    rest = tuple(t for pack in packs[done:] for t in pack.trials)
    assert planner.plan(rest, limits=limits, family=one_family) == packs[done:]
    assert max(pack.size for pack in packs) <= cap
    assert max(pack.size for pack in packs) - min(pack.size for pack in packs) <= 1


def test_memory_bounds_a_pack_and_never_below_one_trial() -> None:
    shape = Shape(n_layers=2, hidden_size=100, train_tokens=10.0)
    of_one = 4 * 10 * 100 * 2 * VALUES_KEPT * 4  # batch, tokens, hidden, layers, values, bytes

    def limit(trials_that_fit: float) -> int:
        memory = int(trials_that_fit * of_one / planner.MEMORY_SHARE)
        return planner.pack_limit(trial(), Limits(memory_bytes=memory, shape=shape))

    assert [limit(0.2), limit(3.5), limit(1000)] == [1, 3, planner.MAX_PACK_SIZE["cpu"]]
    assert planner.limits_for(study(pack_size=3), Limits(memory_bytes=5)) == Limits(max_pack_size=3, memory_bytes=5)


def test_work_counts_forward_backward_and_evaluation() -> None:
    tokens, evals = 20 * 4 * 10.0, 2 * 50 * 20.0 + 16 * 10.0
    assert estimate.flop(trial(), WORK) == 1000 * (4 * tokens + 2 * evals)
    assert estimate.flop(grid()[4], WORK) == 1000 * (6 * tokens + 2 * evals)
    config = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
    assert estimate.matmul_params(config) == 84_934_656
    assert estimate.matmul_params({"n_embd": 768, "n_layer": 12}) == 84_934_656


def test_an_estimate_says_whether_it_was_measured() -> None:
    packs = plan(loras(4))
    nominal = estimate.estimate(packs, estimate.UNCALIBRATED, WORK, PLACE)
    assert nominal.seconds == 4 * estimate.flop(trial(), WORK) / estimate.NOMINAL_FLOP_PER_SECOND["cpu"]
    assert not nominal.calibrated
    measured = estimate.UNCALIBRATED.with_pack(records(packs[0].trials), WORK, PLACE)
    assert estimate.estimate(packs, measured, WORK, PLACE) == estimate.Estimate(seconds=2.0, calibrated=True)
    other = plan(tuple(t for t in grid() if t.method == "full"))
    assert estimate.estimate(other, measured, WORK, PLACE).calibrated is False
    assert estimate.estimate(packs, measured, WORK, Place(device="another")).calibrated is False


def test_half_trained_trials_do_not_calibrate() -> None:
    assert estimate.UNCALIBRATED.with_pack(records(loras(2), steps_done=7), WORK, PLACE) == estimate.UNCALIBRATED


def test_calibrations_are_kept_and_broken_ones_count_as_none(tmp_path: Path) -> None:
    directory = tmp_path
    assert estimate.read_calibration(directory) == estimate.UNCALIBRATED
    key = ("fake", "tiny", "fp32", "lora", "train")
    kept = Calibration(spent={key: (2.0, 5.0)})
    estimate.write_calibration(directory, kept)
    assert estimate.read_calibration(directory) == kept
    newer = Calibration(spent={key: (1.0, 5.0), ("f", "t", "p", "m", "eval"): (1.0, 1.0)})
    assert newer.over(kept).spent[key] == (1.0, 5.0)
    for text in ("", "{", "[1]", '[{"device": 1}]', "{}", '{"a": 2}'):
        (directory / estimate.CALIBRATION_NAME).write_text(text)
        assert estimate.read_calibration(directory) == estimate.UNCALIBRATED


# Many devices


@pytest.mark.parametrize("overhead", [0.0, 18.0])
def test_spread_keeps_every_trial_in_order(overhead: float) -> None:
    packs = planner.plan(grid(), limits=Limits(max_pack_size=4), family=family)
    assert planner.spread(packs, 1, overhead=overhead) == packs
    for n_devices in (2, 3, 50):
        cut = planner.spread(packs, n_devices, overhead=overhead)
        assert [t for p in cut for t in p.trials] == [t for p in packs for t in p.trials]
        assert min(pack.size for pack in cut) >= 1


def test_without_a_packs_own_cost_the_last_packs_are_smaller() -> None:
    trials = tuple(trial(seed=s, eta_A=1e-4 * i) for s in range(20) for i in range(1, 11))
    cut, left = planner.spread(planner.plan(trials, limits=Limits(max_pack_size=16)), 3), len(trials)
    for pack in cut:
        assert 1 <= pack.size <= max(1, left // (planner.SPREAD * 3))
        left -= pack.size


@pytest.mark.parametrize(("n_seeds", "size", "by_hand"), [(1, 126, 34), (3, 42, 39), (9, 14, 57)])
def test_packs_that_cannot_be_joined_are_cut_for_all_devices(n_seeds: int, size: int, by_hand: float) -> None:
    """126 trials on 8 devices, 18 for each pack itself, by hand: 8 packs; 6 of 14 and 2 of 21; 7 of 9 packs halved."""
    trials = tuple(trial(seed=s, eta_A=1e-4 * i) for s in range(n_seeds) for i in range(1, size + 1))
    cut = planner.spread(planner.plan(trials, limits=Limits(max_pack_size=64)), 8, overhead=18)
    assert sorted(t.trial_id for p in cut for t in p.trials) == sorted(t.trial_id for t in trials)
    assert planner.makespan([pack.size for pack in cut], 8, overhead=18) <= 1.1 * by_hand


@pytest.mark.parametrize(
    ("n", "n_devices", "most", "way"),
    [
        (126, 8, 64, "launched"), (126, 2, 64, "launched"), (1000, 8, 64, "launched"), (7, 8, 64, "launched"),
        (100, 8, 16, "launched"), (126, 8, 64, "recorded"), (126, 8, 128, "recorded"), (1000, 8, 128, "recorded"),
    ],
)  # fmt: skip
def test_on_gpus_the_end_is_within_a_tenth_of_even_waves(n: int, n_devices: int, most: int, way: str) -> None:
    """By hand: w = ceil(n / (devices * most)) waves, each of ceil(n / (devices * w)) trials and one pack's own cost."""
    trials = tuple(trial(eta_A=1e-4 * i) for i in range(1, n + 1))
    packs = planner.plan(trials, limits=Limits(max_pack_size=most))
    overhead = planner.PACK_OVERHEAD[way]
    cut = planner.spread(packs, n_devices, overhead=overhead)
    waves = -(-n // (n_devices * most))
    by_hand = waves * (overhead + -(-n // (n_devices * waves)))
    found = planner.makespan([pack.size for pack in cut], n_devices, overhead=overhead)
    assert found <= 1.1 * by_hand
    assert found <= planner.makespan([pack.size for pack in packs], n_devices, overhead=overhead)


ROBERTA = Shape(n_layers=12, hidden_size=768, train_tokens=13.8, n_weights=124_645_632)
LLAMA = shape_of(
    {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "hidden_act": "silu", "vocab_size": 32000,
    },
    is_decoder=True, train_tokens=256.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "changes", "metric", "found"),
    [
        (ROBERTA, {}, "accuracy", 4.75),  # 3.6 ms for one trial, 43.0 for 64: 2.97 and 0.625 for each
        (ROBERTA, {"precision": "fp16"}, "accuracy", 42),  # not recorded: 43.5 and 107.5: 42.5 and 1.016 for each
        (ROBERTA, {"max_steps": 49}, "accuracy", 42),
        (ROBERTA, {}, "pearson", 42),
        (replace(ROBERTA, n_weights=0), {}, "accuracy", 42),
        (LLAMA, {}, "perplexity", 0.08),  # 0.11 s of launches beside 1.4 s of products
        (None, {}, "accuracy", 42),
    ],
)
def test_a_pack_s_own_cost_follows_from_whether_its_steps_are_recorded(
    shape: Shape | None, changes: dict[str, Any], metric: str, found: float
) -> None:
    settings = {"max_steps": 50, "eval_steps": 10, "batch_size": 32, "max_length": 256, "precision": "bf16", **changes}
    one = trial(budget=replace(BUDGET, **settings), meaning=Meaning(metric_name=metric))
    limits = Limits(device_kind="cuda", shape=shape)
    assert planner.overhead_of(Pack(trials=(one,)), limits) == pytest.approx(found, rel=0.1)
    assert planner.overhead_of(Pack(trials=(one,)), Limits()) == planner.PACK_OVERHEAD["cpu"]


def test_a_sweep_s_packs_are_cut_by_that_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = tuple(trial(eta_A=1e-4 * i, budget=replace(BUDGET, max_steps=50, precision="bf16")) for i in range(1, 65))
    spread, costs = planner.spread, list[float]()

    def spy(packs: Sequence[Pack], n_devices: int, *, overhead: float) -> tuple[Pack, ...]:
        costs.append(overhead)
        return spread(packs, n_devices, overhead=overhead)

    monkeypatch.setattr(planner, "spread", spy)
    limits = Limits(device_kind="cuda", shape=ROBERTA, max_pack_size=64)
    left = planning.plan(
        study(pack_size=None), trials, results_dir=tmp_path, finished=(), options=replace(OPTIONS, limits=limits),
        slots=4, family=family,
    ).left  # fmt: skip
    assert costs == [planner.overhead_of(left[0], limits)]
    assert [pack.size for pack in left] == [16] * 4


@pytest.mark.parametrize("seed", [0, 1])
def test_two_hundred_virtual_devices_end_near_the_lower_bound(seed: int) -> None:
    trials = tuple(trial(seed=s, eta_A=1e-4 * i) for s in range(20) for i in range(1, 1001))
    packs = planner.plan(trials, limits=Limits(max_pack_size=16))
    done = simulate(planner.spread(packs, 200), n_devices=200, seed=seed)
    assert done.n_lost > 0
    assert (set(done.runs.values()), len(done.runs)) == ({1}, len(trials))
    assert 1.0 <= done.makespan / done.lower_bound <= 1.10
    assert simulate(packs, n_devices=200, seed=seed).makespan > 1.10 * done.lower_bound, "what spread is for"
