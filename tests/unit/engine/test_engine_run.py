"""run_pack, end to end on a tiny model: what the outcomes say, and that it is true."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DistilBertConfig

from bench.core.clock import Clock
from bench.core.record import Outcome, Status
from bench.core.spec import Pack, Trial
from bench.engine import chunking, run
from bench.engine.memory import CpuMeter, settle_base
from bench.engine.run import DTYPES, EngineOptions, default_chunks, prepare, run_pack
from bench.engine.sizes import Shape
from bench.engine.unpadded import UnpaddedPath
from bench.schedule import planner
from tests.support import gpu_driver
from tests.support.engine_helpers import budget, load_random, random_data, tiny_model, trial
from tests.support.engine_runs import data, go
from tests.support.oracle import CPU, padded, start_values, train_peft_alone

STEPS: dict[str, Any] = {"max_steps": 50, "eval_steps": 20, "lr_scheduler_type": "constant"}


class Ticks:
    """A clock whose every look takes one second, so that a phase lasts exactly one."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def lora(**changes: Any) -> Trial:
    own = {key: changes.pop(key) for key in list(changes) if key in budget().__slots__}
    return trial(budget=budget(**{**STEPS, **own}), **changes)


def full(**changes: Any) -> Trial:
    unread = dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "eta_B"))
    return lora(**{"method": "full", **unread, **changes})


def mora(**changes: Any) -> Trial:
    unread = dict.fromkeys(("lora_alpha", "use_rslora", "init", "eta_B"))
    return lora(**{"method": "mora", "mora_type": 6, "mora_rounding": "floor", **unread, **changes})


@pytest.fixture(scope="module")
def three() -> tuple[list[Trial], list[Outcome], Clock]:
    """A pack of a good trial, one that goes nowhere and one that diverges, timed by ticks."""
    trials = [lora(eta_A=1e-2), lora(eta_A=1e-9), lora(eta_A=1e200, eta_B=1e200)]
    clock = Clock(now=Ticks())
    return trials, go(trials, clock=clock), clock


def test_an_ok_outcome_tells_everything(three: Any) -> None:
    good = three[1][0]
    assert good.status is Status.OK
    assert (good.reason, good.diverged_step, good.collapsed) == (None, None, False)
    assert good.steps_done == 50
    assert good.metric_name == "accuracy"
    assert good.metric_value == good.accuracy >= 0.9, "a rule of one token is learned in 50 steps"
    assert good.select_metric is not None
    assert good.metric_stderr == pytest.approx(math.sqrt(good.accuracy * (1 - good.accuracy) / 45), rel=0.05)
    assert (good.engine_path, good.timing_mode, good.compile_seconds) == ("unpadded", "pack_share", None)
    assert good.n_trainable is not None
    assert good.n_total is not None
    assert good.n_trainable < good.n_total
    assert good.mora_r_hat is None


def test_eval_correct_holds_the_bits_of_the_score(three: Any) -> None:
    for outcome in three[1][:2]:
        assert outcome.n_eval == 45
        assert len(outcome.eval_correct) == 6, "45 bits in whole bytes"
        bits = np.unpackbits(np.frombuffer(outcome.eval_correct, dtype=np.uint8))
        assert not bits[45:].any()
        assert bits[:45].mean() == pytest.approx(outcome.accuracy)


def test_the_curve_has_a_point_at_every_evaluation_and_at_the_end(three: Any) -> None:
    for outcome in three[1][:2]:
        assert [p.step for p in outcome.curve] == [20, 40, 50]
        assert outcome.curve[-1].metric_value == outcome.metric_value
        assert outcome.curve[-1].train_loss == outcome.train_loss
        assert outcome.best_metric == max(p.metric_value for p in outcome.curve)
        seconds = [p.train_seconds for p in outcome.curve]
        assert seconds == sorted(seconds)
        assert seconds[-1] == outcome.train_seconds


