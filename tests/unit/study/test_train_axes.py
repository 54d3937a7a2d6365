"""Settings of [train] as lists: an axis of every grid, or of one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.engine.batching import Batches
from bench.schedule import planner
from bench.study import resolve
from tests.support.engine_helpers import random_split

HEAD = 'task = "demo"\nseeds = [0]\n'


def trials(tmp_path: Path, text: str, **options: str) -> tuple[Trial, ...]:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + text)
    study = resolve.load(path, overrides=options, studies_dir=tmp_path)
    return resolve.expand(study, data_hash="d", model_hash="m", default_targets=("query",))


def test_a_list_in_train_is_an_axis_of_every_grid(tmp_path: Path) -> None:
    text = """
[train]
max_steps = 20
batch_size = [8, 16]
optimizer = ["adamw", "sgd"]
max_grad_norm = [0, 1.0]
[grid.lora]
eta_A = [1e-4, 1e-3]
[grid.full]
eta_A = 1e-4
"""
    found = trials(tmp_path, text)
    assert len(found) == (2 + 1) * 8
    for method in ("lora", "full"):
        budgets = {one.budget for one in found if one.method == method}
        assert {(b.batch_size, b.optimizer, b.max_grad_norm) for b in budgets} == {
            (size, name, norm) for size in (8, 16) for name in ("adamw", "sgd") for norm in (None, 1.0)
        }
    assert len({one.trial_id for one in found}) == len(found)
    packs = planner.plan(found, limits=planner.Limits(max_pack_size=8))
    assert all(len({one.budget for one in pack.trials}) == 1 for pack in packs)


def test_a_grid_may_have_an_axis_of_its_own(tmp_path: Path) -> None:
    text = "[train]\nmax_steps = 20\nweight_decay = 0.1\n[grid.lora]\neta_A = 1e-3\nweight_decay = [0, 0.01]\n"
    text += "[grid.full]\neta_A = 1e-4\n"
    found = trials(tmp_path, text)
    assert [(one.method, one.budget.weight_decay) for one in found] == [("lora", 0), ("lora", 0.01), ("full", 0.1)]
    given = trials(tmp_path, text, weight_decay="0.5")
    assert {one.budget.weight_decay for one in given} == {0.5}, "what the command line gives counts for all"


def test_steps_take_warm_up_and_evaluation_along(tmp_path: Path) -> None:
    text = "[train]\nmax_steps = [10, 40]\neval_steps = 20\nwarmup_steps = 0.1\n[grid.lora]\neta_A = 1e-3\n"
    found = [(b.max_steps, b.eval_steps, b.warmup_steps) for b in (one.budget for one in trials(tmp_path, text))]
    assert found == [(10, 10, 1), (40, 20, 4)]
    with pytest.raises(BadInput, match="must be <= max_steps"):
        trials(tmp_path, text.replace("0.1", "11"))


def test_a_list_on_the_command_line_replaces_a_value_and_the_reverse(tmp_path: Path) -> None:
    text = "[train]\nmax_steps = 20\nbatch_size = 8\n[grid.lora]\neta_A = 1e-3\n"
    assert [one.budget.batch_size for one in trials(tmp_path, text, batch_size="4,16")] == [4, 16]
    listed = text.replace("batch_size = 8", "batch_size = [8, 16]")
    assert [one.budget.batch_size for one in trials(tmp_path, listed)] == [8, 16]
    assert [one.budget.batch_size for one in trials(tmp_path, listed, batch_size="2")] == [2]


@pytest.mark.parametrize(
    "line", ["precision = ['fp32', 'bf16']", "batch_size = [0, 8]", "train_share = 0", "adam_beta2 = [1]"]
)
def test_what_is_no_axis_or_no_value_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadInput):
        trials(tmp_path, f"[train]\nmax_steps = 20\n{line}\n[grid.lora]\neta_A = 1e-3\n")


def test_a_share_is_in_every_larger_one_and_all_is_all() -> None:
    split = Batches(random_split(50, seed=1), device=torch.device("cpu"))

    def seen(share: float, seed: int = 0) -> list[int]:
        batches = split.order(seed=seed, batch_size=8, max_steps=14, share=share)
        return np.concatenate(list(batches)).tolist()

    sets = [set(seen(share)) for share in (0.1, 0.3, 0.5, 1.0)]
    assert [len(one) for one in sets] == [5, 15, 25, 50]
    assert all(a < b for a, b in pairwise(sets))
    assert set(seen(0.3)) != set(seen(0.3, seed=1))
    assert seen(1.0)[:50] != sorted(seen(1.0)[:50])
    plain = np.concatenate(list(split.order(seed=0, batch_size=8, max_steps=14))).tolist()
    assert seen(1.0) == plain
