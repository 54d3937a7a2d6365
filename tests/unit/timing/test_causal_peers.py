"""Throughput of causal language models: peers that train the same, counts, and what a share counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import cli
from bench.core.errors import BadInput
from bench.timing.peers import ceiling, contenders, jobs, made_up, model, rows, setup, summary
from bench.timing.peers.contenders import _peer, trl
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import Work
from tests.support.causal_helpers import causal_data, language_model
from tests.support.throughput_helpers import CONTEXT, Ticks, limit, row, tiny_work

CPU = torch.device("cpu")


def causal_work(*, n: int = 24, batch_size: int = 4, **changes: Any) -> Work:
    data = causal_data("exact_match", max_new_tokens=5)
    loaded = language_model("llama")
    loaded = replace(loaded, model=loaded.model.float())
    plain = tiny_work(n=n, batch_size=batch_size)
    member = replace(plain.trial, target_modules="all-linear", lora_dropout=0.0)
    split = replace(data, train=made_up._split(n, 60, seed=0))
    short = replace(split, train=_short(split.train), **changes)
    return replace(plain, trial=member, data=short, loaded=loaded, matmul_params=1000, head_params=960)


def _short(split: Any) -> Any:
    """The same, cut to the tiny model's 40 positions."""
    lengths = np.minimum(split.lengths, 30)
    ids = np.concatenate([split.ids[a : a + n] for a, n in zip(split.offsets, lengths, strict=False)])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return replace(split, ids=ids, offsets=offsets, prompt_lengths=np.minimum(split.prompt_lengths, lengths - 1))


def gradients(peft: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    peft.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in peft.named_parameters() if p.grad is not None}


def test_a_padding_free_batch_has_the_loss_and_gradients_of_a_padded_one(tmp_path: Path) -> None:
    """TRL's row of several examples, told apart by positions alone, is right on a CPU too."""
    work = causal_work(n=6, batch_size=6)
    peft = _peer.peft_model(work.model().model, work.trial, task="CAUSAL_LM")
    torch.manual_seed(0)
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.3)
    found = []
    for kind in ("padded", "free"):
        directory = tmp_path / kind
        if kind == "padded":
            trainer = _peer.make_trainer(
                peft, _peer.Rows(work.data.train), work.trial, directory=directory, device=CPU, precision="fp32",
                collator=_peer.Collator(1), strategy="random", seed=0, eval_batch_size=8,
            )  # fmt: skip
        else:
            trainer = trl.make_sft_trainer(
                peft, work.data.train, work, directory=directory, precision="fp32", seed=0, max_steps=-1
            )
        (batch,) = trainer.get_train_dataloader()
        loss = trainer.compute_loss(trainer.model, dict(batch))
        found.append((loss.item(), gradients(peft, loss)))
        assert batch["input_ids"].shape[0] == (6 if kind == "padded" else 1)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["b1", "b1g", "trl", "ours"])
def test_every_contender_trains_the_same_tokens(name: str) -> None:
    work = causal_work(n=24)
    session = contenders.get(name).start(work, precision="fp32", n_trials=1, repeat=0)
    found = session.train(Timer(now=Ticks()))
    session.close()
    targets = int((work.data.train.lengths - work.data.train.prompt_lengths).sum())
    assert (found.steps, found.examples, found.targets) == (6, 24, targets)
    assert found.tokens == work.data.train.lengths.sum()
    assert found.seconds == 1.0
    assert found.computed_tokens is not None
    assert found.computed_tokens >= found.tokens


def test_all_write_as_many_tokens() -> None:
    work = causal_work()
    made = {}
    for name, n in (("b1", 1), ("b1g", 1), ("ours", 1), ("ours", 3)):
        session = contenders.get(name).start(work, precision="fp32", n_trials=n, repeat=0)
        found = session.write(Timer(now=Ticks()))
        session.close()
        assert (found.steps, found.examples) == (0, n * len(work.written))
        made[name, n] = found.targets
    assert made["b1", 1] == made["b1g", 1] == made["ours", 1]
    assert made["ours", 3] == 3 * (made["b1", 1] or 0)


