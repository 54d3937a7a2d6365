"""The section that Optuna makes: its numbers are Optuna's, its figure shows every trial, or it says why not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import optuna
import pyarrow as pa
import pytest
from matplotlib.colors import to_rgba_array
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from bench.core.record import SCHEMA
from bench.core.spec import MethodGrid, Trial
from bench.report.page import document, optuna_section
from bench.sweep.optuna_mirror.from_rows import studies_of
from plots import parallel
from tests.support.plot_rows import frame, lora_grid, trial

ETAS, RATIOS = (1e-4, 4e-4, 1.6e-3, 6.4e-3), (4, 16)
GRIDS = (MethodGrid(method="lora+", axes=(("lr_ratio", (4.0, 16.0)),)),)
SEEDS = (0, 1, 2)


def studies(trials: Sequence[Trial]) -> Mapping[str, optuna.Study]:
    rows = pa.Table.from_pandas(frame(trials), schema=SCHEMA, preserve_index=False).to_pylist()
    return studies_of(rows, GRIDS, higher_is_better=True)


def section(found: Mapping[str, optuna.Study], *, metric: str = "accuracy") -> str:
    view = optuna_section.view(SimpleNamespace(optuna=found, metric=metric, higher_is_better=True))  # type: ignore[arg-type]
    return document.environment().get_template("optuna.html").render(view=view)


def test_importances_are_optuna_s_and_each_method_has_its_own() -> None:
    trials = (*lora_grid(ETAS, RATIOS, SEEDS), *lora_grid(ETAS, RATIOS, SEEDS, rank=2), trial("full", 1e-4))
    text = section(studies(trials))
    shown = dict(re.findall(r"<li><span>(.+?)</span>.*<b>(\d+) %</b>", text))
    study = studies(trials)["lora+"]
    assert len(study.trials) == 48
    names = ["eta_A", "lr_ratio", "rank"]
    expected = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=names)
    assert shown == {parallel.name(name): f"{100 * share:.0f}" for name, share in expected.items()}
    assert "LoRA+: 48 trials; lora_alpha goes with rank<" in text  # it is the rank in every trial
    assert list(shown) == [parallel.name(name) for name in sorted(expected, key=lambda name: -expected[name])]


def test_the_page_says_why_there_are_no_importances() -> None:
    one = section(studies((*lora_grid(ETAS, (1,), SEEDS), trial("full", 1e-4))))
    assert "LoRA: 12 trials. Only η_A varies: there is nothing to weigh it against." in one
    assert "full fine-tuning: 1 trial. No numeric setting varies: there is no importance to tell." in one
    assert "<svg" not in one
    few = section(studies(lora_grid(ETAS, RATIOS, (0, 1))))
    assert "Too few trials for importances: 16 of the 20 that make a best tenth of two." in few
    assert few.count("<svg") == 1  # trials are drawn, whatever their number
    same = optuna.create_study(direction="maximize")
    for old in studies(lora_grid(ETAS, RATIOS, SEEDS))["lora+"].trials:
        same.add_trial(optuna.trial.create_trial(
            params=old.params, distributions=old.distributions, value=0.5, user_attrs=old.user_attrs,
        ))  # fmt: skip
    assert "All trials have the same score: no setting matters more than another." in section({"lora+": same})
    assert optuna_section.view(SimpleNamespace(optuna={})) is None  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_the_figure_has_a_line_for_each_trial_with_a_score_and_the_best_is_the_strongest() -> None:
    trials = lora_grid((*ETAS, 0.1), RATIOS, SEEDS)
    study = studies(trials)["lora+"]
    ok = [t for t in study.trials if t.user_attrs["status"] == "ok"]
    assert len(ok) < len(study.trials)
    figure = parallel.draw(study, ["lr_ratio", "eta_A"], metric="accuracy (%)", as_percent=True)
    ax, *axes = figure.axes
    (lines,) = ax.collections
    scores = np.array([segment[0, 1] for segment in lines.get_segments()])  # type: ignore[attr-defined]
    assert sorted(scores) == pytest.approx(sorted(100 * t.values[0] for t in ok))
    strength = to_rgba_array(lines.get_edgecolor())[:, 3]
    assert np.all(np.diff(strength[np.argsort(scores, kind="stable")]) >= 0)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["accuracy (%)", "η_A", "λ"]
    assert [tick.get_text() for tick in axes[1].get_yticklabels()] == ["4", "16"]
    low, high = axes[0].get_ylim()
    assert (low, high) == pytest.approx((min(t.params["eta_A"] for t in ok), max(t.params["eta_A"] for t in ok)))


def test_too_many_trials_are_thinned_evenly_by_score() -> None:
    many = optuna.create_study(direction="minimize")
    values = np.random.default_rng(0).permutation(1000)
    many.add_trials([optuna.trial.create_trial(value=float(v), user_attrs={"status": "ok"}) for v in values])
    found = [t.values[0] for t in parallel.drawable(many)]
    assert (len(found), found[0], found[-1]) == (parallel.MOST_LINES, 0.0, 999.0)
    assert max(np.diff(found)) <= 3


class _Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids, self.links = Counter[str](), set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids.update(value for key, value in attrs if key == "id" and value)
        self.links |= {value[1:] for key, value in attrs if key.endswith("href") and value}


def test_long_names_fit_and_what_is_drawn_is_markup_of_the_page() -> None:
    trials = tuple(
        replace(t, lora_alpha=alpha, lora_dropout=p, loraplus_lr_embedding=rate)
        for t in lora_grid(ETAS[:2], RATIOS, (0, 1))
        for alpha, p, rate in ((4.0, 0.0, 1e-6), (8.0, 0.1, 4e-6))
    )
    names = ["eta_A", "lr_ratio", "lora_alpha", "lora_dropout", "loraplus_lr_embedding"]
    figure = parallel.draw(studies(trials)["lora+"], names, metric="matthews correlation (%)", as_percent=True)
    edge = figure.bbox
    for text in [*figure.axes[0].get_xticklabels(), *figure.axes[-1].get_yticklabels()]:
        box = text.get_window_extent()
        assert edge.x0 <= box.x0 <= box.x1 <= edge.x1
        assert edge.y0 <= box.y0 <= box.y1 <= edge.y1
    hostile = "\"><script>alert(1)</script>'&"
    found = studies((*trials, *(replace(t, method="lora", loraplus_lr_embedding=None) for t in trials)))
    both = section(found, metric=hostile)
    assert both.count("<svg") == 2
    assert hostile not in both
    assert "alert(1)" in both
    assert not re.search(r"url\(|@import|https?://|<style", both)
    tags = _Ids()
    tags.feed(both)
    assert tags.links
    assert tags.links <= set(tags.ids)
    assert max(tags.ids.values()) == 1
    assert both == section(found, metric=hostile)
