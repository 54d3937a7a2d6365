"""How many steps LoRA+ saves: both methods' curves, and the speed-up read off them horizontally.

The form of figure 7 of the LoRA+ paper (Hayou et al. 2024, arXiv:2402.12354). Its "2X" is defined nowhere; here it is
the steps that LoRA takes to its own final score over the steps that LoRA+ takes to the same score. A factor needs equal
tuning: both methods with as many cells, neither one's best cell on the border of its grid, and more than one seed. Else
the curves are drawn and the figure says why there is no factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.methods import BASELINE, FAMILY, PLUS
from plots import heatmap, lines, page, style
from plots.figures import curves, rank
from plots.figures._base import Kind, Made, Rows
from plots.figures.curves import CurveTable
from plots.grid import at_edge
from plots.settings import Panel, fixed_text, split
from plots.tidy import CellTable, StudyInfo

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one panel gives: steps to `target`, LoRA's final score; None where a curve never gets there.

    A curve that is there at its first point may have been so for long: then its steps are an upper bound, and the
    speed-up is a bound too, or, where that holds for both curves, cannot be read.
    """

    target: float
    steps_standard: float
    steps_plus: float | None
    at_once_standard: bool = False
    at_once_plus: bool = False

    @property
    def speedup(self) -> float | None:
        """steps(LoRA to its final score) / steps(LoRA+ to that score)."""
        if self.steps_plus is None or (self.at_once_standard and self.at_once_plus):
            return None
        return self.steps_standard / self.steps_plus

    @property
    def words(self) -> str:
        """Return the speed-up as it is printed: 2.00, ≥ 3.00; or why there is none."""
        if self.speedup is None:
            return "not reached" if self.steps_plus is None else "both there at the first evaluation"
        return ("≥ " if self.at_once_plus else "≤ " if self.at_once_standard else "") + f"{self.speedup:.2f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedupTable:
    """The curves of the best cell of LoRA and of LoRA+, and each panel's reading, by panel title.

    `of_seeds`: the same reading off each seed's own pair of curves. `unread`: why the other panels have no reading.
    """

    curves: CurveTable
    readings: dict[str, Reading]
    of_seeds: dict[str, tuple[Reading, ...]]
    unread: dict[str, tuple[str, ...]]

    @property
    def panels(self) -> list[Panel]:
        """A panel for each set of varying settings, with LoRA's best cell and LoRA+'s."""
        best = self.curves.best
        return lines.arrange(best, free=rank.RANK, apart=[name for name in best.varying if name != "rank"])


def tidy(df: pd.DataFrame, study: StudyInfo | None = None) -> SpeedupTable:
    """Return the curves of the best cell of LoRA and of LoRA+ (see `plots.figures.curves`), and the speed-up."""
    both = curves.tidy(df, study)
    pair = both.best.where(both.best.cells["series"].isin(FAMILY))
    both = replace(both, best=pair)
    stored = dict(zip(df["trial_id"], df["curve"], strict=True))
    seeds = {trial_id: int(seed) for trial_id, seed in zip(df["trial_id"], df["seed"], strict=True)}
    readings, of_seeds, unread = {}, {}, {}
    grids = dict(split(heatmap.tidy(df, study), within=rank.RANK))
    for title, panel in split(pair, within=rank.RANK):
        ids = {series: _ids(panel, series) for series in FAMILY}
        if not all(ids.values()):
            continue
        found = read(*(_mean_curve(both.points, ids[s][0]) for s in ids), higher=panel.higher_is_better)
        reasons = _reasons(panel, grids[title])
        if reasons:
            unread[title] = reasons
        elif found is not None:
            readings[title] = found
            of_seeds[title] = _seed_readings(stored, seeds, ids, higher=panel.higher_is_better)
    return SpeedupTable(curves=both, readings=readings, of_seeds=of_seeds, unread=unread)


def _reasons(best: CellTable, grid: CellTable) -> tuple[str, ...]:
    """Return why no factor may be read off the best cells of one panel, given the grid of both methods."""
    cell = {str(one["series"]): one for _, one in best.cells.iterrows()}
    standard, plus = cell[BASELINE], cell[PLUS]
    found = ["LoRA collapsed"] if standard["n_collapsed"] > 0 else []
    if standard["n_choices"] != plus["n_choices"]:
        found.append(f"tuning was unequal ({standard['n_choices']} cells of LoRA, {plus['n_choices']} of LoRA+)")
    for series, one in cell.items():
        near = grid.cells[grid.cells["rank"] == one["rank"]]
        own = near if series == PLUS else near[near["series"] == BASELINE]  # LoRA is LoRA+ at a ratio of 1
        if at_edge(one, own):
            found.append(f"the best cell of {style.label(series)} lies on its grid's border")
    n_seeds = int(min(standard["n_ok"], plus["n_ok"]))
    return (*found, *(["there is one seed only"] if n_seeds < 2 else []))


def read(standard_2xP: Floats, plus_2xP: Floats, *, higher: bool) -> Reading | None:
    """Return the reading off two curves, rows (steps, values), linear between their points; None without points."""
    if standard_2xP.shape[1] == 0 or plus_2xP.shape[1] == 0:
        return None
    target = float(standard_2xP[1, -1])
    own = first_crossing(standard_2xP, target, higher=higher)
    return Reading(
        target=target,
        steps_standard=float(standard_2xP[0, -1]) if own is None else own,
        steps_plus=first_crossing(plus_2xP, target, higher=higher),
        at_once_standard=own == float(standard_2xP[0, 0]),
        at_once_plus=_as_good(plus_2xP[1, 0], target, higher=higher),
    )


