"""What the tests of plots share: a study's trials, rows with exact scores, and the marks that were drawn."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from bench.core.spec import Trial
from plots.tidy import StudyInfo
from tests.support.plot_rows import frame, lora_grid, trial

ETAS, RATIOS = (1e-4, 1e-3, 1e-2), (1, 10, 100)


def info(trials: tuple[Trial, ...], seeds: tuple[int, ...] = (0, 1), **more: object) -> StudyInfo:
    """Return a study of these trials."""
    return StudyInfo(name="sst2-minilm", seeds=seeds, trials=trials, **more)  # type: ignore[arg-type]


def valued(values: dict[tuple[float, float, int], float]) -> object:
    """Return a surface with these values by (eta_A, lambda, seed), 0.6 elsewhere; nan diverges."""
    return lambda t: values.get((t.eta_A, t.lr_ratio, t.seed), values.get((t.eta_A, t.lr_ratio, -1), 0.6))


def exact(trials: tuple[Trial, ...], values: dict[tuple[float, float, int], float], **more: object) -> pd.DataFrame:
    """Return rows whose metric_value is exactly that of `values` (see `valued`)."""
    surface = valued(values)
    df = frame(trials, surface=surface, **more)  # type: ignore[arg-type]
    true = {t.trial_id: surface(t) for t in trials}  # type: ignore[operator]
    ok = df["status"] == "ok"
    df.loc[ok, "metric_value"] = [true[i] for i in df.loc[ok, "trial_id"]]
    df.loc[ok, "select_metric"] = df.loc[ok, "metric_value"]
    df.loc[ok, "metric_stderr"] = 0.01
    return df


def gids(ax: Axes, gid: str) -> list[object]:
    """Return what was drawn with this mark."""
    return [a for a in (*ax.patches, *ax.lines, *ax.texts, *ax.collections) if a.get_gid() == gid]


def places(ax: Axes, gid: str) -> set[tuple[int, int]]:
    """Return (row, column) of the cells that hold a mark."""
    found: set[tuple[int, int]] = set()
    for artist in gids(ax, gid):
        if isinstance(artist, Rectangle):
            found.add((int(artist.get_y()), int(artist.get_x())))
        elif isinstance(artist, Line2D):
            found |= {(int(y), int(x)) for x, y in zip(*artist.get_data(), strict=True)}
        else:
            x, y = artist.get_position()  # type: ignore[attr-defined]
            found.add((int(y), int(x)))
    return found


def panel_axes(figure: Figure) -> list[Axes]:
    """Return the panels, without colour bars."""
    return [ax for ax in figure.axes if ax.get_title(loc="left") or ax.get_xlabel()]


def mixed(seeds: tuple[int, ...]) -> tuple[Trial, ...]:
    """Return a study of every kind of series: LoRA, LoRA+ and MoRA at two ranks, full fine-tuning."""
    adapters = sum((lora_grid(ETAS, RATIOS, seeds, rank=r) for r in (2, 8)), ())
    mora = tuple(trial("mora", e, s, rank=r, mora_type=k) for e in ETAS for s in seeds for r in (2, 8) for k in (1, 6))
    return adapters + mora + tuple(trial("full", e / 40, s) for e in ETAS for s in seeds)
