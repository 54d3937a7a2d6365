"""Trials that pause at rungs and go on in other packs end as those that were never interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import methods
from bench.core import provenance
from bench.core.clock import Clock
from bench.core.record import Outcome, Status
from bench.core.spec import Pack, Trial
from bench.engine import state
from bench.engine.bank import Bank
from bench.engine.objective import Classification
from bench.engine.run import EngineOptions, run_pack
from tests.support.engine_helpers import budget, random_data, tiny_model, trial

STEPS: dict[str, Any] = {"max_steps": 12, "eval_steps": 5, "warmup_steps": 2, "weight_decay": 0.1}
DATA = random_data(n_train=40, n_eval=20)
TIMES = {"setup_seconds", "compile_seconds", "train_seconds", "eval_seconds", "examples_per_second",
         "tokens_per_second", "started_at"}  # fmt: skip
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Weights = dict[str, torch.Tensor]


def members(**changes: Any) -> list[Trial]:
    """Return trials of two ranks, of which one diverges at once and one later would."""
    rates = [(1e-3, 4), (3e-3, 2), (1e-2, 4), (1e200, 4), (3e-4, 2)]
    return [
        trial(eta_A=eta, eta_B=4 * eta, rank=rank, lora_alpha=float(rank), lora_dropout=0.1,
              budget=budget(**{**STEPS, **changes}))
        for eta, rank in rates
    ]  # fmt: skip


def go(pack: Pack, state_dir: Path | None, *, n_chunks: int | None = None) -> tuple[list[Outcome], Weights]:
    """Run a pack or a leg; return its outcomes and each trial's trained numbers at its own shapes, in one row."""
    found: Weights = {}

    def keep(bank: Bank) -> None:
        for k, one in enumerate(bank.trials):
            own = [part for of_layer in bank.adapters(k).values() for part in of_layer.values()]
            head = [bank.params[name][k] for name in bank.params.names() if name.startswith("classifier")]
            found[one.trial_id] = torch.cat([t.detach().flatten() for t in (*own, *head)])

    precision = pack.trials[0].budget.precision
    options = EngineOptions(device=torch.device("cpu"), n_chunks=n_chunks)
    model = tiny_model(dtype=DTYPES[precision])
    return run_pack(pack, DATA, model, options, clock=Clock(), on_trained=keep, state_dir=state_dir), found


