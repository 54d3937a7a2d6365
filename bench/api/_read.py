"""What reads rows: nothing here trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.api._settings import in_python, on_study
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure
    from peft import PeftConfig

    from bench.commands._options import Selection
    from bench.core.spec import Trial
    from plots.grid import View
    from plots.tidy import CellTable


@dataclass(frozen=True, kw_only=True, eq=False)
class Recommendation:
    """The winning cell: `code` is Python to paste, `study_toml` a study that repeats it, `text` says how it won."""

    trial: Trial
    text: str
    code: str
    study_toml: str
    peft_arguments: dict[str, Any] | None  # of PEFT's config; None for a method that PEFT does not have

    def __str__(self) -> str:
        return f"{self.text}\n\n{self.code}\n\n{self.study_toml}"

    def peft_config(self) -> PeftConfig:
        """Return PEFT's config of the cell.

        Raises:
            BadInput: for a method that PEFT has not.
        """
        if self.peft_arguments is None:
            way_out = "save the merged model: bench recommend --save"
            raise BadInput("peft_config", "must be of a method that PEFT has", got=self.trial.method, way_out=way_out)
        import peft

        from bench import methods

        found: PeftConfig = getattr(peft, methods.get(self.trial.method).peft_config)(**self.peft_arguments)
        return found


def load(rows: str | Path | Sequence[str | Path], *, results_dir: str | Path = "results") -> pd.DataFrame:
    """Return stored rows, each trial once: of a study by name, of its directory, or of Parquet files.

    Raises:
        BadInput: where there are none.
    """
    frame: pd.DataFrame = _table(rows, results_dir).to_pandas()
    return frame


def best(rows: pd.DataFrame | str | Path, *, results_dir: str | Path = "results") -> pd.DataFrame:
    """Return the best cell of each task, model and method: settings, mean over seeds, standard error, counts.

    It is chosen by `select` (the score on the held-out part of train) where there is one, and reported by `mean`, the
    metric on the evaluation split. `n_diverged`, `n_collapsed` and `n_missing` count what the mean leaves out.

    Raises:
        BadInput: where rows of one task do not all mean the same.
    """
    import pandas as pd

    from plots.tidy import choose, tidy

    frame, found = _frame(rows, results_dir), []
    _check_meaning(frame)
    for (task, model), group in frame.groupby(["task", "model"], sort=False):
        table = tidy(group)
        for series in table.cells["series"].unique():
            cell = choose(table.where(table.cells["series"] == series), by="select")
            if cell is not None:
                named = {"task": task, "model": model, "series": series, "metric_name": table.metric_name}
                found.append({**named, **{key: cell[key] for key in _best_columns(table) if key not in named}})
    return pd.DataFrame(found)


def _best_columns(table: CellTable) -> list[str]:
    first = ["method", "rank", "eta_A", "eta_B", "lr_ratio", *table.varying]
    counts = ["n_ok", "n_diverged", "n_collapsed", "n_missing"]
    return list(dict.fromkeys([*first, "mean", "stderr", "stderr_kind", "select", *counts, "trial_ids"]))


def heatmap(rows: pd.DataFrame | str | Path, *, view: View = "lr_ratio", results_dir: str | Path = "results") -> Figure:
    """Return a heatmap of eta_A against lambda (`view="lr_ratio"`) or eta_B of the rows of one task and model.

    Raises:
        BadInput: where they do not all mean the same, or no cell has both rates.
    """
    from plots import heatmap as drawing

    frame = _frame(rows, results_dir)
    _check_meaning(frame)
    table = drawing.tidy(frame)
    if not len(table.cells):
        rule = "must hold cells of the LoRA family, which have two rates"
        raise BadInput("rows", rule, got=", ".join(sorted(set(frame["method"]))), way_out="give other rows")
    return drawing.draw(table, view=view)


@on_study
def recommend(
    rows: pd.DataFrame | str | Path | Sequence[str | Path] | None = None, *, selection: Selection
) -> Recommendation:
    """Return the winning cell of a study, with `peft_config()`; `methods` narrows what can win.

    The study is that of the settings, as last swept; with `rows` its results are these instead of the directory's.

    Raises:
        BadInput: where no trial of the study has a score.
    """
    from bench.commands import _last, _resolve, _stored
    from bench.commands import recommend as recommending

    results_dir = selection.results_dir
    if rows is not None:
        selection = _stored.named(selection, as_table(rows, results_dir))
    selection = _last.as_swept(selection, tell=False)
    resolved = _resolve.resolve(selection.study())
    table = as_table(rows if rows is not None else recommending.directory_of(resolved, selection), results_dir)
    readable, own, _ = resolved.reading(table)
    winner, _ = recommending.found(readable, own, recommending.directory_of(resolved, selection))
    trial, text = winner.cell.trial, recommending.words(winner, readable)
    return Recommendation(
        trial=trial,
        text=text,
        code=recommending.code_of(trial, resolved),
        study_toml=recommending.toml_of(winner, readable, text),
        peft_arguments=recommending.peft_arguments(trial, resolved),
    )


def _frame(rows: Any, results_dir: str | Path) -> pd.DataFrame:
    import pandas as pd

    return rows if isinstance(rows, pd.DataFrame) else load(rows, results_dir=results_dir)


def as_table(rows: Any, results_dir: str | Path) -> pa.Table:
    """Return rows that are given as a DataFrame, or by what `load` takes, as a table of the store's schema."""
    import pandas as pd
    import pyarrow as pa

    from bench.core.record import SCHEMA

    if isinstance(rows, pd.DataFrame):
        return pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False)
    return _table(rows, results_dir)


def _table(rows: str | Path | Sequence[str | Path], results_dir: str | Path) -> pa.Table:
    from bench import store
    from bench.commands import _stored

    with in_python():
        if not isinstance(rows, str | Path):
            return _stored.load(_stored.paths_of([str(path) for path in rows]))
        path = Path(rows).expanduser()
        if path.is_file():
            return _stored.load([path])
        directory = path if path.is_dir() else Path(results_dir).expanduser() / path
        table = store.load(directory)
    if not table.num_rows:
        rule = "must be a study with rows, its directory, or a Parquet file of rows"
        raise BadInput("rows", rule, got=str(rows), way_out="sweep it first, or name results_dir")
    return table


def _check_meaning(frame: pd.DataFrame) -> None:
    import pyarrow as pa

    from bench.core import cells

    names = [name for name in cells.MEANING_COLUMNS if name in frame.columns]
    mixed = cells.mixtures(pa.Table.from_pandas(frame[names], preserve_index=False))
    if mixed:
        raise BadInput(
            "rows", "must be rows that mean the same", got="; ".join(mixed), way_out="give those of one kind"
        )
