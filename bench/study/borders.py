"""The borders of a study's grids that best cells lie on: the best rate may be beyond. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench import methods
from bench.core.cells import BestCell
from bench.core.spec import MethodGrid, Trial


def borders(trials: Sequence[Trial], best: Iterable[BestCell], grids: Iterable[MethodGrid] = ()) -> tuple[str, ...]:
    """Return one warning for each rate of a best cell that is the smallest or largest of its method's grid.

    LoRA is LoRA+ at a ratio of 1, so its trials are part of LoRA+'s grid here.
    """
    by_eta_B = {grid.method for grid in grids if grid.axis("eta_B") is not None}
    return tuple(
        f"{arm}: the best {name} is the {side} of the grid ({_shown(name, cell.trial)}); widen it"
        for arm, cell in ((methods.identity(cell.trial).arm, cell) for cell in best)
        for name in ("eta_A", "eta_B" if cell.method in by_eta_B else "lr_ratio")
        if (side := _side(name, cell, trials)) is not None
    )


def _shown(name: str, trial: Trial) -> str:
    value = getattr(trial, name)
    return f"{value:g}" if name == "lr_ratio" else f"{value:.1e}"


def _side(name: str, cell: BestCell, trials: Sequence[Trial]) -> str | None:
    together = (cell.method, methods.get(cell.method).at_equal_rates)
    values = {getattr(t, name) for t in trials if t.method in together} - {None}
    value = getattr(cell.trial, name)
    if len(values) < 2 or value is None:
        return None
    return {min(values): "smallest", max(values): "largest"}.get(value)
