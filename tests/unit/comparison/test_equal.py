"""The comparison study of a task that has none: its default grids, made equal in size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench import cli, study
from bench.comparison import arms, equal
from bench.core.errors import BadInput
from bench.core.spec import Study
from bench.study import as_toml

TASK = """
labels = ["no", "yes"]
[columns]
text = "text"
label = "label"
[files]
train = "train.csv"
eval = "dev.csv"
"""


def made(options: Mapping[str, str]) -> Study:
    return equal.equalled(*study.trace(overrides=options))[0]


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("task", ["mrpc", "cola", "rte", "stsb", "sst2", "demo"])
def test_every_arm_of_a_default_study_gets_as_many_cells(task: str, profile: str) -> None:
    before = study.load(overrides={"task": task, "profile": profile})
    after = made({"task": task, "profile": profile})
    counts = {arm.n_cells for arm in equal.arms_of(after)}
    assert len(counts) == 1
    assert counts.pop() >= max(arm.n_cells for arm in equal.arms_of(before)) / len(before.grids[0].axis("rank") or (1,))
    for old, new in zip(before.grids, after.grids, strict=True):
        etas, given = new.axis("eta_A") or (), old.axis("eta_A") or ()
        assert (min(etas), max(etas)) == (min(given), max(given))
        assert len(new.axis("rank") or (0,)) == 1
        assert new.axis("lr_ratio") == old.axis("lr_ratio")
        if len(etas) != len(given):
            steps = [math.log(b / a) for a, b in pairwise(etas)]
            assert max(steps) - min(steps) < 2e-3


def test_cells_by_hand() -> None:
    """LoRA+ with 2 rates and 4 ratios has 8 cells; whoever has one rate gets 8 of them between the same ends."""
    grids = {g.method: g for g in made({"task": "mrpc", "eta_A": "1e-4,1e-3"}).grids}
    assert grids["lora+"].axis("eta_A") == (1e-4, 1e-3)
    by_hand = [float(f"{1e-4 * 10 ** (i / 7):.4g}") for i in range(8)]
    assert grids["lora"].axis("eta_A") == pytest.approx(by_hand, rel=1e-12)
    same = made({"task": "mrpc", "methods": "lora,full"})
    assert same.grids == study.load(overrides={"task": "mrpc", "methods": "lora,full"}).grids


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"eta_A": "1e-4"}, "lora.eta_A: must hold two rates or more"),
        ({"methods": "full"}, "must hold lora, the baseline, and another method"),
        ({"rank": "2,8"}, "methods are compared at one rank"),
    ],
)
def test_what_cannot_be_made_equal_is_refused(options: dict[str, str], rule: str) -> None:
    with pytest.raises(BadInput, match=rule):
        made({"task": "mrpc", **options})


def test_a_rank_that_counts_something_else_is_no_second_rank() -> None:
    """VeRA's vectors have 256 numbers where LoRA's matrices have rank 8; two ranks of VeRA are refused."""
    some = study.load("demo-methods", overrides={"methods": "lora,vera,mora"})
    assert {arm.trials[0].rank for arm in equal.arms_of(some)} == {8, 256}
    arms.check(some, equal.arms_of(some))
    vera = next(grid for grid in some.grids if grid.method == "vera")
    wider = replace(
        vera, axes=tuple((k, (128, 256) if k == "rank" else v[:4] if k == "eta_A" else v) for k, v in vera.axes)
    )
    twice = replace(some, grids=tuple(wider if grid is vera else grid for grid in some.grids))
    with pytest.raises(BadInput, match="methods are compared at one rank, but got 128, 256"):
        arms.check(twice, equal.arms_of(twice))


def test_the_file_that_is_written_is_the_same_study(tmp_path: Path) -> None:
    after, layer = equal.equalled(*study.trace(overrides={"task": "mrpc"}))
    (tmp_path / "mrpc-compare.toml").write_text(as_toml.text(after, layer))
    again = study.load(tmp_path / "mrpc-compare.toml", profile="full")
    assert (again.grids, again.budget, again.seeds) == (after.grids, after.budget, after.seeds)


def test_a_task_of_ones_own_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"the film is {word} {i},{label}" for i in range(40) for word, label in (("good", "yes"), ("bad", "no"))]
    (tmp_path / "own.toml").write_text(TASK)
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *(f"{name} {line}" for line in lines)]) + "\n")
    results = ["--results-dir", str(tmp_path / "out")]
    options = ["--task", str(tmp_path / "own.toml"), "--model", "tiny-roberta", "--methods", "lora,lora+",
               "--eta-A", "1e-3,1e-2", "--lambda", "4,16", "--steps", "2", *results]  # fmt: skip
    assert cli.main(["compare", *options]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "out" / "own-tiny-roberta-compare" / "own-tiny-roberta-compare.toml"
    assert f"its default grids, made equal with 4 cells each, are in {path}" in printed
    assert "own on tiny-roberta: 4 cells tuned for each method" in printed
    assert (path.parent / "comparison.json").is_file()
    again = ["--study", str(path), *results]
    assert cli.main(["report", *again]) == 0
    assert "tuned LoRA" in (path.parent / "report.html").read_text()
    assert cli.main(["compare", *again]) == 0
    assert "this run: 0 in" in capsys.readouterr().out
