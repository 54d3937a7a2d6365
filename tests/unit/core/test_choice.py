"""Which cell is the best: by the mean, ties by the neighbours, the same in a summary, a comparison and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from bench.comparison import arms
from bench.core import cells, choice
from bench.core.choice import Point
from bench.core.metrics import METRICS
from bench.core.spec import Trial
from plots import tidy
from tests.support.plot_rows import frame, lora_grid, trial


def line(*scores: float) -> list[Point]:
    """Return cells at eta_A 1, 2, 4, ... of one ratio."""
    return [Point(objective=s, eta_A=2.0**i, lr_ratio=1.0) for i, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "place"),
    [
        ((0.1, 0.9, 0.2), 1),
        ((0.9, 0.1, 0.8, 0.9), 3),  # the right one lies beside 0.8, the left one beside 0.1
        ((0.9, 0.8, 0.1, 0.9), 0),
        ((0.9, 0.5, 0.6, 0.9, 0.7), 3),  # beside 0.5 against beside (0.6, 0.7)
        ((0.1, 0.9, 0.9, 0.9, 0.1), 2),  # a plateau: its middle
        ((0.5, 0.5, 0.5, 0.5), 1),  # two beside two: one of the middle ones, surely the same
        ((0.9,), 0),
    ],
)
def test_ties_are_broken_by_the_neighbours_not_by_the_size_of_the_rate(scores: tuple[float, ...], place: int) -> None:
    assert choice.best(line(*scores), higher_is_better=True) == place
    assert choice.best(line(*(1 - s for s in scores)), higher_is_better=False) == place


def test_ties_within_the_last_digits_are_ties() -> None:
    mean = (0.1 + 0.2 + 0.3) / 3
    assert mean != 0.2
    assert choice.best(line(mean, 0.1, 0.15, 0.2), higher_is_better=True) == 3
    assert choice.best(line(0.2, 0.1, 0.15, mean), higher_is_better=True) == 3


def test_neighbours_of_a_two_dimensional_grid_share_one_rate() -> None:
    points = [Point(objective=0, eta_A=a, lr_ratio=r) for a in (1.0, 2.0, 4.0) for r in (1.0, 4.0)]
    assert choice.neighbours(points)[2] == [0, 4, 3]  # (2, 1): (1, 1), (4, 1), (2, 4)
    other = [*points, Point(objective=9, eta_A=2.0, lr_ratio=2.0, others="another rank")]
    assert choice.neighbours(other)[2] == [0, 4, 3]
    assert choice.neighbours(other)[6] == []


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_diverged_cell_is_never_best_whatever_the_metric(name: str) -> None:
    """Correlations go down to -1: a cell at -0.02, or at -1, is better than one that diverged."""
    better = METRICS[name].higher_is_better
    for score in (-0.02, -1.0, 0.0) if better else (0.7, 1e9, 1e30):
        bad, good = trial("lora", 1e-4, ratio=1), trial("lora", 1e-3, ratio=1)
        scores = {
            t.trial_id: cells.Score(
                trial_id=t.trial_id, status=status, metric_value=value, metric_stderr=None, select_metric=None,
                train_seconds=None, source_hash=None)
            for t, status, value in ((bad, "diverged", None), (good, "ok", score))
        }  # fmt: skip
        for order in ((bad, good), (good, bad)):
            (cell,) = cells.best_cells(order, scores, higher_is_better=better)
            assert cell.trial == good
        rows = {t.trial_id: {**vars_of(scores[t.trial_id])} for t in (bad, good)}
        found = arms.cells(arms.Arm(name="lora", trials=(bad, good)), rows, higher_is_better=better)
        assert arms.choose(found, higher_is_better=better).trial == good


def vars_of(score: cells.Score) -> dict[str, object]:
    return {name: getattr(score, name) for name in cells.SCORE_COLUMNS} | {"collapsed": False}


def stored(trials: Sequence[Trial], values: Sequence[float], bits: Sequence[np.ndarray] | None = None) -> pd.DataFrame:
    """Return stored rows with these scores, chosen by them, and with these examples right."""
    df = frame(trials).assign(metric_value=values, accuracy=values, select_metric=values, status="ok")
    if bits is None:
        return df
    packed = [np.packbits(b).tobytes() for b in bits]
    return df.assign(eval_correct=pd.Series(packed, dtype=object), n_eval=len(bits[0]))


def test_summary_comparison_and_figure_choose_the_same_of_equals() -> None:
    scores = {1e-4: 0.9, 4e-4: 0.5, 1.6e-3: 0.8, 6.4e-3: 0.9}
    trials = lora_grid(tuple(scores), (1,), (0,))
    df = stored(trials, [scores[t.eta_A] for t in trials])
    by_id = {r["trial_id"]: r for r in df.replace({np.nan: None}).to_dict("records")}
    (best,) = cells.best_cells(trials, {i: cells.Score.of_row(r) for i, r in by_id.items()}, higher_is_better=True)
    cell = arms.choose(
        arms.cells(arms.Arm(name="lora", trials=trials), by_id, higher_is_better=True), higher_is_better=True
    )
    drawn = tidy.choose(tidy.tidy(df, tidy.StudyInfo(trials=trials, seeds=(0,))))
    assert drawn is not None
    assert best.trial.eta_A == cell.trial.eta_A == drawn["eta_A"] == 6.4e-3


# --- the spread of a mean below three seeds ---------------------------------------------------------------------------


def test_below_three_seeds_it_is_the_spread_over_examples_of_the_seeds_mean() -> None:
    """8 examples, two seeds right on (0-5) and (0-3, 6, 7): shares 1 1 1 1 .5 .5 .5 .5, mean .75, sd .25."""
    first = np.array([1, 1, 1, 1, 1, 1, 0, 0], dtype=np.uint8)
    second = np.array([1, 1, 1, 1, 0, 0, 1, 1], dtype=np.uint8)
    found = cells.spread_of_mean([0.75, 0.75], [0.153, 0.153], [first, second])
    assert found == (pytest.approx(0.25 / math.sqrt(8)), "examples")
    one = cells.spread_of_mean([0.75], [0.153], [first])
    assert one == (pytest.approx(math.sqrt(0.75 * 0.25 / 8)), "examples")  # the binomial one
    same = cells.spread_of_mean([0.75, 0.75], [0.153, 0.153], [first, first])
    assert same == one  # two seeds that err alike say no more than one
    by_seeds = cells.spread_of_mean([0.75, 0.8, 0.7], [0.1] * 3, [None] * 3)
    assert by_seeds == (pytest.approx(0.05 / math.sqrt(3)), "seeds")


def test_another_metric_keeps_its_own_standard_error() -> None:
    bits = np.array([1, 1, 0, 0], dtype=np.uint8)
    assert cells.spread_of_mean([0.31, 0.33], [0.02, 0.04], [bits, bits]) == (pytest.approx(0.03), "examples")
    assert cells.spread_of_mean([0.31], [None], [None]) == (None, None)
    assert cells.spread_of_mean([], [], []) == (None, None)


def test_terminal_and_figure_show_one_spread() -> None:
    trials = lora_grid((1e-3,), (1,), (0, 1))
    rng = np.random.default_rng(0)
    bits = [(rng.random(50) < 0.8).astype(np.uint8) for _ in trials]
    df = stored(trials, [float(b.mean()) for b in bits], bits)
    scores = {r["trial_id"]: cells.Score.of_row(r) for r in df.replace({np.nan: None}).to_dict("records")}
    (cell,) = cells.best_cells(trials, scores, higher_is_better=True)
    drawn = tidy.tidy(df, tidy.StudyInfo(trials=trials, seeds=(0, 1))).cells.iloc[0]
    expected = np.mean(bits, axis=0).std() / math.sqrt(50)
    assert cell.spread == pytest.approx(expected)
    assert drawn["stderr"] == pytest.approx(expected)
    assert drawn["stderr_kind"] == cell.spread_of == "examples"
