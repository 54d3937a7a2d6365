"""bench theory: how each half of LoRA's update moves a layer's output as the layer gets wider, measured and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.core.errors import BadInput

if TYPE_CHECKING:
    from bench.theory.widths import Updates


def command(
    results_dir: Annotated[Path, typer.Option("--results-dir", help="where results go")] = Path("results"),
) -> int:
    """Measure how the updates of A and B grow with the width, for three scalings of the rates; print, draw (seconds).

    LoRA+ (Hayou et al. 2024, arXiv:2402.12354, Theorem 1): both stay of order 1 only for eta_A = c / n and eta_B = c.
    """
    from bench.theory import feature_updates

    found = feature_updates.measure()
    print(_table(found))
    print(f"rows: {_write(found, results_dir / 'theory' / 'widths.parquet')}")
    print(f"figure: {_draw(found, results_dir / 'theory' / 'figures')}")
    return 0


def _table(found: Sequence[Updates]) -> str:
    from bench.commands import _text
    from bench.theory.widths import SCALINGS, WIDTHS, exponents

    rows = [(*scaling.words, *map(str, exponents(found, scaling))) for scaling in SCALINGS]
    header = ("eta_A", "eta_B", "|B dA x| grows as n to the", "|dB A x| grows as n to the")
    n_seeds = len({one.seed for one in found})
    note = f"widths n {WIDTHS[0]} to {WIDTHS[-1]}, medians over {n_seeds} seeds, 95 % bootstrap intervals over seeds"
    return f"{_text.table(header, rows)}\n{note}"


def _write(found: Sequence[Updates], path: Path) -> Path:
    """Write a row for each scaling, width and seed, and return the path."""
    import pyarrow as pa

    from bench.store.parts import write_part

    rows = [
        {"power_A": one.scaling.power_A, "power_B": one.scaling.power_B, "width": one.width, "seed": one.seed,
         "of_A": one.of_A, "of_B": one.of_B}
        for one in found
    ]  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_part(path, pa.Table.from_pylist(rows))
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(path), "must be writable", got=error.strerror, way_out=way_out) from error
    return path


def _draw(found: Sequence[Updates], directory: Path) -> Path:
    """Draw the figure and return the PNG's path, whose PDF lies beside it."""
    from plots import style, widths

    try:
        directory.mkdir(parents=True, exist_ok=True)
        return style.save(widths.draw(found), directory, "widths")[0]
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(directory), "must be writable", got=error.strerror, way_out=way_out) from error
