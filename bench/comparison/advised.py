"""PROFILE=advised: narrow grids around rates that stored studies advise.

A sweep keeps them beside its rows (`.advised.json`): its own rows would change the advice, and a sweep that goes on
must go on with the same grids.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from bench import methods, models, store, tasks
from bench.comparison import advise
from bench.comparison.advise import Advice, Known
from bench.core import cache, keys
from bench.core.errors import BadInput
from bench.core.spec import SERIES, Study
from bench.study.layer import Axes

NAME = ".advised.json"
REFERENCE = Path("results/reference")
Wanted = tuple[str, int | None, int | None]  # method, type, rank


def known(results_dir: Path) -> tuple[Known, ...]:
    """Return the stored grids: those of the reference rows and of the user's own results."""
    tables = [store.load_files(sorted(path for path in REFERENCE.glob("*.parquet") if "fresh" not in path.name))]
    if results_dir.is_dir():
        tables += [store.load(trials.parent) for trials in sorted(results_dir.glob(f"*/{store.TRIALS}"))]
    return known_of(*tables)


def known_of(*tables: pa.Table) -> tuple[Known, ...]:
    """Return the grids among finished rows whose best rate says something."""
    return advise.known_of([row for one in tables for row in one.select(list(advise.COLUMNS)).to_pylist()])


def advices(study: Study, found: tuple[Known, ...]) -> Iterator[tuple[Wanted, Advice | None]]:
    """Yield method, type and rank of each grid of a study, with what is advised; None where nothing is known."""
    task, model = tasks.get(study.task).name, models.row_name(study.model)
    for grid in study.grids:
        reads = methods.get(grid.method).reads
        kinds, ranks = (
            (grid.axis(name) or (keys.DEFAULTS[name],)) if name in reads else (None,) for name in (SERIES[1], "rank")
        )
        for kind in kinds:
            for rank in ranks:
                told = advise.advise(found, task=task, model=model, method=grid.method, kind=kind, rank=rank)
                yield (grid.method, kind, rank), told


def narrow(study: Study, found: tuple[Known, ...]) -> dict[str, Axes]:
    """Return the narrow grid of each method of a study that stored studies have, around its first type and rank."""
    grids: dict[str, Axes] = {}
    for (method, _, _), told in advices(study, found):
        if told is not None:
            grids.setdefault(method, told.grid())
    return grids


def grids_of(study: Study, results_dir: Path) -> dict[str, Axes]:
    """Return the narrow grids of a study: those that its last advised sweep kept, new ones for other methods.

    Raises:
        BadInput: where no stored study has one of the methods.
    """
    wanted = [grid.method for grid in study.grids]
    kept = _kept(results_dir / study.name / NAME)
    if not all(method in kept for method in wanted):
        kept = {**narrow(study, known(results_dir)), **kept}
    unknown = [method for method in wanted if method not in kept]
    if unknown:
        rule = "needs stored rows of every method, at three rates or more"
        way_out = "sweep a whole grid first, or leave them out with --methods"
        raise BadInput("--profile advised", rule, got=f"none of {', '.join(unknown)}", way_out=way_out)
    return {method: kept[method] for method in wanted}


def keep(study: Study, results_dir: Path) -> None:
    """Keep the grids of an advised sweep that begins, those of other methods too.

    Raises:
        OSError: where they cannot be written.
    """
    path = results_dir / study.name / NAME
    grids = {**_kept(path), **grids_of(study, results_dir)}
    cache.write_text(path, json.dumps(grids, indent=1))


def _kept(path: Path) -> Mapping[str, Axes]:
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {method: {key: tuple(map(float, v)) for key, v in axes.items()} for method, axes in raw.items()}
    return {}
