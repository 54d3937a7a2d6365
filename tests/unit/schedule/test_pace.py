"""bench plan --calibrate: short runs of few packs, scaled up to whole ones by steps and tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import cli
from bench.core.errors import BadInput
from bench.core.record import Record, Status
from bench.core.spec import Pack
from bench.data.splits import Split, TextData
from bench.schedule import calibrate, planner
from bench.schedule.estimate import UNCALIBRATED, Place, Workload, estimate, read_calibration
from tests.support import sweep_helpers as helpers

PLACE = Place(device="fake")
WORKLOAD = Workload(matmul_params=100, train_tokens=10.0, n_eval=40, eval_tokens=12.0, n_select=8)
SHORT = Workload(matmul_params=100, train_tokens=10.0, n_eval=8, eval_tokens=12.0)
SETUP, STEP, EVAL_TOKEN = 0.25, 0.01, 1e-4  # seconds of a trial: once, each step, each token evaluated


def packs() -> tuple[Pack, ...]:
    return planner.plan(helpers.grid(), limits=planner.Limits(max_pack_size=4), family=helpers.family)


class Engine:
    """Takes the seconds that it is said to take."""

    def __init__(self, status: Status = Status.OK) -> None:
        self.ran: list[Pack] = []
        self.status = status

    def __call__(self, pack: Pack) -> Sequence[Record]:
        self.ran.append(pack)
        steps = pack.trials[0].budget.max_steps
        seconds = {"setup_seconds": SETUP, "eval_seconds": SHORT.n_eval * SHORT.eval_tokens * EVAL_TOKEN}
        if not self.status.finished:
            return helpers.records(pack.trials, status=self.status, reason="no", train_seconds=None)
        return helpers.records(pack.trials, status=self.status, train_seconds=steps * STEP, **seconds)


def measure(engine: Engine, chosen: Sequence[Pack], seconds: float = 1.0) -> calibrate.Calibration:
    return calibrate.measure(chosen, engine, workload=WORKLOAD, short=SHORT, place=PLACE, seconds=seconds)


def test_few_packs_cover_every_method() -> None:
    chosen = calibrate.covering(packs(), WORKLOAD, PLACE)
    names = [{trial.method for trial in pack.trials} for pack in chosen]
    assert set().union(*names) == {"lora", "lora+", "mora", "full"}
    assert len(chosen) <= 4 < len(packs())
    assert names == sorted(names, key=lambda found: "full" in found), "the largest first"


def test_a_short_pack_differs_in_its_length_and_its_rates_only() -> None:
    (pack, *_) = packs()
    short = calibrate.shortened(pack, 3)
    for trial, whole in zip(short.trials, pack.trials, strict=True):
        assert (trial.budget.max_steps, trial.budget.eval_steps, trial.budget.n_select) == (3, 3, 0)
        assert trial.eta_A < 1e-5
        assert replace(trial, eta_A=whole.eta_A, eta_B=whole.eta_B, budget=whole.budget) == whole
    assert planner.plan(short.trials, family=helpers.family) == planner.plan(short.trials, family=helpers.family)


def test_the_estimate_of_a_calibrated_device_is_the_time_that_packs_take() -> None:
    engine, whole = Engine(), packs()
    calibration = measure(engine, whole)
    found = estimate(whole, calibration, WORKLOAD, PLACE)
    tokens = 2 * WORKLOAD.n_eval * WORKLOAD.eval_tokens + WORKLOAD.n_select * WORKLOAD.train_tokens
    each = SETUP + 20 * STEP + tokens * EVAL_TOKEN  # 20 steps, evaluated every 10
    assert found.calibrated
    assert found.seconds == pytest.approx(sum(pack.size for pack in whole) * each, rel=1e-9)


def test_a_calibration_holds_for_a_study_of_other_length_and_other_evaluations() -> None:
    calibration = measure(Engine(), packs())
    more = Workload(matmul_params=100, train_tokens=20.0, n_eval=4, eval_tokens=120.0)
    budget = replace(helpers.BUDGET, max_steps=500, eval_steps=50, n_select=0)
    long = tuple(Pack(trials=tuple(replace(t, budget=budget) for t in pack.trials)) for pack in packs())
    each = SETUP + 500 * STEP * 20 / 10 + 10 * 4 * 120 * EVAL_TOKEN
    found = estimate(long, calibration, more, PLACE)
    assert found.seconds == pytest.approx(sum(pack.size for pack in long) * each, rel=1e-9)


def test_the_tokens_of_a_short_run_count_as_they_were_and_not_by_their_mean() -> None:
    (pack, *_) = packs()
    steps, n_tokens = helpers.BUDGET.max_steps, 2 * helpers.BUDGET.max_steps * helpers.BUDGET.batch_size * 10.0
    seen = helpers.records(pack.trials, train_seconds=steps * STEP, tokens_per_second=n_tokens / (steps * STEP))
    found = estimate([pack], UNCALIBRATED.with_pack(seen, WORKLOAD, PLACE, by_tokens=True), WORKLOAD, PLACE)
    assert found.seconds == pytest.approx(pack.size * steps * STEP / 2), "twice the usual tokens took that long"


def test_slow_steps_are_fewer() -> None:
    engine = Engine()
    measure(engine, packs(), seconds=1.0)
    steps = [pack.trials[0].budget.max_steps for pack in engine.ran]
    chosen = calibrate.covering(packs(), WORKLOAD, PLACE)
    expected = []
    for pack in chosen:
        fit = int(1.0 / len(chosen) / 2 // (pack.size * STEP))
        expected += [calibrate.FIRST_STEPS, min(calibrate.MOST_STEPS, max(calibrate.LEAST_STEPS, fit))]
    assert steps == expected


def test_a_short_run_that_fails_is_bad_input() -> None:
    with pytest.raises(BadInput, match="--calibrate: a short run of every method must succeed, but got no"):
        measure(Engine(Status.FAILED), packs())


def test_short_data_keeps_train_and_cuts_the_evaluation() -> None:
    split = Split(texts=("a", "b", "c"), pairs=("d", "e", "f"), labels=np.array([0, 1, 0]))
    data = TextData(train=split, eval=split, data_hash="0")
    cut = calibrate.short_data(data, 2)
    assert cut.train is split
    assert (cut.eval.texts, cut.eval.pairs, len(cut.eval.labels)) == (("a", "b"), ("d", "e"), 2)


def test_plan_calibrate_measures_and_keeps_the_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--methods", "lora", "--ranks", "2", "--eta-A", "1e-3", "--seeds", "0", "--steps", "8", "--batch", "4"]
    where = ["--results-dir", str(tmp_path), "--device", "cpu"]
    assert cli.main(["plan", *options, *where]) == 0
    assert "uncalibrated" in capsys.readouterr().out
    assert cli.main(["plan", *options, *where, "--calibrate"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^lora, 1 together: \d+\.\d ms a trial-step$", out, re.MULTILINE)
    assert "uncalibrated" not in out
    assert cli.main(["plan", *options, *where]) == 0
    assert "uncalibrated" not in capsys.readouterr().out
    spent = read_calibration(tmp_path).spent
    assert {key[1:] for key in spent} == {("tiny-roberta", "fp32", "lora", p) for p in ("setup", "train", "eval")}
    assert all(seconds > 0 and work > 0 for seconds, work in spent.values())
    assert not (tmp_path / "demo-tiny-roberta" / "trials").exists()
