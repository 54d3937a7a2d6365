"""First rates from stored studies, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from bench.comparison import advise
from bench.study import varying


def row(study: str, eta_A: float, value: float, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = dict.fromkeys((*varying.SETTINGS, *advise.COLUMNS))
    settings |= {
        "study": study, "task": "sst2", "model": "minilm", "method": "lora", "rank": 8, "seed": 0, "eta_A": eta_A,
        "lr_ratio": 1.0, "metric_name": "accuracy", "status": "ok", "metric_value": value,
        "trial_id": f"{study}{eta_A}",
    }  # fmt: skip
    return settings | changes


def line(study: str, best: float, **changes: Any) -> list[dict[str, Any]]:
    """Return a grid over five rates whose best one is `best`; a step away costs 0.1."""
    return [row(study, best * 4.0**i, 0.9 - 0.1 * abs(i), **changes) for i in (-2, -1, 0, 1, 2)]


def test_the_middle_of_those_that_are_alike_by_hand() -> None:
    known = advise.known_of([*line("a", 1e-3), *line("b", 4e-3), *line("c", 1e-1, task="cola")])
    found = advise.advise(known, task="sst2", model="minilm", method="lora", kind=None, rank=8)
    assert found is not None
    assert found.eta_A == pytest.approx(2e-3)
    assert (found.sources, found.alike) == (("a", "b"), "task and model, rank 8")
    assert found.spread == pytest.approx(4)
    assert found.grid() == {"eta_A": (0.0005, 0.002, 0.008)}


@pytest.mark.parametrize(
    ("asked", "alike"),
    [
        ({"task": "rte", "rank": 8}, "model, rank 8"),
        ({"task": "rte", "rank": 64}, "model"),
        ({"model": "other", "rank": 8}, "task, rank 8"),
        ({"task": "rte", "model": "other", "rank": 8}, "the method alone, rank 8"),
    ],
)
def test_what_is_less_alike_counts_where_nothing_more_is_known(asked: dict[str, Any], alike: str) -> None:
    known = advise.known_of(line("a", 1e-3))
    wish: dict[str, Any] = {"task": "sst2", "model": "minilm", "method": "lora", "kind": None, **asked}
    found = advise.advise(known, **wish)
    assert found is not None
    assert (found.eta_A, found.alike) == (pytest.approx(1e-3), alike)


def test_where_nothing_is_known_it_says_so() -> None:
    known = advise.known_of(line("a", 1e-3))
    for method, kind in (("full", None), ("mora", 6)):
        assert advise.advise(known, task="sst2", model="minilm", method=method, kind=kind, rank=8) is None
    assert advise.known_of(line("a", 1e-3)[:2]) == (), "two rates have no best one in between"


def test_leaving_one_study_out_by_hand() -> None:
    """b's best rate is a step above a's: at once it costs a step, the narrow grid holds it. c is two steps off."""
    known = advise.known_of([*line("a", 1e-3), *line("b", 4e-3)])
    for one in advise.leave_one_out(known):
        assert (one.at_once, one.in_grid) == (pytest.approx(0.1), pytest.approx(0.0))
    far = advise.known_of([*line("a", 1e-3), *line("c", 1.6e-2)])
    assert [(round(one.at_once, 9), round(one.in_grid, 9)) for one in advise.leave_one_out(far)] == [(0.2, 0.1)] * 2


def test_a_loss_is_better_when_low_and_a_diverged_run_is_worst() -> None:
    rows = [row("a", eta, value, metric_name="perplexity") for eta, value in ((1e-4, 5.0), (1e-3, 3.0), (1e-2, 4.0))]
    rows.append(row("a", 1e-1, 1.0, metric_name="perplexity", status="diverged"))
    (known,) = advise.known_of(rows)
    assert known.best == (1e-3, 1.0)
    assert known.regret([(1e-2, 1.0)]) == pytest.approx(1.0)
