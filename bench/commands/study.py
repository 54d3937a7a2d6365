"""bench study NAME: one study as it is resolved, each value with the file or the option that gives it."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands._options import Selection, study_command

NAME_HELP = "a file in studies/ by name, or the path of a TOML file; the same as --study"


@study_command
def command(
    selection: Selection,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help=NAME_HELP, show_default=False)] = None,
) -> int:
    """Print a study as TOML with its bases, its profile and the options merged, and where each value comes from.

    Saved to a file, it is the same study.
    """
    from bench.study import as_toml

    study, merged = (selection if name is None else selection.of_study(name)).trace()
    print(as_toml.text(study, merged), end="")
    return 0
