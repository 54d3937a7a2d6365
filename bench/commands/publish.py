"""bench publish: a study's rows, report and figures as a data set, in a directory or on the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.core.errors import BadInput, one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.commands._resolve import Readable
    from bench.commands.report import Material

HUB = "hf://datasets/"
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
TO_HELP = f"a directory that is not there yet or empty, or {HUB}user/name, which is made where it is missing"


@study_command
def command(
    selection: Selection,
    to: Annotated[str, typer.Option("--to", help=TO_HELP)],
    private: Annotated[bool, typer.Option("--private", help="the Hub: for yourself alone, where it is made")] = False,
) -> int:
    """Write a study's rows, report and figures with a data card as a folder that datasets.load_dataset reads.

    With hf://datasets/user/name the folder is sent there. Nothing else ever sends anything.
    """
    from bench.commands import _last, _resolve, report

    repo = _repo(to)
    target = None if repo else _empty(Path(to).expanduser())
    selection = _last.as_swept(selection)
    resolved = _resolve.resolve(selection.study())
    readable, found = report.of_directory(resolved, selection)
    if target is not None:
        pack(readable, selection, found, target)
        print(f"{found.rows.num_rows:,} rows in {target}")
        return 0
    assert repo is not None
    with tempfile.TemporaryDirectory() as directory:
        pack(readable, selection, found, Path(directory))
        print(f"{found.rows.num_rows:,} rows: {_send(Path(directory), repo, private=private)}")
    return 0


def pack(readable: Readable, selection: Selection, found: Material, target: Path) -> None:
    """Write the data set of a study into a directory.

    Raises:
        BadInput: where the directory cannot be written.
    """
    from bench.commands import plot, report
    from bench.export import data_card
    from bench.store.parts import write_part

    try:
        target.mkdir(parents=True, exist_ok=True)
        write_part(target / data_card.ROWS, found.rows)
        (target / report.PAGE).write_text(report.page_of(readable, selection, found), encoding="utf-8")
        images = [path.relative_to(target).as_posix() for path in plot.draw(readable, found.rows, target / "figures")]
        (target / "README.md").write_text(_card(readable, selection, found.rows, images), encoding="utf-8")
    except OSError as error:
        way_out = "free space or name another directory"
        raise BadInput(str(target), "must be writable", got=error.strerror, way_out=way_out) from error


def _card(readable: Readable, selection: Selection, rows: pa.Table, images: list[str]) -> str:
    from bench.commands import _show, report
    from bench.export import data_card
    from bench.study import as_toml

    cells = () if readable.is_search else readable.best(rows)[0]
    study = report.shown_as(readable)
    toml = report.without_paths(as_toml.text(study, selection.trace()[1]), readable.study)
    return data_card.write(data_card.DataCard(
        title=f"{study.name}: a sweep of learning rates",
        task=readable.task.name,
        model=readable.model_name,
        n_rows=rows.num_rows,
        methods=sorted(set(rows.column("method").to_pylist())),
        metric=readable.task.metric,
        best=_show.best_table(cells, readable.task.metric, len(study.seeds), readable.trials)
        if cells
        else "in report.html",
        command=report.command_line(selection),
        toml=toml,
        figures=images,
        files=((data_card.ROWS, "the rows"), (report.PAGE, "everything on one page"), ("figures/", "PNG and PDF")),
    ))  # fmt: skip


def _repo(to: str) -> str | None:
    """Return the repository that is meant, None for a directory."""
    if "://" not in to:
        return None
    repo = to.removeprefix(HUB)
    if repo == to or not _REPO.fullmatch(repo):
        way_out = f"give a directory, or {HUB}user/name"
        raise BadInput("--to", f"must be a directory or {HUB}user/name", got=repr(to), way_out=way_out)
    return repo


def _empty(target: Path) -> Path:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput("--to", "must not be there yet, or be empty", got=str(target), way_out="name another directory")
    return target


def _send(directory: Path, repo: str, *, private: bool) -> str:
    """Send a directory to the Hub and return where it is then.

    Raises:
        BadInput: where the Hub does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="lorasweep")
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=str(directory), commit_message="Rows of a sweep"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        got = one_line(f"{type(error).__name__}: {error}")[:200]
        way_out = "log in with `hf auth login` or HF_TOKEN, or publish into a directory"
        raise BadInput(f"{HUB}{repo}", "must take the data set", got=got, way_out=way_out) from None
    return str(done)
