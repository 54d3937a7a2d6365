"""bench studies: every study file, the figure it reproduces, its size, what it costs and how much of it is done."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.spec import Study, Trial

HEADER = ("study", "task", "model", "trials", "rows", "trains <=", "reproduces")
NOTE = (
    "trains <=: on this device, every text counted with max_length tokens, evaluation left out; "
    "bench plan reads the data and says more"
)


def command(
    results_dir: Annotated[Path, typer.Option("--results-dir", help="where results lie")] = Path("results"),
    profile: Annotated[str, typer.Option("--profile", help="quick or full")] = "quick",
) -> int:
    """List the study files: cells x seeds, rows on disk, the most their training takes, and the figure of each.

    On a terminal lines end at its edge; elsewhere they are whole.
    """
    from bench import store, study
    from bench.commands import _text

    rows = []
    for name in study.names():
        loaded = study.load(name, profile=profile)
        planned = study.expand(loaded, data_hash="", model_hash="", default_targets=())
        done = len(store.finished_ids(results_dir / loaded.name))
        cost = _cost(loaded, planned, results_dir)
        rows.append((name, loaded.task, loaded.model, str(len(planned)), str(done), cost, loaded.figure))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(_cut(f"{_text.table(HEADER, rows)}\n\n{NOTE}", width))
    return 0


def _cost(study: Study, trials: tuple[Trial, ...], results_dir: Path) -> str:
    """Return the most that training the whole study takes here; - where the model's size is not known here."""
    from bench import estimate, runtime
    from bench.commands import _text
    from bench.errors import BadInput
    from bench.models._config import read_config
    from bench.spec import Pack

    try:
        config = read_config(study.model)[1]
    except BadInput:
        return "-"
    # tokens are bounded by max_length, and nothing is evaluated
    work = estimate.Workload(
        matmul_params=estimate.matmul_params(config), train_tokens=study.budget.max_length, n_eval=0, eval_tokens=0
    )
    place, calibration = runtime.place_of(study.device), estimate.read_calibration(results_dir)
    seconds = estimate.estimate([Pack(trials=trials)], calibration, work, place).seconds
    return _text.duration(seconds) if seconds < 100 * 3600 else f"{seconds / 86400:,.0f} days"


def _cut(text: str, width: int | None) -> str:
    """Return the lines, those that are too wide for a terminal ended with three dots."""
    if width is None:
        return text
    return "\n".join(line if len(line) <= width else f"{line[: width - 3]}..." for line in text.splitlines())