def test_seconds_are_shares_that_add_up_and_evaluation_is_not_training(three: Any) -> None:
    _, outcomes, clock = three
    assert clock.seconds("train") == 3, "one tick for the steps to each point of the curve"
    assert clock.seconds("eval") == 4, "three points of the curve and the select split"
    assert clock.seconds("setup") == 1
    for phase in ("train", "eval", "setup"):
        shares = [getattr(o, f"{phase}_seconds") for o in outcomes]
        assert sum(shares) == pytest.approx(clock.seconds(phase))
        assert len(set(shares)) == 1
    good = outcomes[0]
    assert good.examples_per_second == pytest.approx(50 * 8 / good.train_seconds)
    assert good.tokens_per_second > 3 * good.examples_per_second


def test_a_diverged_outcome_has_a_step_a_reason_and_no_score(three: Any) -> None:
    wild = three[1][2]
    assert wild.status is Status.DIVERGED
    assert wild.diverged_step == 2
    assert wild.steps_done == 1
    assert "step 2" in wild.reason
    scores = (
        "metric_value",
        "metric_stderr",
        "accuracy",
        "select_metric",
        "best_metric",
        "eval_correct",
        "eval_loss",
        "collapsed",
    )
    assert [getattr(wild, name) for name in scores] == [None] * len(scores)
    assert wild.curve == ()
    assert wild.n_trainable == three[1][0].n_trainable


def test_a_curve_before_the_divergence_holds_no_score_of_broken_weights() -> None:
    """The update of step 2 breaks the weights, the evaluation after it sees them, step 3 finds them broken."""
    wild = lora(eta_A=1e200, eta_B=1e200, max_steps=6, eval_steps=2, warmup_steps=1)
    (outcome,) = go([wild])
    assert (outcome.status, outcome.diverged_step) == (Status.DIVERGED, 3)
    assert [p.step for p in outcome.curve] == [2]
    assert outcome.curve[0].metric_value is None
    assert outcome.curve[0].train_loss is not None


def test_weights_that_break_in_the_last_update_are_a_divergence() -> None:
    (outcome,) = go([lora(eta_A=1e200, eta_B=1e200, max_steps=2, eval_steps=2, warmup_steps=1)])
    assert (outcome.status, outcome.metric_value) == (Status.DIVERGED, None)
    assert outcome.diverged_step == 2
    assert all(p.metric_value is None for p in outcome.curve)


def test_a_collapsed_trial_is_ok_and_flagged() -> None:
    stuck, fine = go([lora(eta_A=3.0), lora(eta_A=1e-2)])
    assert stuck.status is Status.OK
    assert stuck.collapsed is True
    one_class = np.isclose(stuck.accuracy or 0, [data().eval.labels.mean(), 1 - data().eval.labels.mean()]).any()
    assert one_class or (stuck.train_loss or 0) > math.log(2)
    assert fine.collapsed is False


def test_outcomes_are_those_of_peft_on_the_evaluation_split() -> None:
    """Train with PEFT, predict the split in file order, one example at a time: the same bits, the same loss."""
    loaded, member, drawn = tiny_model(), lora(eta_A=1e-2, max_steps=30, eval_steps=30), random_data(n_eval=45)
    (outcome,) = go([member], loaded=loaded, data=drawn)
    (start,) = start_values(loaded, [member])
    model: Any = train_peft_alone(loaded, drawn.train, member, start).model
    split = drawn.eval
    batches = [padded(split, np.array([place])) for place in range(len(split))]
    with torch.no_grad():
        logits = torch.cat([model(**{k: v for k, v in b.items() if k != "labels"}).logits for b in batches])
    labels = torch.from_numpy(split.labels)
    correct = (logits.argmax(-1) == labels).numpy()
    assert 0.2 < float(logits.argmax(-1).double().mean()) < 0.8, "both classes are predicted, so that places matter"
    assert 0.2 < correct.mean() < 0.8
    assert outcome.eval_correct == np.packbits(correct).tobytes()
    assert outcome.eval_loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-9)


@pytest.mark.parametrize("member", [lora(eta_A=1e-2, method="lora+", eta_B=4e-2), mora(eta_A=1e-2), full(eta_A=3e-3)])
def test_every_method_learns_a_simple_rule(member: Trial) -> None:
    (outcome,) = go([member])
    assert outcome.status is Status.OK
    assert (outcome.accuracy or 0) >= 0.9
    assert (outcome.mora_r_hat == 10) == (member.method == "mora"), "floor(sqrt((16 + 16) 4)) = 11, even: 10"
    if member.method == "full":
        assert outcome.n_trainable == outcome.n_total


