"""Recorded chunks: filled up to few shapes, replayed with another chunk's tensors and another step's salts.

A recording here repeats the calls themselves, on a CPU: what is proved is that they read all that changes from tensors
that stay. That a GPU repeats the kernels is for `tests/gpu`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.core.clock import Clock
from bench.core.spec import Pack
from bench.data.splits import Encoded
from bench.engine.batching import IGNORED, Batches, _cut
from bench.engine.chunking import RECORDED_STEPS, is_recorded
from bench.engine.dropout import Together
from bench.engine.graphs import EXAMPLES, FILLERS, LENGTH, MOST, TOKENS, Graphs, filled, shape_of
from bench.engine.loop import Loop
from bench.engine.probe import seconds_per_trial_step
from bench.engine.run import EngineOptions, prepare
from tests.support.engine_helpers import budget, member, random_data, tiny_model

CPU = torch.device("cpu")


def loop_of(method: str, **changes: Any) -> Loop:
    one = member(method, budget=budget(max_steps=9, eval_steps=9, max_grad_norm=0.5), **changes)
    trials = tuple(replace(one, eta_A=rate, eta_B=None if one.eta_B is None else rate) for rate in (1e-3, 4e-3))
    loaded = tiny_model(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    ready = prepare(Pack(trials=trials), random_data(), loaded, EngineOptions(device=CPU, n_chunks=2))
    ready.bank.keys.together = Together()
    return Loop(
        ready.bank, ready.path, ready.train, trials[0].budget, n_chunks=2, clock=Clock(), objective=ready.objective,
        evaluate=lambda: np.zeros(2),
    )  # fmt: skip


def losses(loop: Loop) -> np.ndarray:
    return np.stack(loop.run().losses_SxK)


def recorder(loop: Loop) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Return what calls once without effect, as a recording does, and then again and again."""

    def record(work: Callable[[], None]) -> Callable[[], None]:
        kept = [tensor.clone() for tensor in (loop.bank.params.grads, loop._loss_K)]
        work()
        for tensor, before in zip((loop.bank.params.grads, loop._loss_K), kept, strict=True):
            tensor.copy_(before)
        return work

    return record


@pytest.mark.parametrize("method", ["lora", "mora", "dora", "full", "bitfit", "sequential-adapter"])
def test_a_replayed_step_is_the_step(method: str) -> None:
    plain, recorded = loop_of(method), loop_of(method)
    recorded.graphs = graphs = Graphs(recorded._add_alone, recorded.bank.keys, recorder(recorded))
    np.testing.assert_allclose(losses(recorded), losses(plain), rtol=1e-12)
    norms = [np.stack(loop.state.norms_SxK) for loop in (recorded, plain)]  # a key's bias has rounding for a gradient
    np.testing.assert_allclose(*norms, rtol=1e-10)
    assert graphs.problem is None
    assert 0 < len(graphs.recorded) < 18, "some shape came twice"


def test_the_time_of_recording_is_no_time_of_training() -> None:
    """Only recording takes time here, 100 s for each shape."""
    loop, time = loop_of("lora"), [0.0]
    loop.clock = Clock(now=lambda: time[0])
    record = recorder(loop)

    def slow(work: Callable[[], None]) -> Callable[[], None]:
        time[0] += 100
        return record(work)

    loop.graphs = Graphs(loop._add_alone, loop.bank.keys, slow, functools.partial(loop.clock.apart, "compile"))
    loop.run()
    assert loop.clock.all_seconds() == {"compile": 100.0 * len(loop.graphs.recorded), "train": 0.0}
    assert len(loop.graphs.recorded) > 1
    assert all(point.train_seconds == 0 for curve in loop.state.curves for point in curve)


def test_a_loop_records_apart_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_can_record", lambda loop, least_steps: least_steps == RECORDED_STEPS)
    monkeypatch.setattr("bench.engine.loop.Recorder", lambda: None)
    loop = loop_of("lora")
    assert loop.graphs is not None
    with loop.clock.phase("train"), loop.graphs.apart():
        pass
    assert set(loop.clock.all_seconds()) == {"compile", "train"}


