"""bench studies: every study file, the figure it reproduces, its size, what it costs and how much of it is done."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.schedule.price import Price

HEADER = ("study", "task", "model", "trials", "rows", "takes", "reproduces")
NOTE = (
    "takes: all trials of the study on this device, as bench plan says; <=: its texts are not on this machine, so that "
    "each counts with max_length tokens, evaluation left out; a comparison takes its fresh runs besides"
)


def command(
    results_dir: Annotated[Path, typer.Option("--results-dir", help="where results lie")] = Path("results"),
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="where <task>/train.tsv lies", envvar="LORASWEEP_DATA", show_default=False),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="quick or full")] = "quick",
) -> int:
    """List the study files: cells x seeds, rows on disk, what all of them takes, and the figure of each.

    On a terminal lines end at its edge; elsewhere they are whole.
    """
    from bench import store, study
    from bench.commands import _text
    from bench.core import devices
    from bench.schedule import price

    rows, precision = [], devices.default_precision("auto")
    for name in study.names():
        loaded, _ = study.trace(name, profile=profile, data_dir=None if data_dir is None else str(data_dir),
                                precision=precision)  # fmt: skip
        planned = study.expand(loaded, data_hash="", model_hash="", default_targets=())
        done = len(store.finished_ids(results_dir / loaded.name))
        cost = _cost(price.of_study(loaded, results_dir=results_dir))
        rows.append((name, loaded.task, loaded.model, str(len(planned)), str(done), cost, loaded.figure))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(_cut(f"{_text.table(HEADER, rows)}\n\n{NOTE}", width))
    return 0


def _cost(price: Price) -> str:
    """Return a price in a few words; `<=` where it is a bound, - where nothing is known."""
    from bench.commands import _text

    if price.estimate is None:
        return "-"
    return f"{'<= ' if price.at_most else ''}{_text.duration(price.estimate.seconds)}"


def _cut(text: str, width: int | None) -> str:
    """Return the lines, those that are too wide for a terminal ended with three dots."""
    if width is None:
        return text
    return "\n".join(line if len(line) <= width else f"{line[: width - 3]}..." for line in text.splitlines())
