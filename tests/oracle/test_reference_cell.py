"""Dropout on: a pack against PEFT with the same masks; one cell of the committed SST-2 sweep trained by hand."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bench import models, store, tasks
from bench.core.spec import TrainBudget, Trial
from bench.data import splits, text
from tests.support.engine_helpers import budget, random_data, tiny_model, trial
from tests.support.mask_oracle import train_peft_with_masks
from tests.support.oracle import start_values, train_pack

ROWS = Path(__file__).resolve().parents[2] / "results" / "reference" / "sst2-reference.parquet"
CELL = {"method": "lora", "rank": 8, "eta_A": 6.4e-4, "seed": 0}


@pytest.mark.parametrize("path", ["bank", "unpadded"])
def test_with_every_dropout_on_a_pack_trains_as_peft_with_the_same_masks(path: str) -> None:
    loaded = tiny_model("bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, classifier_dropout=0.2)
    data, short = random_data(types=True), budget(max_steps=12, max_grad_norm=0.5, weight_decay=0.1)
    trials = [trial(budget=short, rank=2, eta_A=1e-3), trial(budget=short, rank=4, eta_A=2e-3, eta_B=1.6e-2)]
    packed = train_pack(loaded, data, trials, path=path)
    for k, start in enumerate(start_values(loaded, trials)):
        alone = train_peft_with_masks(loaded, data.train, trials[k], start)
        np.testing.assert_allclose(packed.losses_SxK[:, k], alone.losses_S, rtol=0, atol=1e-10)
        np.testing.assert_allclose(packed.norms_SxK[:, k], alone.norms_S, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.skipif(not ROWS.is_file(), reason="the sweep's rows are not there")
@pytest.mark.skipif("LORASWEEP_DATA" not in os.environ, reason="needs LORASWEEP_DATA")
def test_a_cell_of_the_reference_sweep_trained_by_peft_has_its_curve() -> None:
    """MiniLM on SST-2, 300 steps: the same order, masks and start; PEFT's model, torch.optim's AdamW."""
    row = next(r for r in store.load_files([ROWS]).to_pylist() if all(r[key] == value for key, value in CELL.items()))
    located = models.locate(row["model"])
    texts = tasks.load(tasks.get(row["task"]), Path(os.environ["LORASWEEP_DATA"]))
    assert isinstance(texts, splits.TextData)
    data = text.encode(texts, located, n_labels=2, metric="accuracy", max_length=row["max_length"], n_select=0)
    data = replace(data, train=text.take(data.train, trained_on_in_version_1(texts.train.texts, 1000)))
    assert (data.data_hash, located.model_hash) == (row["data_hash"], row["model_hash"])
    loaded, member = models.load_model(located, 2, torch.float32), trial_of(row)
    (start,) = start_values(loaded, [member])
    losses_S = train_peft_with_masks(loaded, data.train, member, start).losses_S
    points = row["curve"]
    bounds = [0, *(point["step"] for point in points)]
    means = [losses_S[a:b].mean() for a, b in itertools.pairwise(bounds)]
    print(f"train_loss: stored {[p['train_loss'] for p in points]}, by hand {means}")
    np.testing.assert_allclose(means, [point["train_loss"] for point in points], rtol=0, atol=1e-4)


def trained_on_in_version_1(texts: Sequence[str], n_select: int) -> npt.NDArray[np.int64]:
    """Return what rows of version 1 were trained on: all but the n_select texts of the smallest hashes."""
    places: dict[bytes, list[int]] = {}
    for i, one in enumerate(texts):
        places.setdefault(hashlib.sha256(one.encode()).digest(), []).append(i)
    held: list[int] = []
    for key in sorted(places):
        held += places[key] if len(held) + len(places[key]) <= n_select else []
    return np.setdiff1d(np.arange(len(texts)), held)


def trial_of(row: dict[str, Any]) -> Trial:
    """Return the LoRA trial that a row tells of."""
    names = ("task", "model", "data_hash", "model_hash", "method", "seed", "eta_A", "eta_B", "rank", "lora_alpha",
             "use_rslora", "lora_dropout", "init", "head_policy")  # fmt: skip
    of_budget = {name: row[name] for name in TrainBudget.__slots__ if name in row and name != "n_select"}
    steps = row["curve"][0]["step"]
    member = Trial(
        **{name: row[name] for name in names}, target_modules=tuple(json.loads(row["target_modules"])),
        budget=TrainBudget(**of_budget, eval_steps=steps, n_select=1000),
    ).as_version_1(1000)  # fmt: skip
    assert member.trial_id == row["trial_id"], "the row tells its trial whole"
    return member
