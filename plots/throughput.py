"""Throughput: bars for each contender, and what a trial-step costs over pack size, rank and length.

Takes the rows of a run of `bench bench` (columns of bench.timing.peers.rows.SCHEMA) as a DataFrame.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from plots import page, style

PEER_LABELS = {
    "b0": "B0: padded to 128",
    "b1": "B1: dynamic padding",
    "b1g": "B1g: group_by_length",
    "b1gh": "B1gh: B1g, bf16 weights",
    "b1ghn": "B1ghn: B1gh in processes at once",
    "trl": "TRL, padding-free",
}
COLORS = {
    "b0": style.PALETTE[7],
    "b1": style.PALETTE[1],
    "b1g": style.PALETTE[2],
    "b1gh": style.PALETTE[3],
    "b1ghn": style.PALETTE[5],
    "trl": style.PALETTE[4],
    "ours": style.PALETTE[0],
}
_BAR = 0.24  # inches of height
_BARS = {
    "train": "training",
    "eval": "evaluation",
    "write": "generation",
    "sweep": "a whole sweep, start-up included",
    "early": "a whole sweep, cells left out early",
}
_KEYS = ["part", "contender", "precision", "n_trials", "rank", "length"]
_X_LABELS = {"n_trials": "K, trials trained together", "rank": "LoRA rank", "length": "tokens of every example"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """Medians over the rounds of a run.

    `cells` has a row for each contender of a part: _KEYS, `name`, `rate`, `rate_low`, `rate_high` (examples per
    second: median, lowest and highest round), `ms`, `ms_low`, `ms_high` (milliseconds of a trial-step), `n`.
    `ceilings` maps a precision to FLOP per second.
    """

    cells: pd.DataFrame
    ceilings: dict[str, float]
    facts: str


def medians(df: pd.DataFrame) -> Speeds:
    """Return the medians of a run's rows."""
    timed = df[df["part"] != "ceiling"].copy()
    timed["rate"] = timed["examples"] / timed["seconds"]
    steps = timed["steps"].where(timed["steps"] > 0)
    timed["ms"] = 1e3 * timed["seconds"] / (steps * timed["n_trials"])
    found = []
    for keys, group in timed.groupby(_KEYS, dropna=False, sort=True):
        row = dict(zip(_KEYS, keys, strict=True)) | {"n": len(group)}
        for column in ("rate", "ms"):
            values = group[column]
            row |= {column: values.median(), f"{column}_low": values.min(), f"{column}_high": values.max()}
        found.append(row | {"name": _name(row)})
    ceilings = df[df["part"] == "ceiling"].groupby("precision")["flop_per_second"].median()
    limits = {str(precision): float(rate) for precision, rate in ceilings.items()}
    columns = [*_KEYS, "n", "rate", "rate_low", "rate_high", "ms", "ms_low", "ms_high", "name"]
    return Speeds(cells=pd.DataFrame(found, columns=columns), ceilings=limits, facts=_facts(df))


def all_figures(df: pd.DataFrame) -> dict[str, Figure]:
    """Return the figures that a run's rows give, by file name: bars, and costs over K, rank and length."""
    speeds = medians(df)
    figures = {}
    if speeds.cells["part"].isin(list(_BARS)).any():
        figures["bars"] = bars(speeds)
    for x, part in (("n_trials", "train"), ("rank", "rank"), ("length", "length")):
        if _several(speeds, x, part):
            figures[f"cost-{'K' if x == 'n_trials' else x}"] = cost(speeds, x=x, part=part)
    return figures


def bars(speeds: Speeds) -> Figure:
    """Draw examples per second of every contender, a panel for each of training, evaluation and sweep."""
    parts = [part for part in _BARS if (speeds.cells["part"] == part).any()]
    groups = [_in_order(speeds.cells[speeds.cells["part"] == part]) for part in parts]
    note = "Bars: median over interleaved rounds; lines: lowest to highest round; hatched: bf16"
    with style.settings():
        sizes = [(4.6, _BAR * len(group) + 0.2) for group in groups]
        figure, axes = page.panels(
            sizes, text=f"{speeds.facts}. {note}.", titles=[_BARS[part] for part in parts], per_row=1,
            margins=page.Margins(left=2.1, right=0.75, bottom=0.55),
        )  # fmt: skip
        for ax, group in zip(axes, groups, strict=True):
            _bars(ax, group)
        return figure


