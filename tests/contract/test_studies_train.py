"""Every study file trains: two steps of each of its settings on a tiny random model of its architecture."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from bench import models, study, tasks
from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.data import causal, toy
from bench.models._config import read_config
from bench.schedule import planner
from bench.study.files import STUDIES_DIR
from tests.support import causal_helpers
from tests.support.engine_helpers import load_random, random_data
from tests.support.oracle import Packed, train_pack

TEXT_STUDIES = [name for name in study.names() if tasks.get(study.load(name).task).kind != toy.KIND]
_ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
TINY: dict[str, dict[str, Any]] = {
    "roberta": {**_ENCODER, "max_position_embeddings": 40},
    "bert": {**_ENCODER, "max_position_embeddings": 40},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "llama": {**_ENCODER, "num_key_value_heads": 2, "max_position_embeddings": 40},
}
SIZES = {"sst2": 67_349, "mrpc": 3_668, "cola": 8_551}  # training examples of GLUE
GLUE_STUDIES = [n for n in TEXT_STUDIES if n.startswith("lora-") and n.endswith(("-paper", "-script"))]


def model_type_of(name: str) -> str:
    """The architecture of the study's model; the test is skipped where an optional package is not installed."""
    try:
        return str(read_config(study.load(name).model)[1]["model_type"])
    except BadInput as error:
        pytest.skip(str(error))


def settings_of(trial: Trial) -> tuple[object, ...]:
    return (
        trial.method,
        trial.target_modules,
        trial.layers_to_transform,
        trial.mora_type,
        trial.init,
        trial.head_policy,
    )


def reduced(trial: Trial) -> Trial:
    """The trial at the tiny model's size: two steps, ranks and layers that fit it."""
    budget = replace(trial.budget, max_steps=2, eval_steps=2, warmup_steps=0, batch_size=4, precision="fp64")
    budget = replace(budget, max_length=16, n_select=0)  # read before the engine, which alone trains here
    layers = None if trial.layers_to_transform is None else (0,)
    rates = {"seed": 0, "eta_A": 1e-3, "eta_B": trial.eta_B and 1e-3, "lora_alpha": trial.lora_alpha and 2.0}
    where = {"task": "t", "model": "m", "data_hash": "d", **rates}  # alike in all studies
    return replace(trial, budget=budget, rank=trial.rank and min(trial.rank, 2), layers_to_transform=layers, **where)


def trials_of(name: str, profile: str) -> tuple[Trial, ...]:
    model_type = model_type_of(name)
    defaults = models.targets.default_targets(model_type)
    return study.expand(study.load(name, profile=profile), data_hash="d", model_hash="m", default_targets=defaults)


@pytest.mark.parametrize("name", TEXT_STUDIES)
def test_every_setting_of_a_study_trains_on_its_architecture(name: str) -> None:
    model_type, is_causal = model_type_of(name), tasks.get(study.load(name).task).kind == causal.KIND
    for one in {settings_of(t): reduced(t) for t in trials_of(name, "full")}.values():
        trains(model_type, is_causal, one)


@cache  # studies share most of their settings
def trains(model_type: str, is_causal: bool, one: Trial) -> None:
    if is_causal:
        language, prompted = causal_helpers.language_model(model_type), causal_helpers.causal_data()
        assert_trained(causal_helpers.train_pack(language, prompted, [one], n_chunks=1))
        return
    config = AutoConfig.for_model(model_type, vocab_size=60, num_labels=2, pad_token_id=1, bos_token_id=0,
                                  eos_token_id=2, **TINY[model_type])  # fmt: skip
    torch.manual_seed(0)
    assert_trained(train_pack(load_random(config), random_data(n_train=12), [one], n_chunks=1))


def assert_trained(packed: Packed) -> None:
    assert np.isfinite(packed.losses_SxK).all()
    assert packed.losses_SxK.shape == (2, 1)


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("name", TEXT_STUDIES)
def test_every_study_is_planned_whole(name: str, profile: str) -> None:
    trials = trials_of(name, profile)
    packs = planner.plan(trials)
    assert sorted(t.trial_id for pack in packs for t in pack.trials) == sorted(t.trial_id for t in trials)


@pytest.mark.parametrize("name", GLUE_STUDIES)
def test_glue_studies_take_the_epochs_that_they_state(name: str) -> None:
    """eval_steps is one epoch; the file says how many there are."""
    loaded = study.load(name, profile="full")
    per_epoch = math.ceil(SIZES[loaded.task] / loaded.budget.batch_size)
    n_epochs, rest = divmod(loaded.budget.max_steps, per_epoch)
    assert (loaded.budget.eval_steps, rest) == (per_epoch, 0)
    assert f"{n_epochs} epochs of {per_epoch:,} steps" in (STUDIES_DIR / f"{name}.toml").read_text(encoding="utf-8")
    assert loaded.budget.warmup_steps == math.ceil(0.06 * loaded.budget.max_steps)


def test_a_study_that_draws_anothers_rows_holds_none_of_its_own() -> None:
    for name in TEXT_STUDIES:
        source = study.load(name).rows_from
        if source is None:
            continue
        for profile in ("quick", "full"):
            mine, theirs = ({t.trial_id for t in trials_of(n, profile)} for n in (name, source))
            assert mine <= theirs, f"{name} needs rows that {source} does not make"
