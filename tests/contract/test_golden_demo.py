"""A small sweep of the demo gives the rows that it gave before the modules moved: the same trials, packs and losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import cli, store

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "demo.json"
OPTIONS = (
    "--task=demo", "--methods=lora,lora+,mora,full", "--seeds=0", "--eta-A=1e-3,4e-3", "--lambda=4", "--steps=6",
    "--batch=8", "--pack-size=2", "--device=cpu", "--profile=quick",
)  # fmt: skip
SAME = ("trial_id", "method", "eta_A", "eta_B", "pack_id")
NEAR = ("metric_value", "select_metric", "train_loss", "eval_loss")  # to float order: CPUs add up in their own ways


def test_the_rows_of_a_demo_sweep_are_those_of_the_golden_file(tmp_path: Path) -> None:
    wanted = json.loads(GOLDEN.read_text("utf-8"))
    assert cli.main(["sweep", *OPTIONS, f"--results-dir={tmp_path}"]) == 0
    found = sorted(store.load(tmp_path / "demo-tiny-roberta").to_pylist(), key=lambda row: row["trial_id"])
    assert [{name: row[name] for name in SAME} for row in found] == [
        {name: row[name] for name in SAME} for row in wanted
    ]
    for row, golden in zip(found, wanted, strict=True):
        assert {name: row[name] for name in NEAR} == pytest.approx({name: golden[name] for name in NEAR}, rel=1e-3)
