"""The option --rows: commands that read rows take them from files that `bench export` wrote, and nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
import typer

from bench.commands._options import Selection
from bench.core import rules
from bench.core.errors import BadInput

if TYPE_CHECKING:
    from bench.commands._resolve import Readable
    from bench.store import Scan

ROWS_HELP = "read these rows instead of a results directory: files that bench export wrote, commas between or repeated"
RowsOption = Annotated[list[str] | None, typer.Option("--rows", metavar="FILES", help=ROWS_HELP, show_default=False)]
STAGES = re.compile(r"-(top|fresh|pool)$")  # of a comparison, whose rows name the study that they belong to so
OF_STUDY = ("study", "task", "model")


def paths_of(given: Sequence[str]) -> tuple[Path, ...]:
    """Return the files; a text is one of them as it is, or several with commas between.

    Raises:
        BadInput: for one that is not there.
    """
    texts = [t for text in given for t in ([text] if Path(text).is_file() else text.split(","))]
    paths = tuple(dict.fromkeys(Path(text.strip()).expanduser() for text in texts))
    for path in paths:
        if not path.is_file():
            raise BadInput("--rows", "must be a file", got=path, way_out="give a file that bench export wrote")
    return paths


def load(paths: Sequence[Path]) -> pa.Table:
    """Return the rows of files, each trial once."""
    return scan(paths).table


def scan(paths: Sequence[Path]) -> Scan:
    """Return the rows of files, and what was found wrong with them.

    Raises:
        BadInput: for a file of something else, and where no row is in any.
    """
    from bench import store

    try:
        found = store.scan_files(paths)
    except ValueError as error:
        rule, way_out = "must be rows of this harness", "give a file that bench export wrote"
        raise BadInput("--rows", rule, got=error, way_out=way_out) from None
    if found.table.num_rows == 0:
        raise BadInput("--rows", "must hold rows", got="none", way_out="give another file")
    return found


def directory(paths: Sequence[Path], selection: Selection) -> Path:
    """Return where what is made of the files goes: results/<their names>."""
    return selection.results_dir / "+".join(path.stem for path in paths)


def read(selection: Selection, table: pa.Table) -> tuple[Selection, Readable, pa.Table]:
    """Return the study that rows are read as, and the rows that count; say what does not count.

    The study is the one that the options name, else the one that the rows name; profile and precision too, where
    neither the study nor an option states them.

    Raises:
        BadInput: where no row is one of the study's trials.
    """
    from bench.commands import _last, _resolve

    selection = named(selection, table)
    ids = set(table.column("trial_id").to_pylist())
    tried: list[tuple[tuple[float, int], Selection, Readable, pa.Table, tuple[str, ...]]] = []
    for way in _ways(selection, table):
        study, own, told = _resolve.of_rows(way.study(), table).reading(table)
        n = len(study.ids & ids)
        tried.append(((n / len(study.ids), n), way, study, own, told))
    (share, _), chosen, readable, own, told = max(tried, key=lambda one: one[0])
    if share == 0 and not readable.is_search:
        raise _last.none_found(Path("--rows"), own, readable.trials, otherwise="or name the study of the rows: --study")
    found, here = readable.study, tried[0][2].study
    for name, theirs, ours in (
        ("PROFILE", found.profile, here.profile),
        ("PRECISION", found.budget.precision, here.budget.precision),
    ):
        if theirs != ours:
            print(f"{found.name}: as the rows were swept, {name}={theirs}", file=sys.stderr)
    for line in told:
        print(f"warning: {line}")
    return chosen, readable, own


def named(selection: Selection, table: pa.Table) -> Selection:
    """Return the options with the study that the rows name, where they name none themselves.

    A task or a model that the options name says which of the rows count.

    Raises:
        BadInput: where those rows are of several studies, or of several tasks or models of one.
    """
    from bench import models
    from bench.study import files

    given = {key: selection.overrides[key] for key in OF_STUDY if key in selection.overrides}
    if "study" in given:
        return selection
    asked = {key: models.row_name(name) if key == "model" else name for key, name in given.items()}
    rows = [r for r in table.select(list(OF_STUDY)).to_pylist() if all(r[key] == asked[key] for key in asked)]
    names = sorted({STAGES.sub("", row["study"]) for row in rows})
    pairs = sorted({(row["task"], row["model"]) for row in rows})
    if given and not (len(names) == 1 and _has_file(names[0], pairs, files.names())):
        return selection
    if len(names) > 1:
        raise BadInput("--rows", "must be rows of one study, or the study must be named", got=", ".join(names),
                       way_out="give --study")  # fmt: skip
    if len(pairs) > 1:
        got = ", ".join(f"{task} on {model}" for task, model in pairs)
        raise BadInput("--rows", f"must be rows of one task and model of {names[0]}, or they must be named", got=got,
                       way_out="give --model, or --task")  # fmt: skip
    (name,), ((task, model),) = names, pairs
    more = {"study": name} if _has_file(name, pairs, files.names()) else {"task": task, "model": model}
    return replace(selection, overrides={**selection.overrides, **more})


def _has_file(name: str, pairs: Sequence[tuple[str, str]], known: Sequence[str]) -> bool:
    """Return whether a study of rows is one in studies/: that of a task's own file is named <task>-<model>."""
    return name in known and all(name != task for task, _ in pairs)


def _ways(selection: Selection, table: pa.Table) -> tuple[Selection, ...]:
    """Return the options with each profile, and each precision of rows where none is stated; those of here first."""
    study, merged = selection.trace()
    own = study.budget.precision
    found = [own] if merged.states("train.precision") else [own, *sorted(set(table["precision"].to_pylist()) - {own})]
    ways = [_with(selection, "precision", one) if one != own else selection for one in found]
    return tuple(one for way in ways for one in _profiles(way))


def _with(selection: Selection, key: str, text: str) -> Selection:
    return replace(selection, overrides={**selection.overrides, key: text})


def _profiles(selection: Selection) -> tuple[Selection, ...]:
    """Return the options with each profile, the one that holds here first; as they are where they give one."""
    if "profile" in selection.overrides:
        return (selection,)
    first = selection.study().profile
    every = (first, *(name for name in rules.PROFILES if name != first))
    return tuple(_with(selection, "profile", name) for name in every)
