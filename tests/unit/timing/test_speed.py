"""bench speed: formulas against counts, parts that add up, kept bytes by hand, merging that changes nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import cli, methods
from bench.core.errors import BadInput
from bench.core.spec import TrainBudget
from bench.engine.adapted import AdaptedLayer
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.run import choose_path
from bench.methods import LayerShape
from bench.timing import load
from bench.timing.load import Load
from bench.timing.methods import rows, run, summary, turn
from bench.timing.methods.cases import Case, cases, fitting
from bench.timing.methods.kept import kept_bytes
from bench.timing.methods.marks import Marks
from bench.timing.methods.merged import merge
from bench.timing.methods.turn import Bench, adapter_flop, take_turn
from bench.timing.peers.timer import Timer
from plots import speed as figure
from tests.support.engine_helpers import random_data, tiny_model, trial
from tests.support.throughput_helpers import Machine, Ticks

CPU = torch.device("cpu")
SHARED = {
    "task": "t", "model": "m", "data_hash": "", "model_hash": "",
    "budget": TrainBudget(max_steps=100, eval_steps=100, batch_size=4, n_select=0),
}  # fmt: skip


def mora(mora_type: int, **changes: Any) -> Any:
    nothing = {"lora_alpha": None, "use_rslora": None, "init": None}
    return trial(method="mora", mora_type=mora_type, mora_rounding="floor", **{**nothing, **changes})


def full() -> Any:
    nothing = dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules"))
    return trial(method="full", **nothing)


class NoMeter:
    def start(self) -> None:
        pass

    def peak(self) -> int | None:
        return 1000


def a_bench(**changes: Any) -> Bench:
    settings: dict[str, Any] = {
        "data": random_data(), "loaded": tiny_model(dtype=torch.float32), "device": CPU, "steps": 2, "timer": Timer(),
        "meter": NoMeter(),
    }  # fmt: skip
    return Bench(**{**settings, **changes})


def in_fp32(member: Any) -> Any:
    return replace(member, budget=replace(member.budget, precision="fp32"))


# --- cases -----------------------------------------------------------------------------------------------------------


def test_methods_that_are_named_are_timed_beside_lora_alone() -> None:
    found = cases((8,), shared=SHARED, default_targets=("query",), only=("full", "mora"))
    assert {case.trial.method for case in found} == {"full", "lora", "mora"}


def test_the_cases_are_every_method_at_each_rank_and_full_fine_tuning_once() -> None:
    found = cases((8, 64), shared=SHARED, default_targets=("query", "value"))
    of_rank = [case.label.replace(", rank 8", "") for case in found if case.trial.rank == 8]
    assert of_rank[:6] == ["LoRA", "LoRA, dropout 0.1", "LoRA+", "MoRA type 1", "MoRA type 6", "DoRA"]
    assert of_rank == [case.label.replace(", rank 64", "") for case in found if case.trial.rank == 64]
    assert [case.label for case in found if case.trial.rank is None].count("full fine-tuning") == 1
    timed = {name for name in methods.names() if methods.get(name).timed}
    assert {case.trial.method for case in found} == timed >= set(methods.names()) - {"bitfit", "head", "subspace"}
    fits = [case for case in found if "target_modules" in methods.get(case.trial.method).reads]
    assert all(case.trial.target_modules == ("query", "value") for case in fits)


def test_a_rank_that_does_not_fit_is_left_out_and_said() -> None:
    shape = LayerShape(path="a.query", in_features=96, out_features=96)
    every = cases((8, 64), shared=SHARED, default_targets=("query",))
    kept, left_out = fitting(every, [shape])
    assert [case.label for case in kept if case.trial.method == "mora"] == [
        "MoRA type 1, rank 8",
        "MoRA type 6, rank 8",
    ]
    assert len(kept) == len(every) - 2
    assert left_out[0].startswith("MoRA type 1, rank 64: 1 <= r_hat <= 96")
    assert "got r_hat=110 from rank=64" in left_out[0]


# --- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [trial(rank=4), mora(1, rank=4), mora(6, rank=4), mora(6, rank=2)])
@pytest.mark.parametrize("sides", [(16, 16), (16, 40), (40, 16)])
def test_the_formula_gives_the_products_that_are_computed(member: Any, sides: tuple[int, int]) -> None:
    shape = LayerShape(path="a", in_features=sides[0], out_features=sides[1])
    method = methods.get(member.method)
    params = method.stack([method.init(member, shape, torch.Generator(), None)])
    with FlopCounterMode(display=False) as counter:
        method.delta(params, method.constants([member], shape, None), torch.randn(1, 7, sides[0]))
    assert method.flop_per_token(member, shape) == counter.get_total_flops() / 7


def flop(one: Any, shape: LayerShape) -> int | None:
    return methods.get(one.method).flop_per_token(one, shape)


def test_the_formula_by_hand() -> None:
    square = LayerShape(path="a", in_features=768, out_features=768)
    assert flop(trial(rank=8), square) == 2 * 12_288
    assert flop(mora(1, rank=8), square) == 2 * 110**2, "r_hat = floor(sqrt(1536 * 8))"
    wide = LayerShape(path="a", in_features=4096, out_features=4096)
    assert flop(mora(6, rank=8), wide) == 2 * 1_048_576
    assert adapter_flop(methods.get("full"), full(), []) == 0
    assert adapter_flop(methods.get("bitfit"), trial(method="bitfit"), [square]) is None


# --- kept bytes ------------------------------------------------------------------------------------------------------


def test_kept_bytes_count_storages_once_and_no_weights() -> None:
    x, weight = torch.randn(10, 4), torch.randn(3, 4, requires_grad=True)

    def forward() -> torch.Tensor:
        hidden = torch.relu(x @ weight.T)  # keeps x for the product, its own result for relu
        return (hidden * hidden.view(10, 3)).sum()  # keeps the same storage again

    assert kept_bytes(forward, [weight]) == 4 * (10 * 4 + 10 * 3)
    frozen = weight.detach()
    x.requires_grad_(True)
    assert kept_bytes(lambda: (x @ frozen.T).sum(), [frozen]) == 0
    assert kept_bytes(lambda: (x @ frozen.T).sum(), []) == 4 * 12


def test_lora_keeps_its_input_and_mora_1_only_the_compressed_one_and_dropout_most() -> None:
    """The mechanisms of one adapted layer: x for the gradient of A, r_hat numbers for that of M, a copy and a mask."""
    wide = tiny_model(hidden_size=64, num_attention_heads=4, dtype=torch.float32)
    kept = {}
    for name, member in (("lora", trial(rank=2)), ("drop", trial(rank=2, lora_dropout=0.1)), ("mora", mora(1, rank=2))):
        member = in_fp32(member)
        bank = Bank(wide, (member,), methods.get(member.method), device=CPU, dtype=torch.float32)
        layer = next(m for m in bank.model.modules() if isinstance(m, AdaptedLayer))
        x = torch.randn(1, 50, 64)
        p = member.lora_dropout or 0.0
        kept[name] = kept_bytes(
            lambda layer=layer, x=x, p=p: layer.delta(torch.nn.functional.dropout(x, p) if p else x).sum(),
            [bank.params.values],
        )  # fmt: skip
    assert kept["mora"] < kept["lora"]
    r_hat = 16
    assert kept["mora"] == 4 * 50 * r_hat
    assert 4 * 50 * 64 <= kept["lora"] <= kept["drop"]


# --- parts of a step -------------------------------------------------------------------------------------------------


def test_marks_split_a_step_without_a_rest() -> None:
    machine = Machine()
    marks = Marks(machine.now)
    for part, seconds in (
        ("other", 1.0), ("forward", 2.0), ("backward", 5.0), ("forward", 3.0), ("backward", 7.0), ("optimizer", 0.5),
    ):  # fmt: skip
        marks.set(part)
        machine.time += seconds
    found = marks.split()
    assert (found.forward, found.backward, found.optimizer, found.other) == (5.0, 12.0, 0.5, 1.0)
    assert found.total == machine.time


def test_marking_changes_neither_the_step_nor_the_loop() -> None:
    def losses(marked: bool) -> list[float]:
        _, path, loop, batches = turn._build(trial(), a_bench(loaded=tiny_model()))
        if marked:
            split = turn._split(loop, batches[:1], Timer(now=Ticks()))
            assert split.forward >= 1.0
            assert split.optimizer == 1.0
            assert split.total == 2 + 2 * split.forward
            assert loop.path is path
            assert "clip" not in vars(loop.optimizer)
        else:
            loop.step(batches[0])
        return [float(loop.step(places)[0]) for places in batches[1:3]]

    assert losses(True) == losses(False)


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["bank", "unpadded"])
@pytest.mark.parametrize("member", [trial(), mora(1), mora(6), trial(target_modules=("query", "word_embeddings"))])
def test_merging_changes_no_logit(member: Any, path: str) -> None:
    bank = Bank(tiny_model(), (member,), methods.get(member.method), device=CPU, dtype=torch.float64)
    with torch.no_grad():
        bank.params.values.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    way = choose_path(bank, path)
    split = Batches(random_data().eval, device=CPU)
    chunk = split.chunk(np.arange(12))
    with torch.no_grad():
        before = way.logits(chunk)
        merge(bank)
        after = way.logits(chunk)
        bare = Bank(tiny_model(), (member,), methods.get(member.method), device=CPU, dtype=torch.float64)
        unlike = choose_path(bare, path).logits(chunk)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    assert (unlike - before).abs().max() > 1e-3, "the adapters do something"
    assert not any(isinstance(module, AdaptedLayer) for module in bank.model.modules())
    with pytest.raises(RuntimeError, match="is merged already"):
        merge(bank)


# --- turns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [trial(), trial(lora_dropout=0.1), mora(1), mora(6), full()])
def test_a_turn_measures_everything(member: Any) -> None:
    bench, member = a_bench(timer=Timer(now=Ticks())), in_fp32(member)
    found = take_turn(member, bench)
    base = sum(4 * p.numel() for p in bench.loaded.model.parameters())
    assert (found.steps, found.examples, found.seconds, found.n_eval) == (2, 16, 1.0, 30)
    assert found.kept_bytes > 0
    assert found.kept_tokens > 0
    assert found.train_state_bytes == 16 * found.n_trainable
    if member.method == "full":
        assert (found.merge_seconds, found.merged_eval_seconds) == (None, None)
        assert found.peak_memory_bytes == 1000
        assert found.stored_bytes == 4 * found.n_trainable == base
    else:
        assert (found.merge_seconds, found.merged_eval_seconds, found.eval_seconds) == (1.0, 1.0, 1.0)
        assert found.peak_memory_bytes == 1000 + base, "the shared base counts for everyone"
        assert found.stored_bytes == 4 * found.n_trainable
    assert (found.mora_r_hat is None) == (member.method != "mora")


def test_a_turn_leaves_the_shared_base_as_it_was() -> None:
    bench = a_bench()
    before = [p.clone() for p in bench.loaded.model.parameters()]
    for member in (full(), trial()):
        take_turn(in_fp32(member), bench)
    assert all(torch.equal(a, b) for a, b in zip(before, bench.loaded.model.parameters(), strict=True))


def test_lora_and_lora_plus_do_the_very_same_work() -> None:
    plus = in_fp32(trial(method="lora+", eta_B=16e-3))
    found = [take_turn(member, a_bench()) for member in (in_fp32(trial()), plus)]
    names = ("tokens", "kept_bytes", "n_trainable", "stored_bytes", "adapter_flop_per_token", "engine_path")
    assert all(getattr(found[0], name) == getattr(found[1], name) for name in names)


# --- load ------------------------------------------------------------------------------------------------------------


def stat(busy: int, idle: int) -> str:
    return f"cpu  9 9 9 9 9 9 9 9\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu1 0 0 0 {busy + idle} 0 0 0 0 0 0\nintr 1\n"


def test_load_is_the_share_of_cores_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stat"
    path.write_text(stat(10, 100))
    monkeypatch.setattr(load, "STAT", path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    found = load.load_of("cpu", sleep=lambda seconds: path.write_text(stat(70, 140)) and None)
    assert found.share == pytest.approx((0.6 + 0.0) / 2)
    assert found.words == "0.6 of 2 cores at work"
    assert found.busy
    with pytest.raises(BadInput, match=r"must be idle, or times mean nothing, but got 0\.6 of 2 cores at work"):
        load.refuse_if_busy(found, allowed=False)
    assert load.refuse_if_busy(found, allowed=True) == "busy"


def test_without_proc_the_load_average_counts_and_an_idle_device_is_isolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "STAT", tmp_path / "none")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr("os.getloadavg", lambda: (1.0, 0.0, 0.0))
    assert load.load_of("cpu", sleep=lambda seconds: None).share == 0.5
    assert load.refuse_if_busy(Load(share=0.02, limit=0.1, words=""), allowed=True) == "isolated"
    assert load.refuse_if_busy(Load(share=None, limit=0.1, words=""), allowed=False) == "isolated"


# --- rows and medians ------------------------------------------------------------------------------------------------


CONTEXT = rows.Context(
    study="s", timing_mode="isolated", task="t", model="m", batch_size=4, max_length=128, precision="fp32", threads=1,
    load_share=0.0, device="fake", started_at="2026-01-01T00:00:00+00:00", git_commit=None, git_dirty=None,
    source_hash="0", versions="{}",
)  # fmt: skip


def a_table(context: rows.Context = CONTEXT, seconds: dict[str, float] | None = None) -> pa.Table:
    """Return three rounds: noise is shared by all cases of a round, MoRA's time is twice LoRA's."""
    found = []
    bare = {name: None for name in rows.SCHEMA.names} | {  # noqa: C420  each its own
        "steps": 2, "examples": 8, "tokens": 80, "kept_tokens": 40, "n_trainable": 5, "train_state_bytes": 80,
        "stored_bytes": 20, "adapter_flop_per_token": 6, "n_eval": 10, "engine_path": "unpadded",
    }  # fmt: skip
    shared = {f.name for f in fields(rows.Context)} | {"schema_version"}
    for repeat, noise in enumerate((1.0, 3.0, 2.0)):
        for case in cases((8,), shared=SHARED, default_targets=("query",)):
            if case.trial.method not in ("lora", "lora+", "mora", "full"):
                continue
            times = {"lora": 1.0, "mora type 1": 2.0, **(seconds or {})}.get(case.arm, 1.0) * noise
            row = {name: value for name, value in bare.items() if name not in shared} | {
                "arm": case.arm, "case": case.label, "method": case.trial.method, "mora_type": case.trial.mora_type,
                "rank": case.trial.rank, "lora_dropout": case.trial.lora_dropout, "repeat": repeat,
                "seconds_per_step": times, "examples_per_second": 4 / times, "forward_seconds": times / 4,
                "backward_seconds": times / 2, "optimizer_seconds": times / 8, "other_seconds": times / 8,
                "kept_bytes": 400, "peak_memory_bytes": 1 << 20, "eval_seconds": 1.0,
            }  # fmt: skip
            found.append(row)
    return rows.to_table(found, context)


def test_rows_come_back_as_written_and_a_run_replaces_the_last(tmp_path: Path) -> None:
    assert rows.read(tmp_path) is None
    rows.write(tmp_path, a_table())
    second = a_table(replace(CONTEXT, study="other"))
    assert rows.write(tmp_path, second) == tmp_path / "speed.parquet"
    found = rows.read(tmp_path)
    assert found is not None
    assert found.equals(second)
    assert found.schema.equals(rows.SCHEMA)
    with pytest.raises(ValueError, match=r"of other columns: .*'arm'"):
        rows.to_table([{"case": "x"}], CONTEXT)


def test_ratios_are_paired_by_round_and_intervals_cover() -> None:
    lines = {line.case: line for line in summary.lines(a_table())}
    assert list(lines)[-1] == "full fine-tuning"
    mora_1, lora, plus = lines["MoRA type 1, rank 8"], lines["LoRA, rank 8"], lines["LoRA+, rank 8"]
    step = lora.values["seconds_per_step"]
    assert (lora.n, step.median) == (3, 2.0)
    assert step.interval is not None
    assert (step.interval.low, step.interval.high, step.coverage) == (1.0, 3.0, 0.75)  # 1 - 2 / 2^3
    ratio = mora_1.ratios["seconds_per_step"]
    assert ratio.median == 2.0
    assert ratio.interval is not None
    assert ratio.interval.low == ratio.interval.high == 2.0, "the rounds' noise is gone"
    assert plus.ratios["seconds_per_step"].median == 1.0
    assert lines["full fine-tuning"].ratios["seconds_per_step"].median == 1.0
    assert "merge_seconds" not in lora.values, "what was not measured is not there"
    assert summary.interval_words(lines.values()) == "range of the rounds, 75.0 % interval (n = 3)"
    one = a_table().filter([i < 6 for i in range(a_table().num_rows)])
    assert summary.interval_words(summary.lines(one)) == "no interval from a single round"


def test_seconds_of_a_trial_come_from_isolated_rows_of_its_settings() -> None:
    found = cases((8,), shared=SHARED, default_targets=("query",))
    mora_1 = next(case.trial for case in found if case.arm == "mora type 1")
    assert summary.seconds_per_step(a_table(), replace(mora_1, eta_A=0.5, seed=3, task="t")) == 4.0
    assert summary.seconds_per_step(a_table(), replace(mora_1, rank=4)) is None
    assert summary.seconds_per_step(a_table(replace(CONTEXT, timing_mode="busy")), mora_1) is None


def test_the_figure_has_a_row_for_each_case() -> None:
    table = a_table()
    drawn = figure.methods(table.to_pandas(), summary.lines(table))
    parts, ratio, *_ = drawn.axes
    assert parts.get_yticklabels()[0].get_text() == "LoRA, rank 8"
    widths = np.array([bar.get_width() for bar in parts.patches]).reshape(4, -1).sum(axis=0)
    assert widths == pytest.approx([2000, 2000, 2000, 4000, 2000, 2000])
    dots = [line.get_xdata()[0] for line in ratio.lines if line.get_marker() == "o"]
    assert dots == pytest.approx([1, 1, 1, 2, 1, 1])


def test_a_run_takes_every_case_in_every_round() -> None:
    chosen = [Case(arm="lora", trial=in_fp32(trial())), Case(arm="mora type 1", trial=in_fp32(mora(1)))]
    found = run.measure(
        chosen, a_bench(), repeats=2, arm_of=lambda case: case.arm if case.arm == "lora" else None,
        tell=lambda line: None,
    )  # fmt: skip
    assert sorted((row["case"], row["repeat"], row["arm"]) for row in found) == [
        ("LoRA, rank 4", 0, "lora"), ("LoRA, rank 4", 1, "lora"),
        ("MoRA type 1, rank 4", 0, None), ("MoRA type 1, rank 4", 1, None),
    ]  # fmt: skip
    assert rows.to_table(found, CONTEXT).num_rows == 4


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_busy_device_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "load_of", lambda device: Load(share=0.9, limit=0.1, words="1.8 of 2 cores at work"))
    assert cli.main(["speed", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "but got 1.8 of 2 cores at work; wait until it is idle, or give --busy" in err


def test_the_command_measures_prints_and_stores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_of", lambda device: Load(share=0.0, limit=0.1, words="some"))
    options = ["--ranks", "2", "--steps", "1", "--batch", "2", "--repeats", "1", "--device", "cpu"]
    options += ["--methods", "full,lora+,mora"]  # and LoRA, which is always there
    assert cli.main(["speed", *options, "--results-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    directory = tmp_path / "demo-tiny-roberta"
    table = rows.read(directory)
    assert table is not None
    assert set(table.column("timing_mode").to_pylist()) == {"isolated"}
    arms = [arm for arm in table.column("arm").to_pylist() if arm is not None]
    assert {"full", "lora", "lora+", "mora type 1", "mora type 6"} <= set(arms)
    assert table.num_rows == len(arms) + 1
    assert "LoRA, rank 2, dropout 0.1" in out
    assert {path.name for path in (directory / "figures").iterdir()} == {"speed.png", "speed.pdf"}


def test_a_comparison_reads_only_isolated_rows_at_the_studys_own_rank_and_dropout() -> None:
    from bench.commands import _resolve
    from bench.commands import speed as command
    from bench.study.resolve import load as load_study

    resolved = _resolve.resolve(load_study("demo"))
    found = cases((1, 8), shared=SHARED, default_targets=("query",))
    arms = {case.label: command._arm(case, resolved, "isolated") for case in found}
    read = {label for label, arm in arms.items() if arm is not None}
    assert not any("rank 1" in label.split(", ") or "dropout" in label for label in read)
    assert read >= {
        "LoRA, rank 8", "LoRA+, rank 8", "MoRA type 1, rank 8", "MoRA type 6, rank 8", "full fine-tuning",
    }  # fmt: skip
    assert {command._arm(case, resolved, "busy") for case in found} == {None}