def test_both_paths_give_the_same_outcome() -> None:
    trials = [lora(eta_A=1e-2, max_steps=10), lora(eta_A=1e-3, max_steps=10)]
    for one, other in zip(go(trials, path="bank"), go(trials, path="unpadded", n_chunks=5), strict=True):
        assert (one.engine_path, other.engine_path) == ("bank", "unpadded")
        assert one.eval_correct == other.eval_correct
        assert one.eval_loss == pytest.approx(other.eval_loss, abs=1e-9)
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-10)


def test_without_a_select_split_there_is_no_select_metric() -> None:
    clock = Clock(now=Ticks())
    (outcome,) = go([lora(max_steps=2)], data=replace(data(), select=None), clock=clock)
    assert outcome.select_metric is None
    assert clock.seconds("eval") == 1


def test_the_host_waits_for_the_device_where_something_is_read_not_in_each_step() -> None:
    waits: list[None] = []
    go([lora(max_steps=50, eval_steps=20)], clock=Clock(synchronize=lambda: waits.append(None)))
    assert len(waits) == 2 * (1 + 3 + 3 + 1), "setup, training to three points, evaluation at them, held-out part"


def test_isolated_timing_is_for_a_trial_alone() -> None:
    assert [o.timing_mode for o in go([lora(max_steps=1)], isolated=True)] == ["isolated"]
    assert [o.timing_mode for o in go([lora(max_steps=1), lora(max_steps=1, rank=2)], isolated=True)] == [
        "pack_share"
    ] * 2


def test_progress_is_told_and_an_interrupt_passes_through() -> None:
    told: list[int] = []
    go([lora()], on_steps=told.append)
    assert told == [20, 40, 50]

    def interrupt(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go([lora()], on_steps=interrupt)


def test_a_pack_leaves_the_shared_base_as_it_was() -> None:
    loaded = tiny_model()
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    first = go([lora(eta_A=1e-2, max_steps=5)], loaded=loaded)
    full_run = go([full(eta_A=1e-2, max_steps=5)], loaded=loaded)
    again = go([lora(eta_A=1e-2, max_steps=5)], loaded=loaded)
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters())
    assert first[0].eval_loss == again[0].eval_loss != full_run[0].eval_loss


@pytest.mark.parametrize("path", ["bank", "unpadded"])
def test_a_base_in_half_precision_trains_nearly_alike(path: Any) -> None:
    loaded = tiny_model(dtype=torch.bfloat16)
    short = {"eta_A": 1e-2, "max_steps": 10, "eval_steps": 10}
    outcomes = go([lora(precision="bf16", **short), lora(precision="bf16", rank=2, **short)], loaded=loaded, path=path)
    (reference,) = go([lora(precision="fp32", **short)], loaded=tiny_model(dtype=torch.float32))
    assert [o.status for o in outcomes] == [Status.OK] * 2
    assert outcomes[0].train_loss == pytest.approx(reference.train_loss, abs=0.03)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("precision", "few"), [("fp64", False), ("fp32", False), ("bf16", True), ("fp16", True)])
def test_chunks_are_filled_up_in_half_precision_on_a_cpu(precision: Any, few: bool) -> None:
    """Where products are compiled for each shape, chunks have round numbers of tokens and positions, if not too few."""
    loaded = tiny_model(dtype=DTYPES[precision])
    ready = prepare(Pack(trials=(lora(precision=precision),)), random_data(), loaded, EngineOptions(device=CPU))
    assert isinstance(ready.path, UnpaddedPath)
    chunks = [ready.train.chunk(np.arange(n) % 8) for n in range(1, 60)]
    shaped = [ready.path.shaped(chunk) for chunk in chunks]
    assert max(chunk.n_tokens for chunk in chunks) > 200
    assert all(s.n_tokens % 8 == 0 for s in shaped if s.n_tokens >= 128) == few
    assert all(s.longest % 4 == 0 for s in shaped) == few
    assert all(16 * (s.n_tokens - c.n_tokens) <= c.n_tokens for s, c in zip(shaped, chunks, strict=True))
    logits_KxbxC = ready.path.logits(ready.train.chunk(np.arange(5)))
    assert logits_KxbxC.shape[1] == 5