def first_crossing(curve_2xP: Floats, target: float, *, higher: bool) -> float | None:
    """Return the first step at which a curve is as good as `target`, linear between its points; None: at none."""
    steps, values = curve_2xP[0], curve_2xP[1]
    reached = np.flatnonzero(_as_good(values, target, higher=higher))
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(steps[0])
    share = (target - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def _as_good(values: Any, target: float, *, higher: bool) -> Any:
    return values >= target if higher else values <= target


def draw(table: SpeedupTable, ax: Axes | None = None) -> Figure:
    """Draw mean curves with their bands, LoRA's final score, and the horizontal reading between the two curves."""
    best = table.curves.best
    text = style.caption(
        best.facts, fixed_text(best), rank.choice_text(best.cells),
        "speed-up: steps of LoRA to its own final score / steps of LoRA+ to the same, linear between points of the "
        "curves; first crossings", *(_words(table, title) for title in table.readings),
        *(f"{_named(title)}no speed-up is given: {', '.join(reasons)}" for title, reasons in table.unread.items()),
    )  # fmt: skip
    panels = table.panels
    titles = {tuple(panel.cells["trial_ids"]): title for title, panel in panels}

    def panel(panel_ax: Axes, one: CellTable) -> None:
        curves.draw_panel(panel_ax, one, table.curves.points)
        title = titles[tuple(one.cells["trial_ids"])]
        if title in table.readings:
            _read_off(panel_ax, table.readings[title])
        elif title in table.unread:
            _say(panel_ax, "no speed-up is given:\n" + "\n".join(table.unread[title]))

    return lines.draw_panels(panels, ax, panel, text=text, legend=curves.legend(panels))


def _named(title: str) -> str:
    return f"{title}: " if title else ""


def _read_off(ax: Axes, reading: Reading) -> None:
    ax.axhline(reading.target, color=style.GREY, linewidth=1.0, linestyle=":", gid="target")
    if reading.steps_plus is None or reading.speedup is None:
        _say(ax, "LoRA+ does not get there" if reading.steps_plus is None else reading.words)
        return
    ends = [(reading.steps_plus, reading.target), (reading.steps_standard, reading.target)]
    ax.annotate("", ends[0], ends[1], arrowprops={"arrowstyle": "->", "color": style.INK, "lw": 1.4}, gid="arrow")
    middle = (reading.steps_plus + reading.steps_standard) / 2
    ax.annotate(
        f"speed-up {reading.words}×", (middle, reading.target), (0, 4), textcoords="offset points", ha="center",
        va="bottom", fontsize=page.pt(9), weight="bold", gid="reading",
    )  # fmt: skip


def _say(ax: Axes, text: str) -> None:
    """Write why there is no reading, in the middle of the panel's height, where no curve begins or ends."""
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}  # where a curve does pass
    ax.annotate(
        page.wrap(text, 0.9 * style.width_of(ax), page.pt(8)),
        (0.98, 0.5),
        xycoords="axes fraction",
        ha="right",
        va="center",
        fontsize=page.pt(8),
        gid="reading",
        bbox=ground,
    )


def _words(table: SpeedupTable, title: str) -> str:
    reading, seeds = table.readings[title], table.of_seeds[title]
    if reading.steps_plus is None:
        found = f"LoRA+ does not reach {reading.target:.4g}"
    elif reading.speedup is None:
        found = reading.words
    else:
        bound = reading.at_once_standard or reading.at_once_plus
        found = f"{reading.steps_standard:.0f} / {reading.steps_plus:.0f} steps {'' if bound else '= '}{reading.words}"
    each = ", ".join(one.words for one in seeds)
    return f"{_named(title)}{found}; seed by seed: {each or 'no pairs of seeds'}"


def _ids(panel: CellTable, series: str) -> tuple[str, ...]:
    found = panel.cells.loc[panel.cells["series"] == series, "trial_ids"]
    return tuple(found.iloc[0]) if len(found) else ()


def _mean_curve(points: pd.DataFrame, cell: str) -> Floats:
    own = points[points["cell"] == cell].sort_values("step")
    return np.stack([own["step"].to_numpy(float), own["mean"].to_numpy(float)])


def _seed_readings(
    stored: dict[str, Any], seeds: dict[str, int], ids: dict[str, tuple[str, ...]], *, higher: bool
) -> tuple[Reading, ...]:
    """Return the reading of each seed that both cells have finished."""
    by_seed = [{seeds[i]: _curve_of(stored[i]) for i in ids[s] if i in stored} for s in FAMILY]
    found: list[Reading] = []
    for seed in sorted(set(by_seed[0]) & set(by_seed[1])):
        reading = read(by_seed[0][seed], by_seed[1][seed], higher=higher)
        if reading is not None:
            found.append(reading)
    return tuple(found)


def _curve_of(curve: Sequence[dict[str, float]] | None) -> Floats:
    points = [] if curve is None else [(p["step"], p["metric_value"]) for p in curve if p["metric_value"] is not None]
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    return np.array(finite, dtype=float).T if finite else np.empty((2, 0))


def _paper(rows: Rows) -> Made:
    """Yield `speedup` (the paper's figure 7) where LoRA and LoRA+ have curves."""
    table = tidy(rows.df, rows.study)
    if table.readings or table.unread:
        yield "speedup", draw(table)


FIGURE = Kind(place=70, paper=_paper)
