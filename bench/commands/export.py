"""bench export: finished rows of a study in one small file, to keep, share or redraw: parquet, CSV or JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

TO_HELP = "the file to write: .parquet, .csv or .jsonl [default: <results>/reference/<study>.parquet]"
ENDINGS = (".parquet", ".csv", ".jsonl")
WHICH = ("study", "task", "model", "profile", "device")  # they say which directory is meant, not which of its rows


@study_command
def command(selection: Selection, to: Annotated[Path | None, typer.Option("--to", help=TO_HELP)] = None) -> int:
    """Write the finished rows of a study into one file; with options such as --methods only the rows that they name."""
    from bench import store
    from bench.store.parts import write_part

    study = selection.study()
    directory = selection.directory(study)
    target = to or selection.results_dir / "reference" / f"{directory.name}.parquet"
    if target.suffix not in ENDINGS:
        rule = f"must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, which says what is written"
        raise BadInput("--to", rule, got=target.name, way_out=f"name it {target.stem}.parquet")
    if not store.finished_ids(directory):
        raise BadInput(str(directory), "there must be finished trials", way_out="run make sweep first")
    table = _named(store.sorted_rows(directory), selection)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".parquet":
            write_part(target, table)
        else:
            _write_text(target, table)
    except OSError as error:
        raise BadInput("--to", "must be writable", got=error.strerror, way_out="name another file") from error
    print(f"{table.num_rows:,} rows in {target}")
    return 0


def _named(table: pa.Table, selection: Selection) -> pa.Table:
    """Return the rows that the options name, all where none narrows them.

    Raises:
        BadInput: where they name none.
    """
    from bench.commands import _last, _resolve

    if selection.overrides.keys() <= set(WHICH):
        return table
    chosen = _last.as_swept(selection)
    resolved, own, told = _resolve.resolve(chosen.study()).reading(table)
    for line in told:
        print(f"warning: {line}")
    found = _last.of_ids(own, resolved.ids)
    if not found.num_rows:
        where = chosen.directory(resolved.study)
        raise _last.none_found(where, own, resolved.trials, otherwise="or give fewer options")
    return found


def _write_text(target: Path, table: pa.Table) -> None:
    """Write CSV or JSON lines: what is not a number or a text as JSON in it, bytes as hexadecimal digits."""
    import csv
    import io
    import json

    from bench.core.cache import write_text

    rows = [{name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
            for row in table.to_pylist()]  # fmt: skip
    stream = io.StringIO()
    if target.suffix == ".jsonl":
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        lines = csv.DictWriter(stream, table.column_names, lineterminator="\n")
        lines.writeheader()
        lines.writerows({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in rows)
    write_text(target, stream.getvalue())
    target.chmod(0o644)