def told(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    found = [{k: v for k, v in asdict(o).items() if k not in TIMES} for o in outcomes]
    for one in found:
        one["curve"] = [{k: v for k, v in point.items() if k != "train_seconds"} for point in one["curve"]]
    return found


@pytest.mark.parametrize("precision", ["fp64", "fp32", "fp16"])
@pytest.mark.parametrize("rungs", [[1], [4, 5], [3, 7, 11]])
def test_a_pack_that_pauses_goes_on_bitwise(tmp_path: Path, precision: str, rungs: list[int]) -> None:
    trials = tuple(t for t in members(precision=precision) if t.eta_A < 1)
    plain, weights = go(Pack(trials=trials), None)
    start = 0
    for rung in rungs:
        outcomes, _ = go(Pack(trials=trials, start=start, until=rung), tmp_path)
        assert {o.status for o in outcomes} == {Status.PAUSED}
        start = rung
    last, again = go(Pack(trials=trials, start=start), tmp_path)
    assert told(last) == told(plain)
    assert all(torch.equal(again[one.trial_id], weights[one.trial_id]) for one in trials)


def test_a_trial_that_dies_before_a_rung_is_over_there(tmp_path: Path) -> None:
    trials = tuple(members())
    plain, weights = go(Pack(trials=trials), None)
    outcomes, _ = go(Pack(trials=trials, until=7), tmp_path)
    (dead,) = [k for k, one in enumerate(outcomes) if one.status is Status.DIVERGED]
    assert outcomes[dead].diverged_step == plain[dead].diverged_step
    assert outcomes[dead].reason == plain[dead].reason
    alive = trials[:dead] + trials[dead + 1 :]
    assert len(list(tmp_path.iterdir())) == len(alive)
    _, again = go(Pack(trials=alive, start=7), tmp_path)
    for one in alive:
        torch.testing.assert_close(again[one.trial_id], weights[one.trial_id], rtol=0, atol=1e-10)


def test_survivors_of_two_packs_train_together_as_alone(tmp_path: Path) -> None:
    """Regrouped at each rung, padded to other ranks: within 1e-10 of a run alone, curve and all."""
    trials = [t for t in members() if t.eta_A < 1]
    expected = {t.trial_id: go(Pack(trials=(t,)), None) for t in trials}
    go(Pack(trials=tuple(trials[:2]), until=4), tmp_path)
    go(Pack(trials=tuple(trials[2:]), until=4), tmp_path)
    go(Pack(trials=(trials[3], trials[1]), start=4, until=9), tmp_path)  # rank 2 alone, after padding to 4
    go(Pack(trials=(trials[0],), start=4, until=9), tmp_path)
    survivors = (trials[1], trials[0], trials[3])
    outcomes, weights = go(Pack(trials=survivors, start=9), tmp_path)
    for one, outcome in zip(survivors, outcomes, strict=True):
        (alone,), own = expected[one.trial_id]
        torch.testing.assert_close(weights[one.trial_id], own[one.trial_id], rtol=0, atol=1e-10)
        assert [p.step for p in outcome.curve] == [p.step for p in alone.curve] == [5, 10, 12]
        for mine, theirs in zip(outcome.curve, alone.curve, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, abs=1e-10)
            assert mine.metric_value == theirs.metric_value
        assert outcome.steps_done == 12


@pytest.mark.parametrize("name", methods.names())
def test_every_method_moves(tmp_path: Path, name: str) -> None:
    """A pack of two, taken apart and trained on alone, is each trained alone."""
    method = methods.get(name)
    reads = method.reads
    given: dict[str, Any] = {"rank": 4, "lora_alpha": 8.0, "use_rslora": False, "lora_dropout": 0.0, "init": "zero_B",
                             "target_modules": ("query", "value"), "mora_type": 6,
                             "mora_rounding": "floor", "adapter_activation": "gelu", "adapter_gate": False}  # fmt: skip
    settings = {key: value if key in reads else None for key, value in given.items()}
    if method.at_equal_rates is not None:
        settings["eta_B"] = 4e-3
    trials = tuple(trial(method=name, eta_A=eta, budget=budget(**STEPS), **settings) for eta in (1e-3, 2e-3))
    go(Pack(trials=trials, until=6), tmp_path)
    for one in trials:
        (alone,), own = go(Pack(trials=(one,)), None)
        (outcome,), weights = go(Pack(trials=(one,), start=6), tmp_path)
        torch.testing.assert_close(weights[one.trial_id], own[one.trial_id], rtol=0, atol=1e-10)
        assert outcome.metric_value == alone.metric_value
        assert outcome.train_loss == pytest.approx(alone.train_loss, abs=1e-10)


def test_the_loss_at_a_rung_is_the_mean_over_the_later_half(tmp_path: Path) -> None:
    one = members()[0]
    (at_8,), _ = go(Pack(trials=(one,), until=8), tmp_path)
    (every,), _ = go(Pack(trials=(replace(one, budget=replace(one.budget, eval_steps=1)),)), None)
    losses = [p.train_loss for p in every.curve if p.train_loss is not None]
    assert at_8.train_loss == pytest.approx(sum(losses[4:8]) / 4, abs=1e-12)
    assert at_8.steps_done == 8
    assert [p.step for p in at_8.curve] == [5]


def test_seconds_go_along(tmp_path: Path) -> None:
    """Each trial's seconds are the sum of its shares of the packs it was in."""
    trials = tuple(t for t in members() if t.eta_A < 1)
    first, _ = go(Pack(trials=trials, until=6), tmp_path)
    (last,), _ = go(Pack(trials=trials[:1], start=6), tmp_path)
    assert first[0].train_seconds is not None
    assert last.train_seconds is not None
    assert last.train_seconds > first[0].train_seconds > 0
    assert [p.train_seconds for p in last.curve] == sorted(p.train_seconds for p in last.curve)
    assert last.curve[-1].train_seconds == pytest.approx(last.train_seconds)


@pytest.mark.parametrize("damage", ["torn", "gone", "other code", "link"])
def test_a_state_that_cannot_be_used_is_not(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = tuple(members()[:2])
    go(Pack(trials=trials, until=6), tmp_path)
    shelf = state.Shelf(tmp_path, provenance.source_hash())
    assert [shelf.step_of(t) for t in trials] == [6, 6]
    path = tmp_path / f"{trials[0].trial_id}-6.safetensors"
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[:-9])
    elif damage == "gone":
        path.unlink()
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr("bench.core.provenance.source_hash", lambda: "0" * 16)
    shelf = state.Shelf(tmp_path, provenance.source_hash())
    assert [shelf.step_of(t) for t in trials] == [0, 0 if damage == "other code" else 6]
    with pytest.raises(RuntimeError, match="states at step 6 are gone"):
        go(Pack(trials=trials, start=6), tmp_path)


def test_a_shelf_holds_the_latest_state_of_a_trial(tmp_path: Path) -> None:
    one = members()[0]
    go(Pack(trials=(one,), until=4), tmp_path)
    go(Pack(trials=(one,), start=4, until=8), tmp_path)
    shelf = state.Shelf(tmp_path, provenance.source_hash())
    assert shelf.step_of(one) == 8
    assert [p.name for p in tmp_path.iterdir()] == [f"{one.trial_id}-8.safetensors"]
    shelf.drop(one)
    assert list(tmp_path.iterdir()) == []


def test_trials_at_different_steps_are_no_pack(tmp_path: Path) -> None:
    one, two = members()[:2]
    go(Pack(trials=(one,), until=4), tmp_path)
    go(Pack(trials=(two,), until=5), tmp_path)
    shelf = state.Shelf(tmp_path, provenance.source_hash())
    states = [shelf.find(one, 4), shelf.find(two, 5)]
    with pytest.raises(ValueError, match="at one step"):
        state.joined([s for s in states if s is not None], states[0], {})  # type: ignore[arg-type]


def test_only_those_that_go_on_are_evaluated_at_a_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause on a point of the curves leaves its metric to the next leg: the curve is that of an uninterrupted run."""
    sizes: list[int] = []
    evaluate = Classification.evaluate

    def counted(self: Classification, path: Any, split: Any, *, n_trials: int) -> Any:
        sizes.append(n_trials)
        return evaluate(self, path, split, n_trials=n_trials)

    monkeypatch.setattr(Classification, "evaluate", counted)
    trials = tuple(t for t in members() if t.eta_A < 1)
    paused, _ = go(Pack(trials=trials, until=5), tmp_path)
    assert sizes == []
    assert [[(p.step, p.metric_value) for p in one.curve] for one in paused] == [[(5, None)]] * 4
    assert all(one.curve[0].train_loss is not None for one in paused)
    last, _ = go(Pack(trials=trials[:2], start=5), tmp_path)
    in_legs = list(sizes)
    plain, _ = go(Pack(trials=trials[:2]), None)
    assert in_legs == sizes[len(in_legs) :]
    assert set(in_legs) == {2}
    assert [told([one])[0]["curve"] for one in last] == [told([one])[0]["curve"] for one in plain]
