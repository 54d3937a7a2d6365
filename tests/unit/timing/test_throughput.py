"""bench bench: same work for all, honest clocks, ceilings and shares by formula, rows that come back as written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from bench import cli
from bench.core.errors import BadInput
from bench.core.record import Column
from bench.engine import memory
from bench.timing.methods import rows as speed_rows
from bench.timing.peers import ceiling, contenders, jobs, model, peer_sweep, rows, setup, summary, sweeps
from bench.timing.peers.ceiling import Shape
from bench.timing.peers.contenders._base import Block, Session
from bench.timing.peers.interleave import interleaved
from bench.timing.peers.sweeps import Cells, Ended
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import of_length, representative
from plots import throughput as figures
from tests.support.engine_helpers import random_split
from tests.support.throughput_helpers import CONTEXT, Machine, limit, row, tiny_work

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


# --- order -----------------------------------------------------------------------------------------------------------


def test_each_round_holds_every_job_once_in_another_order() -> None:
    order = list(interleaved("abcdefgh", 6))
    rounds = [[job for i, job in order if i == k] for k in range(6)]
    assert [i for i, _ in order] == sorted(i for i, _ in order), "rounds follow one another"
    assert all(sorted(jobs_) == list("abcdefgh") for jobs_ in rounds)
    assert len({tuple(jobs_) for jobs_ in rounds}) == 6
    assert order == list(interleaved("abcdefgh", 6)) != list(interleaved("abcdefgh", 6, seed=1))


# --- ceilings and shares ---------------------------------------------------------------------------------------------


def machine_of(monkeypatch: pytest.MonkeyPatch, rate: dict[int, float]) -> Machine:
    """Return a machine whose products of inner size k go at rate[k] FLOP per second."""
    machine = Machine()

    def mm(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> None:
        machine.time += 2 * a.shape[0] * a.shape[1] * b.shape[1] / rate[a.shape[1]]

    monkeypatch.setattr(torch, "mm", mm)
    return machine


@pytest.mark.parametrize("least_seconds", [1e-9, 1e-3])
def test_a_matmul_rate_is_its_flop_over_its_seconds(monkeypatch: pytest.MonkeyPatch, least_seconds: float) -> None:
    machine = machine_of(monkeypatch, {8: 3e9})
    found = ceiling.matmul_rate(Shape(m=4, k=8, n=16), torch.float32, CPU, machine.timer, least_seconds=least_seconds)
    assert found == pytest.approx(3e9)
    assert machine.time >= least_seconds


def test_the_ceiling_is_the_best_shape_of_the_model_and_a_square(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ceiling.shapes(8, 32, "cpu")
    assert [(s.k, s.n) for s in shapes] == [(8, 8), (8, 32), (32, 8), (2048, 2048)]
    machine = machine_of(monkeypatch, {8: 1e9, 32: 7e9, 2048: 5e9})
    assert ceiling.ceiling(shapes, torch.float32, CPU, machine.timer, least_seconds=1e-6) == pytest.approx(7e9)


def test_a_share_is_4P_flop_a_real_token_over_the_ceiling() -> None:
    # RoBERTa-base: 84.93 M weights in products; 32 sentences of 14.36 tokens are 0.156 TFLOP
    per_step = 4 * 84.93e6 * 32 * 14.36
    assert per_step == pytest.approx(0.156e12, rel=2e-3)
    assert ceiling.share_of_ceiling(84_930_000 * 32 * 14.36, 2 * per_step) == pytest.approx(0.5)
    assert ceiling.share_of_ceiling(1000.0, 4000.0, flop_per_param=ceiling.EVAL_FLOP) == pytest.approx(0.5)


# --- the work --------------------------------------------------------------------------------------------------------


def test_the_sample_has_the_lengths_of_the_whole_split() -> None:
    split = random_split(5000, seed=1, longest=60)
    sample = representative(split, 100)
    assert len(sample) == len(np.unique(sample.index)) == 100
    assert sample.lengths.mean() == pytest.approx(split.lengths.mean(), rel=0.01)
    assert np.corrcoef(np.arange(100), sample.lengths)[0, 1] < 0.5, "shuffled, not sorted"
    assert len(representative(split, 10_000)) == 5000


def test_fewer_batches_are_those_whose_tokens_are_nearest_to_the_mean() -> None:
    work = tiny_work(n=40)
    lengths = work.data.train.lengths
    every = work.batches(10)
    assert np.array_equal(np.concatenate(every), np.arange(40))
    two = work.batches(2)
    gaps = [abs(lengths[8 * i // 2 : 8 * i // 2 + 8].sum() - lengths.sum() / 5) for i in range(9)]
    assert abs(sum(lengths[b].sum() for b in two) - lengths.sum() / 5) == min(gaps)
    assert lengths[work.longest()].sum() == np.sort(lengths)[-4:].sum()


def test_examples_of_one_length() -> None:
    split = of_length(6, 16, vocab_size=60, n_labels=2)
    assert set(split.lengths) == {16}
    assert split.ids.min() >= 30
    assert split.ids.max() < 60


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_precision_without_contenders_is_refused() -> None:
    assert setup.precisions("cpu", "fp32") == ("fp32",)
    with pytest.raises(BadInput, match="must be one that the contenders train in: fp32, bf16, but got tf32"):
        setup.precisions("cpu", "tf32")


def test_the_plan_holds_every_contender_in_both_precisions() -> None:
    found = jobs.plan(tiny_work(), ("fp32", "bf16"), jobs.PARTS, contenders.names())
    train = {(j.contender, j.n_trials, j.precision) for j in found if j.part == jobs.TRAIN}
    assert train == {
        (name, n, precision)
        for precision in ("fp32", "bf16")
        for name, n in [("b0", 1), ("b1", 1), ("b1g", 1), *(("ours", k) for k in (1, 4, 16, 64))]
    } | {("b1gh", 1, "bf16")}
    evaluation = {(j.contender, j.n_trials) for j in found if j.part == jobs.EVAL}
    assert evaluation == {("b1", 1), ("b1g", 1), ("b1gh", 1), ("ours", 1), ("ours", 16)}
    assert sorted({j.work.trial.rank for j in found if j.part == jobs.RANK}) == [1, 8], "no rank above the width, 16"
    tokens = {j.length: len(j.work.data.train) * (j.length or 0) for j in found if j.part == jobs.LENGTH}
    assert set(tokens) == {16, 32, 64, 128}
    assert {j.precision for j in found if j.part == jobs.CEILING} == {"fp32", "bf16"}
    assert len({j.name for j in found}) == len(found)


def test_only_takes_parts_and_contenders() -> None:
    parts, names = jobs.choose("train, ours")
    found = jobs.plan(tiny_work(), ("fp32",), parts, names)
    assert {(j.part, j.contender) for j in found} == {("train", "ours"), ("ceiling", "matmul")}
    assert jobs.choose(None) == (frozenset(jobs.PARTS), frozenset(contenders.names()))
    with pytest.raises(BadInput, match="--only: must name parts or contenders, but got 'b2'"):
        jobs.choose("b2")
    with pytest.raises(BadInput, match="--only"):
        jobs.choose("")


class Hungry(Session):
    """Needs more memory than there is."""

    def train(self, timer: Timer) -> Block:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    def evaluate(self, timer: Timer) -> Block:
        raise AssertionError


class NoMeter:
    def start(self) -> None:
        pass

    def peak(self) -> int | None:
        return None


def test_what_runs_out_of_memory_is_left_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    work, told = tiny_work(n=8), list[str]()
    ours = contenders.get("ours")
    real = type(ours).start
    monkeypatch.setattr(
        type(ours), "start",
        lambda self, w, *, precision, n_trials, repeat: Hungry() if n_trials == 64
        else real(self, w, precision=precision, n_trials=n_trials, repeat=repeat),
    )  # fmt: skip
    planned = [j for j in jobs.plan(work, ("fp32",), ("train",), ("ours",)) if j.n_trials in (1, 64)]
    found = list(
        jobs.measure(
            planned, repeats=2, shapes=(Shape(m=2, k=2, n=2),), timer=Timer(), meter=NoMeter(), tell=told.append,
            least_seconds=1e-6,
        )
    )  # fmt: skip
    assert sorted((r.part, r.n_trials) for r in found) == [("ceiling", 1)] * 2 + [("train", 1)] * 2
    assert told.count("train ours K=64 fp32: out of memory, left out") == 1
    assert all(r.flop_per_second and r.flop_per_second > 0 for r in found if r.part == "ceiling")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_peak_memory_is_the_growth_since_the_start(tmp_path: Path) -> None:
    status, clear = tmp_path / "status", tmp_path / "clear_refs"
    status.write_text("VmHWM:\t  900 kB\nVmRSS:\t  500 kB\n")
    meter = memory.CpuMeter(status, clear)
    meter.start()
    assert clear.read_text() == "5"
    assert meter.peak() == 400 * 1024
    blind = memory.CpuMeter(tmp_path / "none", tmp_path / "no" / "clear_refs")
    blind.start()
    assert blind.peak() is None


@pytest.mark.skipif(not memory.CLEAR_REFS.exists(), reason="needs Linux")
def test_memory_given_back_before_the_start_is_no_ones() -> None:
    meter = memory.CpuMeter()
    big = torch.ones(32 << 20)  # 128 MiB
    del big
    meter.start()
    small = torch.ones(8 << 20)  # 32 MiB
    peak = meter.peak()
    del small
    if peak is None:
        pytest.skip("this system does not let a process reset its high-water mark")
    assert 30 << 20 <= peak < 100 << 20


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_both_sweeps_run_the_same_cells(tmp_path: Path) -> None:
    cells = Cells(eta_A=(1e-4, 1e-3), lr_ratio=(1.0, 4.0), steps=3)
    ours, peer = sweeps.command("ours", cells, tmp_path), sweeps.command("b1g", cells, tmp_path)
    assert {"--eta-A=0.0001,0.001", "--lambda=4", "--methods=lora,lora+", "--n-select=0", "--eval-steps=3"} <= set(ours)
    assert (peer[-3], peer[-1]) == ("b1g", str(tmp_path))
    assert json.loads(peer[-2])["lr_ratio"] == [1.0, 4.0]
    assert cells.n_trials == 4
    early = sweeps.command("ours", replace(cells, early=True), tmp_path)
    assert set(early) - set(ours) == {"--sampler=halving", "--widen=false"}


def test_a_sweep_is_a_whole_process_and_a_failed_one_is_no_measurement() -> None:
    ran, untils = list[str](), list[bytes | None]()

    def run(arguments: Sequence[str], until: bytes | None) -> Ended:
        ran.append("ours" if "sweep" in arguments else arguments[-3])
        untils.append(until)
        return Ended(seconds=2.0 + len(ran), peak_memory_bytes=7, code=0, output="")

    cells = Cells(steps=5, batch_size=2)
    found = sweeps.measure(cells, ["b1g", "ours", "b0", "b1gh"], repeats=2, tell=lambda line: None, run=run)
    assert sorted(ran) == ["b0", "b1g", "b1g", "ours", "ours"], "the slow one once"
    assert {(r.part, r.n_trials, r.examples, r.peak_memory_bytes) for r in found} == {("sweep", 28, 280, 7)}

    assert set(untils) == {None}, "ours with its figures"

    ran.clear()
    untils.clear()
    found = sweeps.measure(cells, ["b1g", "ours", "b1"], ["early"], repeats=1, tell=lambda line: None, run=run)
    assert sorted(ran) == ["b1g", "ours"]
    assert {r.part for r in found} == {"early"}
    assert dict(zip(ran, untils, strict=True)) == {"ours": sweeps.AFTER_BEST, "b1g": None}

    def fail(arguments: Sequence[str], until: bytes | None) -> Ended:
        return Ended(seconds=1.0, peak_memory_bytes=7, code=1, output="no such file")

    with pytest.raises(RuntimeError, match="ended with code 1: no such file"):
        sweeps.measure(cells, ["ours"], repeats=1, tell=lambda line: None, run=fail)


def test_a_process_is_timed_and_its_memory_read() -> None:
    ended = sweeps.process(["sh", "-c", "echo hello; exit 3"], b"best")
    assert (ended.code, ended.output) == (3, "hello\n")
    assert ended.seconds > 0
    assert ended.peak_memory_bytes > 100_000


def test_a_process_is_timed_until_it_prints_what_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The process goes on only once the clock was read: at its line, not at its end."""
    read = list[float]()

    def clock() -> float:
        read.append(5.0 * len(read))
        if len(read) == 2:
            (tmp_path / "read").touch()
        return read[-1]

    monkeypatch.setattr(sweeps.time, "perf_counter", clock)
    words = f"echo the best; for i in $(seq 6000); do test -e {tmp_path}/read && exit 0; sleep 0.1; done; exit 1"
    ended = sweeps.process(["sh", "-c", words], b"the best")
    assert (ended.code, ended.seconds) == (0, 5.0)
    with pytest.raises(RuntimeError, match="no line that begins with b'rows: '"):
        sweeps.process(["true"], b"rows: ")