def cost(speeds: Speeds, *, x: str, part: str, ax: Axes | None = None) -> Figure:
    """Draw milliseconds of a trial-step over pack size (`n_trials`), rank or length, with peers where there are any."""
    cells = speeds.cells[speeds.cells["part"] == part]
    note = "Points: median over interleaved rounds; bars: lowest to highest round; dashed: trained one at a time"
    with style.settings():
        if ax is not None:
            _cost(ax, cells, x)
            ax.legend()
            return style.figure_of(ax)
        aside = Figure().add_subplot()  # what there is to draw is known when it is drawn
        _cost(aside, cells, x)
        figure, axes = page.panels(
            [(5.4, 3.0)], text=f"{speeds.facts}. {note}.", legend=aside.get_legend_handles_labels()[0],
            margins=page.Margins(bottom=0.6),
        )  # fmt: skip
        _cost(axes[0], cells, x)
        return figure


def _bars(ax: Axes, group: pd.DataFrame) -> None:
    places = range(len(group))
    colors = [COLORS[name] for name in group["contender"]]
    spread = [group["rate"] - group["rate_low"], group["rate_high"] - group["rate"]]
    drawn = ax.barh(places, group["rate"], color=colors, height=0.72, xerr=spread, error_kw={"linewidth": 1})
    for bar, precision in zip(drawn, group["precision"], strict=True):
        if precision == "bf16":
            bar.set(hatch="///", edgecolor="white")
    for place, rate, high in zip(places, group["rate"], group["rate_high"], strict=True):
        ax.annotate(
            f"{rate:,.0f}" if rate >= 99.5 else f"{rate:.3g}", (high, place), (4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    ax.set_yticks(list(places), list(group["name"]))
    ax.invert_yaxis()
    ax.set_xlabel("examples/s")
    ax.grid(visible=False, axis="y")
    ax.set_xlim(0, 1.12 * group["rate_high"].max())


def _cost(ax: Axes, cells: pd.DataFrame, x: str) -> None:
    for (contender, precision), group in cells.groupby(["contender", "precision"], sort=True):
        line = group.sort_values(x)
        color, marker = COLORS[str(contender)], "s" if precision == "bf16" else "o"
        label = f"{PEER_LABELS.get(str(contender), 'lorasweep')}, {precision}"
        if contender != "ours" and x != "length":
            ax.axhline(line["ms"].iloc[0], color=color, linestyle=":" if precision == "bf16" else "--", label=label)
            continue
        spread = [line["ms"] - line["ms_low"], line["ms_high"] - line["ms"]]
        ax.errorbar(
            line[x], line["ms"], yerr=spread, color=color, marker=marker, capsize=2, label=label,
            linestyle=":" if precision == "bf16" else "-",
        )  # fmt: skip
    values = sorted(cells.loc[cells["contender"] == "ours", x].unique())
    if x == "length":  # linear from 0 on both axes: cost in proportion to tokens is a straight line through 0
        ax.set_xlim(left=0)
    else:
        ax.set_xscale("log", base=2)
    ax.set_xticks(values, [f"{value:g}" for value in values])
    if x == "n_trials":  # peers that pad are ten times slower: on a linear axis the packs would be one flat line
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
    else:
        ax.set_ylim(bottom=0)
    ax.minorticks_off()
    ax.set_xlabel(_X_LABELS[x])
    ax.set_ylabel("ms per trial-step")


def _several(speeds: Speeds, x: str, part: str) -> bool:
    cells = speeds.cells
    return bool(cells.loc[(cells["part"] == part) & (cells["contender"] == "ours"), x].nunique() > 1)


def _in_order(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the bars from the top: fp32 then bf16; peers, then packs by size."""
    key = [(p == "bf16", c == "ours", c, n) for p, c, n in zip(
        cells["precision"], cells["contender"], cells["n_trials"], strict=True
    )]  # fmt: skip
    return cells.iloc[sorted(range(len(cells)), key=lambda i: key[i])]


def _name(row: dict[str, object]) -> str:
    if row["contender"] != "ours":
        several = f", {row['n_trials']}" if row["n_trials"] != 1 else ""
        return f"{PEER_LABELS[str(row['contender'])]}{several}, {row['precision']}"
    trials = "" if row["part"] in ("sweep", "early") else f", K = {row['n_trials']}"
    return f"lorasweep{trials}, {row['precision']}"


def _facts(df: pd.DataFrame) -> str:
    first = df.iloc[0]
    weights = " (random weights)" if first["random_weights"] else ""
    rounds = int(df["repeat"].max()) + 1
    place = f"device {first['device']}, {first['threads']} threads; commit {_commit(df)}"
    return (
        f"Task {first['task']}; model {first['model']}{weights}; batches of {first['batch_size']}; "
        f"{rounds} round{'s' if rounds != 1 else ''}; {place}"
    )


def _commit(df: pd.DataFrame) -> str:
    first = df.iloc[0]
    if not isinstance(first["git_commit"], str):
        return "unknown"
    return first["git_commit"][:7] + ("+" if first["git_dirty"] else "")