def test_a_probe_of_few_steps_records_as_a_long_pack_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Loop, "_can_record", lambda loop, least_steps: asked.append(least_steps))
    one = member("lora", budget=budget(max_steps=3, eval_steps=3))
    options = EngineOptions(device=CPU)
    seconds_per_trial_step(Pack(trials=(one,)), random_data(), tiny_model(), options, clock=Clock())
    assert asked == [0]


@pytest.mark.parametrize(
    ("kind", "changes", "unpadded", "records"),
    [
        ("cuda", {}, True, True),
        ("cuda", {"max_steps": 49}, True, False),
        ("cuda", {"precision": "fp16"}, True, False),
        ("cuda", {}, False, False),
        ("cpu", {}, True, False),
    ],
)
def test_which_packs_are_recorded(kind: str, changes: dict[str, Any], unpadded: bool, records: bool) -> None:
    settings = budget(**{"max_steps": 50, "precision": "bf16", **changes})
    assert is_recorded(settings, device_kind=kind, unpadded=unpadded) is records


def test_a_step_that_would_keep_its_masks_is_run_as_it_is() -> None:
    plain, recorded = loop_of("lora"), loop_of("lora")
    for loop in (plain, recorded):
        loop.bank.keys.together = None  # each mask by its step's own salt
    recorded.graphs = graphs = Graphs(recorded._add_alone, recorded.bank.keys, recorder(recorded))
    np.testing.assert_allclose(losses(recorded), losses(plain), rtol=1e-12)
    assert "cannot be recorded" in str(graphs.problem)
    assert not graphs.recorded


def test_a_filled_chunk_has_its_shape_and_its_own_examples() -> None:
    loop = loop_of("lora")
    (chunk,) = loop.split.chunks(np.arange(11), 1)
    full = filled(chunk)
    n_tokens, n_examples, longest = shape_of(chunk)
    assert (full.n_tokens, full.n_examples, full.longest) == (n_tokens, n_examples, longest)
    assert n_tokens % TOKENS == 0
    assert longest % LENGTH == 0
    assert len(full.ids_N) == len(full.row_N) == len(full.position_N) == n_tokens
    assert len(full.first_b) == len(full.labels_b) == n_examples >= chunk.n_examples + FILLERS
    assert n_examples % EXAMPLES == 0
    assert (torch.bincount(full.row_N, minlength=n_examples) >= 1).all()
    assert torch.equal(full.ids_N[: chunk.n_tokens], chunk.ids_N)
    assert (full.labels_b[chunk.n_examples :] == IGNORED).all()
    assert int(full.position_N.max()) < longest
    assert int(full.row_N.max()) < n_examples
    assert int(full.first_b.max()) < n_tokens


@pytest.mark.parametrize(("n_chunks", "most_shapes", "most_more"), [(1, 40, 0.06), (2, 50, 0.11)])
def test_texts_of_sst2_s_lengths_have_few_shapes_and_few_fillers(
    n_chunks: int, most_shapes: int, most_more: float
) -> None:
    """1,000 steps of 32 texts; recordings beyond MOST would be none."""
    lengths = np.clip(np.round(np.random.default_rng(0).lognormal(np.log(11), 0.73, 20_000)), 3, 67).astype(np.int64)
    split = Encoded(
        ids=np.zeros(int(lengths.sum()), dtype=np.int32), type_ids=None, labels=np.zeros(len(lengths), dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]), index=np.arange(len(lengths)),
    )  # fmt: skip
    batches, shapes, tokens, more = Batches(split, device=CPU), set(), 0, 0
    for places in batches.order(seed=0, batch_size=32, max_steps=1000):
        by_length = places[np.argsort(lengths[places], kind="stable")]
        for part in _cut(by_length, lengths, n_chunks):
            chunk = SimpleNamespace(
                n_tokens=int(lengths[part].sum()), n_examples=len(part), longest=int(lengths[part].max())
            )
            shapes.add(shape_of(chunk))  # type: ignore[arg-type]
            tokens += chunk.n_tokens
            more += shape_of(chunk)[0] - chunk.n_tokens  # type: ignore[arg-type]
    assert len(shapes) <= most_shapes < MOST
    assert more / tokens <= most_more