def n_chunks(n_trials: int, precision: Any, path: str, device: str, *, hidden_size: int = 384) -> int:
    pack = Pack(trials=tuple(lora(precision=precision, batch_size=32) for _ in range(n_trials)))
    return default_chunks(random_data(), pack, path, torch.device(device), hidden_size=hidden_size)


def test_batches_are_cut_by_tokens_width_path_and_device() -> None:
    assert [n_chunks(1, p, "unpadded", "cpu") for p in ("fp32", "bf16", "fp16")] == [2, 1, 1]
    assert [n_chunks(1, p, "bank", d) for p in ("fp32", "bf16") for d in ("cpu", "cuda")] == [2] * 4, "padding costs"
    assert n_chunks(1000, "fp32", "unpadded", "cpu") == 8
    for path, device in (("unpadded", "cpu"), ("bank", "cuda")):
        counts = [n_chunks(k, "bf16", path, device) for k in range(1, 400, 7)]
        assert counts == sorted(counts), "more trials, no fewer chunks"
    assert n_chunks(30, "fp32", "unpadded", "cuda") == 1 < n_chunks(30, "fp32", "unpadded", "cpu")
    assert n_chunks(30, "fp32", "unpadded", "cpu", hidden_size=96) < n_chunks(30, "fp32", "unpadded", "cpu")


@pytest.mark.parametrize("gigabytes", [0.001, 0.1])
def test_a_gpu_s_chunks_follow_its_memory_as_they_are_planned(
    gigabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_driver.pretend(monkeypatch, memory_bytes=int(gigabytes * 1e9))
    some, gpu = random_data(), torch.device("cuda:0")
    pack = Pack(trials=tuple(lora(precision="fp32", batch_size=32) for _ in range(40)))
    of_model = run._of_model(tiny_model(dtype=torch.float32), some, EngineOptions(device=gpu), pack)
    found = default_chunks(some, pack, "unpadded", gpu, **of_model)
    mean = float(some.train.lengths.mean())
    shape = Shape(n_layers=2, hidden_size=16, train_tokens=mean, n_weights=1)
    kept = mean * 32 * 40 * shape.token_bytes(pack.trials[0])
    assert found == max(2, min(32, math.ceil(kept / (chunking.CHUNK_SHARE * gigabytes * 1e9))))
    assert (found > 8) == (gigabytes < 0.01)
    adapters = 40 * pack.trials[0].rank * 18 * 16 * 2 * planner.training_bytes(pack.trials[0].budget, 4)
    planned = planner.gpu_encoder_bytes(pack.trials[0], shape, 40, memory_bytes=int(gigabytes * 1e9))
    assert planned == pytest.approx(kept / found + adapters)


def test_a_path_that_the_model_cannot_take_is_refused() -> None:
    config = DistilBertConfig(
        vocab_size=60, dim=16, n_layers=1, n_heads=4, hidden_dim=24, max_position_embeddings=40, dropout=0.0,
        attention_dropout=0.0, seq_classif_dropout=0.0, num_labels=2,
    )  # fmt: skip
    loaded, member = load_random(config), lora(max_steps=2, target_modules=("q_lin", "v_lin"))
    with pytest.raises(ValueError, match="distilbert"):
        go([member], loaded=loaded, path="unpadded")
    assert go([member], loaded=loaded)[0].engine_path == "bank"


def test_started_at_is_utc_to_the_second(three: Any) -> None:
    assert all(o.started_at.endswith("+00:00") and len(o.started_at) == 25 for o in three[1])


def dropping_by(call: Any) -> Any:
    """A model with dropout modules, and one more place where it drops by a function call while training."""
    loaded = tiny_model(dtype=torch.float32, hidden_dropout_prob=0.1)
    dense = loaded.model.get_submodule("roberta.encoder.layer.0.output.dense")
    dense.register_forward_hook(lambda module, _, out: call(out) if module.training else out)
    return loaded


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: torch.nn.functional.dropout(out, 0.3, True), "bank"),
        (lambda out: out * torch.bernoulli(torch.full_like(out, 0.7)), "bank, the model's own dropout left out"),
    ],
    ids=["function", "own"],
)
def test_masks_that_a_model_draws_by_itself_are_keyed_or_left_out_and_said(call: Any, said: str) -> None:
    """Calls of torch's dropout are keyed; any other random number would change with the pack, and is left out."""
    short = {"max_steps": 3, "eval_steps": 3, "precision": "fp32"}
    alone = go([lora(**short)], loaded=dropping_by(call), path="bank")[0]
    beside = go([lora(**short), lora(rank=2, **short)], loaded=dropping_by(call), path="bank")[0]
    assert alone.engine_path == said
    assert alone.train_loss == pytest.approx(beside.train_loss, abs=1e-6)
    usual = go([lora(**short)], loaded=tiny_model(dtype=torch.float32, hidden_dropout_prob=0.1), path="bank")[0]
    assert usual.engine_path == "bank"
    assert (abs(alone.train_loss - usual.train_loss) > 1e-4) == (said == "bank"), "the call drops nothing"


