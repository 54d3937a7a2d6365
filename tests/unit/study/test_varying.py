"""Settings that vary: found from the trials alone, and told in plan, table, progress and pack lines."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from bench.commands import _progress, _show
from bench.core.cells import Score, best_cells
from bench.core.spec import Pack, Study, TrainBudget, Trial
from bench.schedule import pack_sizes
from bench.schedule.estimate import Place
from bench.study import varying
from bench.sweep import Preview
from tests.support.plot_rows import lora_grid, trial

OTHER = {  # another value than plot_rows' trials have, of every setting that one of them could have
    "task": "cola", "model": "roberta-base", "data_hash": "d1", "model_hash": "m1", "rank": 4, "lora_alpha": 32.0,
    "use_rslora": True, "lora_dropout": 0.1, "init": "zero_A", "target_modules": "all-linear",
    "layers_to_transform": (0, 2), "head_policy": 1e-3, "max_steps": 10, "batch_size": 8, "max_length": 16,
    "optimizer": "sgd", "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_eps": 1e-6, "weight_decay": 0.1,
    "lr_scheduler_type": "cosine", "warmup_steps": 5, "max_grad_norm": None, "precision": "bf16", "n_select": 7,
    "reinit_head": True, "momentum": 0.9, "train_share": 0.5, "layer_decay": 0.9, "muon_momentum": 0.5,
    "base_precision": "nf4", "adapter_gate": True, "adapter_activation": "relu",
}  # fmt: skip

OF_ADAPTERS = {  # what LoRA does not read has no value in its trials: these settings vary among adapters' trials
    name: {"method": "sequential-adapter", "adapter_gate": False, "adapter_activation": "gelu"}
    for name in ("adapter_gate", "adapter_activation")
}


def changed(t: Trial, name: str) -> Trial:
    if name in {f.name for f in fields(TrainBudget)}:
        return replace(t, budget=replace(t.budget, **{name: OTHER[name]}))
    return replace(t, **{name: OTHER[name]})


@pytest.mark.parametrize("name", [n for n in varying.SETTINGS if n in OTHER])
def test_whatever_setting_varies_is_in_plan_table_and_progress(name: str) -> None:
    some = tuple(replace(t, **OF_ADAPTERS.get(name, {})) for t in lora_grid((1e-4, 1e-3), (1,), (0, 1)))
    trials = some + tuple(changed(t, name) for t in some)
    assert varying.of_trials(some) == ()
    assert varying.of_trials(trials) == (name,)
    value = varying.spelled(name, varying.value(varying.settings_of(trials[-1]), name))
    packs = (Pack(trials=trials),)
    preview = Preview(packs=packs, pending=packs, n_trials=len(trials), n_finished=0, estimate=None, packing=())
    chosen = Study(name="s", task="t", model="m", seeds=(0,), grids=(), budget=some[0].budget, profile="quick")
    header, row, *_ = _show.plan(chosen, preview).splitlines()
    scores = {
        t.trial_id: Score(
            trial_id=t.trial_id, status="ok", metric_value=0.9 if t in trials[-4:] else 0.5, metric_stderr=0.1,
            select_metric=None, train_seconds=1.0, source_hash="s",
        )
        for t in trials
    }  # fmt: skip
    table = _show.best_table(best_cells(trials, scores, higher_is_better=True), "accuracy", 2, trials).splitlines()
    assert name in header
    assert value in row
    assert name in table[0]
    assert value in table[1]
    assert value in _progress.best_so_far(trials[-1], 0.9, varying.of_trials(trials))


def test_every_setting_of_a_trial_that_rows_hold_is_looked_at() -> None:
    unread = {"method", "eta_A", "eta_B", "spec_version", "mora_type", "mora_rounding", "loraplus_lr_embedding"}
    assert set(varying.SETTINGS) - unread <= set(OTHER)


def test_a_setting_that_a_method_does_not_read_or_that_repeats_another_does_not_vary() -> None:
    adapters = sum((lora_grid((1e-3,), (1, 4), (0,), rank=r) for r in (2, 8)), ())
    trials = (*adapters, trial("full", 1e-4), trial("mora", 1e-3, mora_type=6))
    assert varying.of_trials(trials) == ("rank",)  # lora_alpha is the rank, full fine-tuning reads neither
    assert varying.of_trials((*trials, replace(adapters[0], lora_alpha=3.0))) == ("rank", "lora_alpha")
    assert varying.of_trials((*trials, trial("mora", 1e-3, mora_type=1)), but=("method",))[-1] == "mora_type"


def test_packs_of_kinds_that_differ_in_a_setting_have_lines_that_tell_it() -> None:
    packs = [Pack(trials=tuple(trial("mora", e, rank=r, mora_type=1) for e in (1e-3, 1e-2))) for r in (8, 32)]
    lines = pack_sizes.lines(packs, {}, Place(device="cpu"))
    assert [line.split(":")[0] for line in lines] == ["packs of mora type 1, rank 8", "packs of mora type 1, rank 32"]