def test_an_evaluation_of_losses() -> None:
    work = causal_work()
    for name in ("b1g", "ours"):
        session = contenders.get(name).start(work, precision="fp32", n_trials=1, repeat=0)
        found = session.evaluate(Timer(now=Ticks()))
        session.close()
        assert (found.examples, found.tokens) == (len(work.data.eval), work.data.eval.lengths.sum())


def test_the_plan_of_a_causal_task() -> None:
    found = jobs.plan(causal_work(), ("fp32",), jobs.PARTS, contenders.names())
    ours = {(part, "ours", n) for part in (jobs.TRAIN, jobs.EVAL, jobs.WRITE) for n in (1, 4, 16)}
    peers = {(jobs.TRAIN, name, 1) for name in ("b1", "b1g", "trl")}
    peers |= {(part, name, 1) for part in (jobs.EVAL, jobs.WRITE) for name in ("b1", "b1g")}
    assert {(j.part, j.contender, j.n_trials) for j in found if j.part != jobs.CEILING} == ours | peers
    assert all(jobs.work_flop(j) > 0 for j in found if j.part != jobs.CEILING)


def test_a_share_counts_the_head_at_targets_only() -> None:
    context = replace(CONTEXT, head_params=30)
    table = rows.to_table(
        [limit(1000.0), row("ours", 2.0, targets=100), row("ours", 2.0, part="write", targets=100, steps=0)], context
    )
    train, write = summary.lines(table)
    assert train.share == pytest.approx(4 * (10 * 400 + 30 * 100) / 2.0 / 1000.0)
    assert write.share == pytest.approx(2 * (10 * 400 + 30 * 100) / 2.0 / 1000.0)
    assert train.tokens_per_second == 200.0


def test_made_up_texts_have_the_lengths_that_they_are_said_to_have() -> None:
    data = made_up.data_of(1600, 32_000)
    lengths = data.train.lengths
    assert lengths.mean() == pytest.approx(58, abs=1)
    assert (lengths >= made_up.SHORTEST).all()
    assert (lengths <= made_up.LONGEST).all()
    assert data.train.prompt_lengths is not None
    assert 1 - data.train.prompt_lengths.sum() / lengths.sum() == pytest.approx(0.3, abs=0.01)
    assert data.train.ids.max() < 31_999


def test_the_decoder_of_the_benchmark_has_the_sizes_that_are_told() -> None:
    loaded = model.random_model(model.config_of("llama-22m"), 0)
    body, head = model.products_of(loaded.model)
    assert (body, head) == (6 * (2 * 384 * 384 + 2 * 384 * 128 + 3 * 384 * 1024), 384 * 32_000)


def test_seconds_of_the_process_are_of_a_cpu_only() -> None:
    with pytest.raises(BadInput, match="--clock: must be wall on a GPU"):
        setup.timer_of(torch.device("cuda"), "cpu")
    with pytest.raises(BadInput, match="--clock: must be wall or cpu, but got 'sun'"):
        setup.read({}, random_weights=False, data_dir=None, clock="sun")


def test_the_command_prints_a_table_of_a_causal_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "LEAST_SECONDS", 1e-3)
    monkeypatch.setattr(setup, "precisions", lambda device, wanted: ("fp32",))
    options = [
        "--task",
        "uuid-8",
        "--steps",
        "2",
        "--batch",
        "2",
        "--repeats",
        "1",
        "--clock",
        "cpu",
        "--device",
        "cpu",
    ]
    assert cli.main(["bench", *options, "--only", "train,ours,trl", "--results-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    (path,) = (tmp_path / "bench").glob("uuid-8-tiny-decoder-*.parquet")
    table = rows.read(path)
    assert set(table.column("clock").to_pylist()) == {"cpu"}
    assert table.num_rows == 1 + 3 + 1, "a ceiling, three packs and TRL"
    assert "tokens/s" in out
    assert "TRL SFTTrainer + PEFT, padding-free" in out
