"""Contenders of a throughput run: peers and packs do the same work, and are timed where they train."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.core.errors import BadInput
from bench.timing.peers import contenders
from bench.timing.peers.contenders import _peer
from bench.timing.peers.contenders._base import Block
from bench.timing.peers.contenders._peer import PeerSession
from bench.timing.peers.timer import Timer
from tests.support.throughput_helpers import Ticks, tiny_work, tokens_of

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


def block_of(name: str, work: Any, *, precision: Any = "fp32", n_trials: int = 1) -> Block:
    session = contenders.get(name).start(work, precision=precision, n_trials=n_trials, repeat=0)
    try:
        return session.train(Timer())
    finally:
        session.close()


@pytest.mark.parametrize("n_trials", [1, 3])
def test_ours_trains_each_example_of_the_block_once_for_each_trial(n_trials: int) -> None:
    work = tiny_work(n=24)
    found = block_of("ours", work, n_trials=n_trials)
    steps = max(2, 6 // n_trials)
    assert (found.n_trials, found.steps, found.examples) == (n_trials, steps, n_trials * steps * 4)
    assert found.trial_steps == n_trials * steps
    assert found.computed_tokens == found.tokens, "the unpadded path computes no padding"
    if n_trials == 1:
        assert found.tokens == tokens_of(work)


def test_ours_times_the_steps_and_not_the_warm_up() -> None:
    session = contenders.get("ours").start(tiny_work(), precision="fp32", n_trials=2, repeat=0)
    seen: list[int] = []
    loop = session.loop  # type: ignore[attr-defined]
    clock = Ticks()

    def now() -> float:
        seen.append(loop.state.steps_done)
        return clock()

    found = session.train(Timer(now=now))
    assert seen == [2, 2 + found.steps], "two steps before the clock starts, then only the block's"
    assert found.seconds == 1.0


def test_ours_evaluates_all_trials_on_the_whole_split() -> None:
    work = tiny_work()
    session = contenders.get("ours").start(work, precision="fp32", n_trials=3, repeat=0)
    found = session.evaluate(Timer(now=Ticks()))
    assert (found.examples, found.steps, found.seconds) == (30, 0, 1.0)
    assert found.tokens == 3 * work.data.eval.lengths.sum()


@pytest.mark.parametrize("name", ["b1", "b1g"])
def test_a_peer_trains_the_very_same_examples(name: str) -> None:
    work = tiny_work(n=24)
    found = block_of(name, work)
    assert (found.steps, found.examples, found.tokens) == (6, 24, tokens_of(work))
    assert found.computed_tokens is not None
    assert found.computed_tokens >= found.tokens


@pytest.mark.slow
def test_several_processes_train_a_trial_each_at_once() -> None:
    work = tiny_work(n=8)
    found = contenders.get("b1ghn").start(work, precision="bf16", n_trials=2, repeat=0).train(Timer())
    assert (found.n_trials, found.steps, found.examples, found.tokens) == (2, 2, 16, 2 * tokens_of(work))
    assert found.seconds > 0


def test_processes_at_once_are_measured_on_a_gpu_alone() -> None:
    several = contenders.get("b1ghn")
    assert several.sizes_on("cpu") == ()
    assert min(several.sizes_on("cuda")) > 1


def test_a_peer_that_holds_its_frozen_weights_in_bf16_trains_in_fp32() -> None:
    session = contenders.get("b1gh").start(tiny_work(), precision="bf16", n_trials=1, repeat=0)
    assert isinstance(session, PeerSession)
    weights = dict(session.model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    session.train(Timer(now=Ticks()))
    session.close()
    for name, weight in weights.items():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
        assert weight.requires_grad or torch.equal(weight, before[name])
    assert any(not torch.equal(weights[name], before[name]) for name in weights if "lora_B" in name)


def test_grouping_leaves_the_least_padding_and_the_fixed_length_the_most() -> None:
    work = tiny_work(n=64)
    padded = {name: block_of(name, work) for name in ("b0", "b1", "b1g")}
    waste = {name: (block.computed_tokens or 0) / block.tokens for name, block in padded.items()}
    assert padded["b0"].steps == 2, "an eighth of the steps"
    assert padded["b0"].computed_tokens == 2 * 4 * work.pad_to
    assert 1.0 <= waste["b1g"] < waste["b1"] < waste["b0"]
    ordered = np.sort(work.data.train.lengths).reshape(16, 4)
    assert padded["b1g"].computed_tokens == 4 * ordered.max(axis=1).sum(), "all 16 batches are sorted at once"


def test_a_peer_is_timed_from_the_first_batch_to_the_last_step() -> None:
    session = contenders.get("b1").start(tiny_work(n=24), precision="fp32", n_trials=1, repeat=0)
    ticks = Ticks()
    found = session.train(Timer(now=ticks))
    session.close()
    assert ticks.time == 2.0, "the clock is looked at twice: nobody waits for the device in between"
    assert found.seconds == 1.0


def test_peers_and_ours_train_as_many_parameters() -> None:
    work = tiny_work()
    peer = _peer.peft_model(work.model().model, work.trial)
    ours = contenders.get("ours").start(work, precision="fp32", n_trials=1, repeat=0)
    trained, _ = peer.get_nb_trainable_parameters()
    assert trained == ours.bank.n_trainable(work.trial)  # type: ignore[attr-defined]
    config = peer.peft_config["default"]
    assert (config.lora_dropout, config.r, set(config.target_modules)) == (0.1, 2, {"query", "value"})


def test_bf16_is_autocast_for_peers_and_each_session_has_its_own_precision() -> None:
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        session = contenders.get("b1").start(tiny_work(n=8), precision=precision, n_trials=1, repeat=0)  # type: ignore[arg-type]
        seen = set()
        layer = session.model.base_model.model.roberta.encoder.layer[0].output.dense  # type: ignore[attr-defined]
        layer.register_forward_hook(lambda module, given, out, seen=seen: seen.add(out.dtype))
        session.train(Timer())
        session.close()
        assert seen == {expected}


def test_a_peer_trains_one_trial_at_a_time() -> None:
    with pytest.raises(ValueError, match="one trial at a time"):
        contenders.get("b1").start(tiny_work(), precision="fp32", n_trials=2, repeat=0)


def test_a_peer_evaluates_in_batches_of_8_unless_grouped() -> None:
    work = tiny_work()
    for name in ("b1", "b1g"):
        session = contenders.get(name).start(work, precision="fp32", n_trials=1, repeat=0)
        found = session.evaluate(Timer(now=Ticks()))
        session.close()
        lengths = work.data.eval.lengths
        parts = [lengths[:8], lengths[8:]] if name == "b1" else np.split(np.sort(lengths)[::-1], [4, 8])
        assert found.examples == 10
        if name == "b1":
            assert found.computed_tokens == sum(len(p) * p.max() for p in parts)


def test_missing_peers_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"bench: the peers must be installed, but got no package peft; run make bench"):
        contenders.get("b1").start(tiny_work(), precision="fp32", n_trials=1, repeat=0)


def imported(path: Path) -> set[str]:
    """Return the top packages that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


def test_peft_and_accelerate_are_imported_by_what_measures_them_alone() -> None:
    found = {p.relative_to(ROOT / "bench").as_posix() for p in (ROOT / "bench").rglob("*.py")
             if imported(p) & {"peft", "accelerate"}}  # fmt: skip
    peers = {"timing/peers/contenders/_peer.py", "timing/peers/peer_sweep.py", "timing/deploy/ways.py"}
    assert found - {"api/_read.py"} == peers