def test_a_pack_of_trials_that_cannot_share_is_refused() -> None:
    for other in (lora(seed=1), lora(head_policy="paper"), lora(max_steps=7), lora(lora_dropout=0.1)):
        with pytest.raises(ValueError, match="share seed, budget"):
            go([lora(), other], loaded=tiny_model())


def test_peak_memory_is_what_the_meter_says_of_the_whole_pack() -> None:
    calls = []

    class FakeMeter:
        def start(self) -> None:
            calls.append("start")

        def peak(self) -> int:
            calls.append("peak")
            return 1234

    outcomes = run_pack(
        Pack(trials=(lora(max_steps=2), lora(max_steps=2, rank=2))), data(), tiny_model(), EngineOptions(device=CPU),
        clock=Clock(), meter=FakeMeter(),
    )  # fmt: skip
    assert calls == ["start", "peak"]
    assert [o.peak_memory_bytes for o in outcomes] == [1234, 1234]
    assert go([lora(max_steps=2)], loaded=tiny_model())[0].peak_memory_bytes is None


def test_a_base_is_held_before_the_meter_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every pack, not from the second on; the copy that full fine-tuning trains is its own."""
    calls: list[object] = []

    class FakeMeter:
        def start(self) -> None:
            calls.append("start")

        def peak(self) -> int | None:
            return None

    def settle(model: object, device: torch.device, *, is_shared: bool) -> None:
        calls.append(is_shared)

    monkeypatch.setattr("bench.engine.run.settle_base", settle)
    for member in (lora(max_steps=1), full(max_steps=1)):
        pack, options = Pack(trials=(member,)), EngineOptions(device=CPU)
        run_pack(pack, data(), tiny_model(), options, clock=Clock(), meter=FakeMeter())
    assert calls == [True, "start", False, "start"]


def test_weights_of_a_mapped_file_are_in_memory_once_the_base_is_settled(tmp_path: Path) -> None:
    n_bytes = 1 << 25
    meter = CpuMeter()
    meter.start()
    if meter.peak() is None:
        pytest.skip("this system does not tell what a process holds")
    save_file({"weight": torch.ones(1 << 13, n_bytes >> 15)}, tmp_path / "base.safetensors")

    def read(settled: bool) -> int:
        model = nn.Linear(1, 1, bias=False)
        model.weight = nn.Parameter(load_file(tmp_path / "base.safetensors")["weight"])
        if settled:
            settle_base(model, CPU, is_shared=True)
        meter.start()
        model.weight.detach().sum()
        return meter.peak() or 0

    assert read(settled=False) > 0.9 * n_bytes, "a file that is mapped: the first pack that reads it counted it"
    assert read(settled=True) < 0.1 * n_bytes


def test_more_chunks_are_so_many_times_as_many_and_train_the_same() -> None:
    pack = Pack(trials=(lora(eta_A=1e-2),))
    one, four = (prepare(pack, data(), tiny_model(), EngineOptions(device=CPU, more_chunks=n)) for n in (1, 4))
    assert four.n_chunks == 4 * one.n_chunks
    first, second = (
        run_pack(pack, data(), tiny_model(), EngineOptions(device=CPU, more_chunks=n), clock=Clock())[0] for n in (1, 4)
    )
    assert [p.train_loss for p in first.curve] == pytest.approx([p.train_loss for p in second.curve], rel=1e-5)
