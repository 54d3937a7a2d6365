"""What every file of plots/figures/ must hold: it says which rows it applies to, draws them, touches nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bench.core import registry
from plots import figures, page, style
from plots.figures._base import Kind, Rows
from plots.tidy import StudyInfo
from tests.support.plot_helpers import ETAS, RATIOS, info, mixed
from tests.support.plot_rows import frame, lora_grid, trial

NAMES = registry.names(figures)
every_kind = pytest.mark.parametrize("name", NAMES)
opened: list[str] | None = None  # what is opened while it is a list


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and opened is not None:
        opened.append(os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else "")


sys.addaudithook(_hook)


def a_kind(name: str) -> Kind:
    found: Kind = registry.load(figures, name, "FIGURE", where="figure")
    return found


def forms(kind: Kind) -> list[Callable[[Rows], Iterator[tuple[str, Figure | str]]]]:
    return [form for form in (kind.full, kind.paper) if form is not None]


def of_every_method() -> Rows:
    trials = mixed((0, 1))
    return Rows(df=frame(trials), study=info(trials))


def of_a_search() -> Rows:
    rng = np.random.default_rng(0)
    trials = tuple(trial("lora+", 10 ** rng.uniform(-4, -2), ratio=10 ** rng.uniform(0, 2)) for _ in range(40))
    return Rows(df=frame(trials), study=info(trials, (0,)))


def of_a_fine_grid() -> Rows:
    etas = tuple(10 ** (-4 + k / 4) for k in range(20))
    trials = tuple(trial("lora" if a == b else "lora+", a, ratio=b / a, eta_B=b) for a in etas for b in etas)
    return Rows(df=frame(trials), study=info(trials, (0,)))


def of_subspaces() -> Rows:
    trials = tuple(trial("full", eta, s, rank=None) for eta in (1e-5, 1e-4) for s in (0, 1))
    trials += tuple(trial("subspace", 1e-3, s, rank=d, lora_dropout=None) for d in (10, 1000) for s in (0, 1))
    return Rows(df=frame(trials, surface=lambda t: 0.9 if t.method == "full" else 0.85), study=info(trials))


def of_a_text() -> Rows:
    trials = mixed((0, 1))
    df = frame(trials)
    rise = 0.1 * df["eta_A"].rank() / len(df)
    told = {"forgetting_before": 3.0, "forgetting_after": 3.0 + rise, "forgetting_hash": "t"}
    return Rows(df=df.assign(**told), study=info(trials))


def of_one_trial() -> Rows:
    trials = (trial("lora", 1e-3),)
    return Rows(df=frame(trials), study=info(trials, (0,)))


# A new figure that none of these gives needs rows of its own here: else nothing has ever drawn it.
SAMPLES = (of_every_method, of_a_search, of_a_fine_grid, of_subspaces, of_a_text, of_one_trial)


@cache
def sample(index: int) -> Rows:
    return SAMPLES[index]()


def everything(kind: Kind, of: Sequence[int] = range(len(SAMPLES))) -> list[tuple[str, Figure | str]]:
    return [made for index in of for form in forms(kind) for made in form(sample(index))]


@every_kind
def test_it_draws_captioned_figures_and_touches_nothing_else(name: str) -> None:
    global opened
    kind, before = a_kind(name), dict(mpl.rcParams)
    frames = [sample(index).df.drop(columns="curve").copy(deep=True) for index in range(len(SAMPLES))]
    opened = []
    try:
        made = everything(kind)
    finally:
        found, opened = opened, None
    assert [path for path in found if not path.endswith((".py", ".pyc", ".ttf"))] == [], "neither import nor font"
    assert dict(mpl.rcParams) == before
    for index, frame_before in enumerate(frames):
        pd.testing.assert_frame_equal(sample(index).df.drop(columns="curve"), frame_before)
    drawn = {key: one for key, one in made if isinstance(one, Figure)}
    assert drawn, "add rows to SAMPLES that the new figure applies to"
    for key, figure in drawn.items():
        assert style.figure_caption(figure).startswith("Study sst2-minilm; "), key
        assert any(ax.has_data() for ax in figure.axes), key
    for key, one in made:
        assert re.fullmatch(r"[A-Za-z0-9._+-]+", key)
        assert isinstance(one, Figure) or one.strip(), f"{key}: a figure, or why it is left out"


@every_kind
def test_it_applies_to_no_rows_without_a_finished_trial(name: str) -> None:
    rows = sample(0)
    assert figures.all_figures(rows.df.iloc[:0], rows.study) == {}
    assert forms(a_kind(name)), "a figure has a form"


@every_kind
def test_it_is_drawn_for_the_page_it_is_asked_for(name: str) -> None:
    with page.on(page.COLUMN):  # of the first rows that it draws
        made = (
            [one for _, one in everything(a_kind(name), [i]) if isinstance(one, Figure)] for i in range(len(SAMPLES))
        )
        drawn = next(found for found in made if found)
    assert {round(72 * figure.get_size_inches()[0], 3) for figure in drawn} == {240.0}


def test_no_figure_has_pyplot_s_state() -> None:
    told = "; ".join(
        [
            "from plots import figures",
            "from tests.support.plot_helpers import info, mixed",
            "from tests.support.plot_rows import frame",
            "trials = mixed((0, 1))",
            "n = [len(figures.all_figures(frame(trials), info(trials), form=form)) for form in ('full', 'paper')]",
            "from matplotlib import pyplot",  # seaborn brings it
            "print(min(n) > 3, bool(pyplot.get_fignums()))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_the_set_is_what_the_files_give_in_their_order() -> None:
    kinds = figures.kinds()
    assert len(kinds) == len(NAMES)
    assert len({kind.place for kind in kinds}) == len(kinds), "two figures have one place"
    rows = sample(0)
    by_hand = [n for k in kinds if k.full is not None and not k.of_all for n, made in k.full(rows) if made]
    found = figures.figure_set(rows.df, rows.study)
    assert [n for n in by_hand if n in found.drawn] == list(found.drawn)
    assert {*by_hand} == {*found.drawn, *found.left_out}


def test_several_tasks_have_figures_of_their_own_and_one_of_all() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    trials += tuple(replace(one, task="cola") for one in trials)
    found = set(figures.all_figures(frame(trials), StudyInfo(name="s", seeds=(0,), trials=trials), form="paper"))
    assert {name for name in found if not name.startswith(("cola_minilm_", "sst2_minilm_"))} == {"ratio"}
