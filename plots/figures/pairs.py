"""Both rates of the LoRA family: heatmaps where its cells are a grid, a scatter where they are not (a search)."""

from __future__ import annotations

from plots import forms, heatmap, levels, scatter
from plots.figures._base import Kind, Made, Rows, file_name
from plots.grid import View
from plots.tidy import CellTable, Measure

_LEAST_FILLED = 0.3  # share of the positions of a heatmap; below, its cells are points of a scatter
_OTHER_VIEW = 0.6  # the same for the view over lambda: a grid of eta_A x eta_B has as many ratios as cells
_PAPER_MEASURES: tuple[Measure, ...] = ("metric_value", "eval_loss", "train_loss")


def _full(rows: Rows) -> Made:
    """Yield `heatmap_eta_B_<init>` and `heatmap_lr_ratio_<init>` where that view is a grid, or `scatter_<init>`."""
    pairs = heatmap.tidy(rows.df, rows.study)
    trivial = levels.trivial(rows.df)
    clip = None if trivial is None else levels.CLIP * trivial.of(pairs.metric_name)
    for init in sorted(pairs.cells["init"].dropna().unique()):
        table, name = pairs.where(pairs.cells["init"] == init), file_name(init)
        form = forms.FULL if heatmap.is_roomy(table) else forms.PAPER_TOY
        if is_grid(table, "eta_B"):
            yield f"heatmap_eta_B_{name}", heatmap.draw(table, view="eta_B", form=form, clip=clip)
        elif scatter.is_worth(table):
            yield f"scatter_{name}", scatter.draw(table)
            yield f"heatmap_eta_B_{name}", "the pairs of rates are no grid: scatter shows them"
        if is_grid(table, "lr_ratio"):
            yield f"heatmap_lr_ratio_{name}", heatmap.draw(table, view="lr_ratio", form=form, clip=clip)
        elif is_grid(table, "eta_B"):
            reason = "the grid is one of eta_A and eta_B: over lambda most positions would be empty"
            yield f"heatmap_lr_ratio_{name}", reason


def _paper(rows: Rows) -> Made:
    """Yield `paper_<metric>_<init>` and those of both losses, cells worse than `clip` in one colour."""
    is_loss = set(rows.df["metric_name"].dropna()) == {"eval_loss"}
    for measure in _PAPER_MEASURES:
        pairs = heatmap.tidy(rows.df, rows.study, measure=measure)
        if measure != "metric_value" and pairs.metric_name == "eval_loss" and is_loss:
            continue  # the metric itself, drawn already
        for init in sorted(pairs.cells["init"].dropna().unique()):
            table = pairs.where(pairs.cells["init"] == init)
            if is_grid(table, "eta_B") and heatmap.is_roomy(table):
                clipped = rows.clip if measure == "metric_value" else None
                yield (
                    f"paper_{file_name(pairs.metric_name)}_{file_name(init)}",
                    heatmap.draw(table, form=forms.PAPER, clip=clipped),
                )


def is_grid(table: CellTable, view: View) -> bool:
    """Return whether the cells are a grid worth a heatmap: several rates on both axes, enough positions between them.

    A grid fills its own view; sheared, into the other one, 7 x 4 cells fill a third of it. n cells of a search fill
    one n-th. Over lambda less than a full grid is mostly holes between ratios that occur once.
    """
    nx, ny = table.cells["eta_A"].nunique(), table.cells[view].nunique()
    distinct = len(table.cells[["eta_A", view]].drop_duplicates())
    least = _LEAST_FILLED if view == "eta_B" else _OTHER_VIEW
    return nx > 1 and table.cells["lr_ratio"].nunique() > 1 and distinct >= least * nx * ny


FIGURE = Kind(place=10, full=_full, paper=_paper)
