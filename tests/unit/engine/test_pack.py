"""A pack is its members: neighbours, slots, chunks, pack sizes and engine paths change nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bench.core.spec import Trial
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, random_data, tiny_model, trial
from tests.support.oracle import Packed, train_pack

STEPS = 24
HARD: dict[str, Any] = {
    "max_steps": STEPS, "eval_steps": 8, "max_grad_norm": 0.3, "warmup_steps": 3, "weight_decay": 0.1, "adam_eps": 1e-6,
}  # fmt: skip
DROPPING = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout": 0.2}
MEMBERS: list[dict[str, Any]] = [
    {"rank": 2, "eta_A": 1e-3}, {"rank": 8, "eta_A": 3e-3}, {"rank": 4, "eta_A": 1e-2, "init": "zero_A"},
    {"rank": 4, "eta_A": 5e-4, "eta_B": 8e-3, "method": "lora+"}, {"rank": 3, "eta_A": 2e-3, "use_rslora": True},
    {"rank": 8, "eta_A": 1e-4, "eta_B": 6.4e-3, "method": "lora+"},
]  # fmt: skip


def members(*, dropout: float = 0.0, changes: Sequence[dict[str, Any]] = MEMBERS, **fields: Any) -> list[Trial]:
    return [trial(budget=budget(**HARD), lora_dropout=dropout, **{**fields, **m}) for m in changes]


@functools.cache
def model(*, drops: bool = False, kind: str = "roberta") -> LoadedModel:
    return tiny_model(kind, **(DROPPING if drops else {}))


def run(
    trials: Sequence[Trial], *, path: str = "auto", n_chunks: int = 4, drops: bool = False, kind: str = "roberta"
) -> Packed:
    return train_pack(
        model(drops=drops, kind=kind), random_data(types=kind == "bert"), trials, path=path, n_chunks=n_chunks
    )


@functools.cache
def reference(*, drops: bool = False, kind: str = "roberta") -> Packed:
    """The pack of six on the bank path."""
    return run(members(dropout=0.1 if drops else 0.0), path="bank", drops=drops, kind=kind)


def assert_slot_equal(a: Packed, i: int, b: Packed, j: int) -> None:
    """Bit for bit: every loss, norm and weight of a's slot i and b's slot j."""
    np.testing.assert_array_equal(a.losses_SxK[:, i], b.losses_SxK[:, j])
    np.testing.assert_array_equal(a.norms_SxK[:, i], b.norms_SxK[:, j])
    left, right = a.slot(i), b.slot(j)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def assert_slot_close(a: Packed, i: int, b: Packed, j: int) -> None:
    """To 1e-10 in float64, and the weights to 1e-9."""
    np.testing.assert_allclose(a.losses_SxK[:, i], b.losses_SxK[:, j], rtol=0, atol=1e-10)
    left, right = a.slot(i), b.slot(j)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("path", ["bank", "unpadded", "filled"])
@pytest.mark.parametrize("drops", [False, True])
def test_a_trial_driven_to_nan_leaves_its_neighbours_bitwise_alone(path: str, drops: bool) -> None:
    calm = members(dropout=0.1 if drops else 0.0)
    wild = [*calm[:2], replace(calm[2], eta_A=1e200, eta_B=1e200), *calm[3:]]
    quiet, loud = run(calm, path=path, drops=drops), run(wild, path=path, drops=drops)
    assert not quiet.state.diverged_step_K.any()
    step = int(loud.state.diverged_step_K[2])
    assert 2 <= step <= 6, "the first update has rate 0, the second breaks it"
    assert np.isfinite(loud.losses_SxK[: step - 1, 2]).all()
    assert not np.isfinite([loud.losses_SxK[step - 1, 2], loud.norms_SxK[step - 1, 2]]).all()
    assert all(point.step < step for point in loud.state.curves[2])
    assert all(bool(torch.isfinite(weight).all()) for weight in loud.slot(2).values()), "frozen before the bad update"
    for k in (0, 1, 3, 4, 5):
        assert loud.state.diverged_step_K[k] == 0
        assert [p.step for p in loud.state.curves[k]] == [8, 16, 24]
        assert_slot_equal(quiet, k, loud, k)


def test_a_pack_whose_trials_have_all_diverged_stops() -> None:
    wild = [replace(t, eta_A=1e200, eta_B=1e200) for t in members()[:2]]
    assert run(wild).state.steps_done == HARD["eval_steps"]


def test_a_pack_of_six_is_two_packs_of_three() -> None:
    six = reference()
    for start in (0, 3):
        three = run(members()[start : start + 3], path="bank")
        for j in range(3):
            assert_slot_close(six, start + j, three, j)


def test_permuting_members_permutes_results() -> None:
    order = (4, 2, 0, 5, 1, 3)
    mixed = run([members()[k] for k in order], path="bank")
    for j, k in enumerate(order):
        assert_slot_close(reference(), k, mixed, j)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("n_chunks", [1, 3, 8])
def test_chunkings_agree(n_chunks: int, drops: bool) -> None:
    other = run(members(dropout=0.1 if drops else 0.0), path="bank", n_chunks=n_chunks, drops=drops)
    for k in range(6):
        assert_slot_close(reference(drops=drops), k, other, k)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_engine_paths_and_pack_sizes_agree_with_every_dropout_on(kind: str) -> None:
    """Hidden, attention, classifier and adapter dropout at once: masks depend on their keys only."""
    six = reference(drops=True, kind=kind)
    for path in ("unpadded", "filled"):
        other = run(members(dropout=0.1), path=path, drops=True, kind=kind)
        for k in range(6):
            assert_slot_close(six, k, other, k)
    for path in ("bank", "unpadded", "filled"):
        alone = run(members(dropout=0.1)[3:4], path=path, drops=True, kind=kind, n_chunks=2)
        assert_slot_close(six, 3, alone, 0)
    if kind == "roberta":
        assert np.abs(six.losses_SxK - reference().losses_SxK).max() > 0.01, "the dropout is on"


def test_adapter_dropout_alone_is_on() -> None:
    dry = run(members(dropout=0.3), path="bank")
    assert (np.abs(dry.losses_SxK - reference().losses_SxK).max(axis=0) > 1e-4).all()


def test_a_repeat_is_bitwise_equal_and_another_seed_is_not() -> None:
    trials = members(dropout=0.1)
    first, again = reference(drops=True), run(trials, path="bank", drops=True)
    other = run([replace(t, seed=1) for t in trials], path="bank", drops=True)
    for k in range(6):
        assert_slot_equal(first, k, again, k)
    assert (np.abs(first.losses_SxK - other.losses_SxK).max(axis=0) > 1e-3).all()


def test_lora_plus_at_ratio_one_is_lora_bit_for_bit() -> None:
    lora = members()
    plus = [*lora[:1], replace(lora[1], method="lora+"), *lora[2:]]
    assert plus[1].eta_B == plus[1].eta_A
    merged, apart = reference(), run(plus, path="bank")
    for k in range(6):
        assert_slot_equal(merged, k, apart, k)


def test_padding_of_shorter_ranks_stays_exactly_zero() -> None:
    """Also under weight decay, clipping and dropout; the part that is not padding moves."""
    pack = reference(drops=True)
    for shape in pack.bank.shapes:
        A, B = (pack.bank.params[f"{shape.path}.{leaf}"].detach() for leaf in ("A", "B"))
        assert A.shape[1] == B.shape[2] == 8
        for k, member in enumerate(pack.bank.trials):
            rank = member.rank or 0
            assert not A[k, rank:].any()
            assert not B[k, :, rank:].any()
            assert bool(A[k, :rank].all())
            assert bool(B[k, :, :rank].all())


def test_an_axis_that_the_method_does_not_read_changes_nothing() -> None:
    unread = {"mora_type": 6, "mora_rounding": "floor"}
    other = run(members(**unread), path="bank")
    for k in range(6):
        assert_slot_equal(reference(), k, other, k)
    mora: dict[str, Any] = {
        "method": "mora", "mora_type": 1, "mora_rounding": "floor", "eta_B": None, "init": None, "lora_alpha": None,
        "use_rslora": None,
    }  # fmt: skip
    plain, changed = (trial(budget=budget(**HARD), **mora | c) for c in ({}, {"eta_B": 0.5, "lora_alpha": 9.0}))
    assert_slot_equal(run([plain]), 0, run([changed]), 0)


def test_a_pack_runs_in_every_schedule_and_without_clipping() -> None:
    """Each slot of a pack equals the slot alone for what is set once for the pack: schedule, clipping, optimizer."""
    for changes in ({"lr_scheduler_type": "cosine"}, {"max_grad_norm": None}, {"optimizer": "sgd"}):
        shared = budget(**{**HARD, "max_steps": 8, **changes})
        trials = [replace(t, budget=shared) for t in members()[:3]]
        together = run(trials)
        for k, member in enumerate(trials):
            assert_slot_close(together, k, run([member]), 0)