@pytest.mark.parametrize("name", ["b0", "b1", "b1g"])
def test_the_peers_sweep_trains_every_cell(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = {"eta_A": [1e-3], "lr_ratio": [1.0, 4.0], "steps": 1, "batch_size": 4, "rank": 2}
    peer_sweep.main(name, json.dumps(cells), str(tmp_path))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["trials"] == 2
    assert 0.3 < found["best"] < 0.8


def test_the_peers_sweep_with_the_median_pruner_stops_what_is_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates that differ by a million after 5 trials that run through: Optuna's own rule decides."""
    scores = iter([0.9] * 20 + [0.1] * 20)
    monkeypatch.setattr(peer_sweep, "_accuracy", lambda *_: next(scores))
    cells = {"eta_A": [1e-3], "lr_ratio": [1.0, 2, 3, 4, 5, 6], "steps": 4, "batch_size": 4, "rank": 2, "early": True}
    peer_sweep.main("b1g", json.dumps(cells), str(tmp_path))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {"trials": 6, "best": 0.9}
    assert len(list(scores)) == 19, "5 trials of 4 scores, and one of the sixth, which is stopped at once"


# --- rows, medians, figures ------------------------------------------------------------------------------------------


def a_run() -> pa.Table:
    found = [limit(4000.0), limit(6000.0, 1), limit(8000.0, 2)]
    for i, noise in enumerate((1.0, 1.2, 0.9)):
        found += [row("b1", 8.0 * noise, repeat=i), row("b1g", 4.0 * noise, repeat=i)]
        found += [
            row("ours", 8.0 * noise / n, repeat=i, n_trials=n, examples=40 * n, tokens=400 * n, steps=10)
            for n in (1, 4)
        ]
        found += [row("ours", 2.0 * noise, repeat=i, n_trials=4, part="rank", rank=r) for r in (1, 8)]
        found.append(row("b1", 2.0, repeat=i, precision="bf16"))
    return rows.to_table(found, CONTEXT)


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    table = a_run()
    path = rows.write(tmp_path, table)
    assert path == tmp_path / "bench" / "demo-tiny-1.parquet"
    assert rows.read(path).equals(table)
    assert table.schema.equals(rows.SCHEMA)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == [column.name for column in rows.COLUMNS]
    assert frame["git_commit"].isna().all(), "missing is null"


def test_medians_ratios_and_shares() -> None:
    lines = {(x.part, x.contender, x.precision, x.n_trials, x.rank): x for x in summary.lines(a_run())}
    b1, four = lines["train", "b1", "fp32", 1, 8], lines["train", "ours", "fp32", 4, 8]
    assert summary.ceilings(a_run()) == {"fp32": 6000.0}
    assert (b1.n, b1.seconds, b1.examples_per_second) == (3, 8.0, 5.0)
    assert (b1.lowest, b1.highest) == (pytest.approx(40 / 9.6), pytest.approx(40 / 7.2))
    assert b1.ms_per_trial_step == pytest.approx(800.0)
    assert four.ms_per_trial_step == pytest.approx(1e3 * 2.0 / 40)
    assert four.ratios == {
        ("b1", "bf16"): pytest.approx(80 / 20),
        ("b1", "fp32"): pytest.approx(16.0),
        ("b1g", "fp32"): pytest.approx(8.0),
    }
    assert b1.share == pytest.approx(4 * 10 * 50 / 6000.0)
    assert lines["train", "b1", "bf16", 1, 8].share is None, "no ceiling was measured in bf16"
    assert b1.padding == 2.0
    assert lines["rank", "ours", "fp32", 4, 1].ratios == {}, "a peer of another part is no baseline"


def test_an_evaluation_counts_2P_and_has_no_steps() -> None:
    table = rows.to_table([limit(1000.0), row("ours", 2.0, part="eval", steps=0)], CONTEXT)
    (line,) = summary.lines(table)
    assert line.ms_per_trial_step is None
    assert line.share == pytest.approx(2 * 10 * 200 / 1000.0)


def test_figures_show_every_contender_and_the_costs() -> None:
    drawn = figures.all_figures(a_run().to_pandas())
    assert set(drawn) == {"bars", "cost-K", "cost-rank"}
    (ax,) = drawn["bars"].axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([5.0, 10.0, 5.0, 80.0, 20.0])
    assert [text.get_text() for text in ax.get_yticklabels()][-1] == "B1: dynamic padding, bf16"
    cost = drawn["cost-K"].axes[0]
    (ours,) = [c for c in cost.containers if c.get_label() == "lorasweep, fp32"]
    assert ours.lines[0].get_xdata().tolist() == [1, 4]
    assert ours.lines[0].get_ydata().tolist() == pytest.approx([800.0, 50.0])


@pytest.mark.parametrize("columns", [rows.COLUMNS, speed_rows.COLUMNS])
def test_the_page_tells_every_column(columns: tuple[Column, ...]) -> None:
    page = (ROOT / "docs" / "benchmarks" / "method.md").read_text(encoding="utf-8")
    assert rows.dictionary(columns) in page


# --- options and the command -----------------------------------------------------------------------------------------


def test_options_have_the_names_and_checks_of_a_sweep() -> None:
    texts = {"task": "sst2", "max_steps": "7", "batch_size": "16", "rank": "4", "target_modules": "query,key"}
    chosen = setup.read(texts, random_weights=True, data_dir=None)
    assert (chosen.task, chosen.steps, chosen.batch_size, chosen.rank) == ("sst2", 7, 16, 4)
    assert chosen.target_modules == ("query", "key")
    assert replace(chosen, lora_dropout=0.0).lora_dropout == 0.0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--ranks", "1,2"], "--ranks: must be one value, but got 1,2"),
        (["--steps", "0"], "--steps: must be"),
        (["--only", "nothing"], "--only: must name parts or contenders"),
        (["--task", "toy"], "--task: must be a text classification or a causal task"),
        (["--rank", "97"], "--rank: must be <= 96, the model's width, but got 97"),
        (["--lambda", "4"], "No such option: --lambda"),
    ],
)
def test_bad_input_is_one_line(options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert line in err


def test_random_weights_have_the_published_shapes() -> None:
    config = model.config_of("roberta-base")
    sizes = config["num_hidden_layers"] * (4 * 768**2 + 2 * 768 * 3072)
    assert sizes == 84_934_656, "P of RoBERTa-base"
    small = {**config, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    before = torch.get_rng_state()
    loaded = model.random_model({**small, "vocab_size": 50}, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert loaded.model.config.num_labels == 3
    assert loaded.head_names
    assert all(name.startswith("classifier.") for name in loaded.head_names)
    assert model.tokenizer_of("roberta-base", config).name in model.TOKENIZERS


def test_the_command_measures_prints_and_stores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "LEAST_SECONDS", 1e-3)
    monkeypatch.setattr(setup, "precisions", lambda device, wanted: ("fp32",))
    options = ["--steps", "2", "--batch", "2", "--repeats", "2", "--only", "rank,ours", "--device", "cpu"]
    assert cli.main(["bench", *options, "--results-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    (path,) = (tmp_path / "bench").glob("demo-tiny-roberta-*.parquet")
    table = rows.read(path)
    assert sorted(set(table.column("part").to_pylist())) == ["ceiling", "rank"]
    assert table.num_rows == 2 * (3 + 1), "ranks 1, 8 and 64 and a ceiling, twice"
    assert "cost of rank" in out
    assert f"rows: {path}" in out
    assert [p.suffix for p in sorted((tmp_path / "bench" / "figures").iterdir())] == [".pdf", ".png"]
