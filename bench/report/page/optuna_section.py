"""What Optuna makes of the rows: which settings matter for each method (importance), and how trials lie over them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup
from matplotlib.figure import Figure

from bench.report.data import Report
from bench.report.text import unit
from plots import parallel, style

if TYPE_CHECKING:
    import optuna

LEAST_TRIALS = 20  # PED-ANOVA goes by the best tenth, and by two trials at least
_FIRST, _OWN_ID = re.compile(r'<g id="figure_1">.*</g>', re.DOTALL), re.compile(r' id="[A-Za-z0-9.]+_\d+"')
_DROPPED = re.compile(
    r' clip-path="[^"]*"|font: [^;"]*;? ?'
)  # nothing is drawn beyond its axes; the font is the page's


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bar:
    name: str
    percent: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """One method: bars, else why there are none, and a figure of `width` by `height` where two settings vary."""

    caption: str
    bars: tuple[_Bar, ...]
    without: str
    drawn: Markup | None
    width: int
    height: int


def view(report: Report) -> dict[str, object] | None:
    """Return a panel for each method; None where there are no studies."""
    if not report.optuna:
        return None
    import optuna

    from bench.sweep.optuna_mirror.bridge import quiet

    with quiet():
        panels = [_panel(method, study, report) for method, study in report.optuna.items()]
    higher = "highest" if report.higher_is_better else "lowest"
    note = (
        f"By Optuna {optuna.__version__} from the stored rows. Importance (PED-ANOVA): how differently a setting is "
        f"distributed among the tenth of trials with the {higher} score and among all, as shares of 100 %. It tells of "
        "this grid only, and has no interval. Lines: one per trial, the better the stronger; the score is what cells "
        "are chosen by; diverged trials are not drawn."
    )
    told = [f"{one.caption}. {one.without}" for one in panels if one.drawn is None and not one.bars]
    return {"note": note, "told": told, "panels": [one for one in panels if one.drawn is not None or one.bars]}


def _panel(method: str, study: optuna.Study, report: Report) -> _Panel:
    settings, tied = _varying(study)
    without = _why_not(study, settings)
    n = len(study.trials)
    drawn, width, height = None, 0, 0
    if len(settings) > 1 and len(parallel.drawable(study)) > 1:
        figure = parallel.draw(study, settings, metric=unit(report), as_percent=report.higher_is_better)
        drawn, (width, height) = _markup(figure, salt=method), (round(72 * side) for side in figure.get_size_inches())
    counted = f"{style.label(method)}: {n:,} trial{'s' if n != 1 else ''}"
    return _Panel(
        caption="; ".join([counted, *(f"{name} goes with {parallel.name(first)}" for name, first in tied.items())]),
        bars=() if without else _bars(study, settings),
        without=without,
        drawn=drawn,
        width=width,
        height=height,
    )


def _varying(study: optuna.Study) -> tuple[list[str], dict[str, str]]:
    """Return the numeric settings that vary, and which setting others go with: each value of one has one of the other.

    An importance would be split between such settings, of which nobody can tell which it is.
    """
    firsts: dict[tuple[int, ...], str] = {}
    tied: dict[str, str] = {}
    for name in dict.fromkeys(name for trial in study.trials for name in trial.params):
        seen: dict[float | None, int] = {}
        places = tuple(seen.setdefault(trial.params.get(name), len(seen)) for trial in study.trials)
        if len(seen) > 1 and firsts.setdefault(places, name) != name:
            tied[name] = firsts[places]
    return [name for places, name in firsts.items() if max(places) > 0], tied


def _why_not(study: optuna.Study, settings: Sequence[str]) -> str:
    """Return in a sentence why there are no importances; empty where there are some."""
    n = len(study.trials)
    if not settings:
        return "No numeric setting varies: there is no importance to tell."
    if len(settings) == 1:
        return f"Only {parallel.name(settings[0])} varies: there is nothing to weigh it against."
    if n < LEAST_TRIALS:
        return f"Too few trials for importances: {n} of the {LEAST_TRIALS} that make a best tenth of two."
    if len({trial.values[0] for trial in study.trials}) == 1:
        return "All trials have the same score: no setting matters more than another."
    return ""


def _bars(study: optuna.Study, settings: Sequence[str]) -> tuple[_Bar, ...]:
    import optuna

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(settings))
    return tuple(_Bar(name=parallel.name(name), percent=f"{100 * share:.0f}") for name, share in found.items())


def _markup(figure: Figure, *, salt: str) -> Markup:
    """Return a figure as the inside of an svg element in the page's own colours and font; matplotlib escapes its texts.

    Identifiers that every figure has, and a style sheet that would hold for the whole page, are left out. `salt` makes
    the others this figure's own.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with style.settings(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    found = _FIRST.search(text.getvalue())
    assert found is not None
    plain = _DROPPED.sub("", _OWN_ID.sub("", found[0]))
    return Markup(re.sub(re.escape(style.INK), "currentColor", plain, flags=re.IGNORECASE))
