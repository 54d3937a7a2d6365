"""A search with a pruner on the real engine: whoever is not stopped ends as if trained alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import store, sweep, tasks
from bench.commands import _resolve
from bench.core.record import Status
from bench.data.splits import Split, TextData
from bench.executors import runtime
from bench.export.recommend import trial_of_row
from bench.study import resolve
from bench.sweep.events import STATE

GIVEN = {
    "study": "demo", "methods": "lora", "sampler": "tpe", "n_trials": "6", "pruner": "hyperband", "pack_size": "6",
    "widen": "false", "max_steps": "8", "eval_steps": "2", "precision": "fp64", "seeds": "0",
    "n_select": "40", "rank": "2",
}  # fmt: skip


@pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
def test_a_survivor_in_float64_is_the_trial_trained_alone(tmp_path: Path) -> None:
    resolved = _resolve.resolve_to_train(resolve.load(overrides=GIVEN))
    name, task = resolved.study.name, tasks.get("demo")
    assert isinstance(resolved.data, TextData)
    whole = resolved.data.eval
    few = replace(resolved.data, eval=Split(texts=whole.texts[:40], pairs=None, labels=whole.labels[:40]))
    shared = {"task": task, "data": few, "located": resolved.located, "device": "cpu"}
    executor = runtime.local_executor(**shared, log_dir=tmp_path / "logs", state_dir=tmp_path / name / STATE)  # type: ignore[arg-type]
    done = sweep.run(
        resolved.study, resolved.trials, results_dir=tmp_path, executor=executor, options=resolved.sweep_options()
    )
    assert done.n_finished + done.n_pruned == done.n_trials == 6
    pruned = store.load_pruned(tmp_path / name).to_pylist()
    assert len(pruned) == done.n_pruned > 0
    late = [row for row in store.load(tmp_path / name).to_pylist() if row["pack_size"] < 6]
    assert late, "no trial went on after others had been stopped"
    for row in late[:2]:
        trial = trial_of_row(row, resolved.trials[0])
        assert trial is not None
        alone = runtime.train_once(trial, **shared, keep=lambda bank, model: None)  # type: ignore[arg-type]
        assert alone.status is Status.OK
        assert row["metric_value"] == alone.metric_value
        assert row["eval_loss"] == pytest.approx(alone.eval_loss, abs=1e-10)
        losses = [(p["step"], p["train_loss"]) for p in row["curve"]]
        assert losses == [(p.step, pytest.approx(p.train_loss, abs=1e-10)) for p in alone.curve]
    assert not list((tmp_path / name / STATE).glob("*")), "states stay behind"
