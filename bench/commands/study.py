"""bench study NAME: one study as it is resolved, each value with the file or the option that gives it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.core.errors import BadInput, one_of

NAME_HELP = "a file in studies/ by name, or the path of a TOML file; the same as --study"


@study_command
def command(
    selection: Selection,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help=NAME_HELP, show_default=False)] = None,
    from_wandb: Annotated[Path | None, typer.Option(help="start a study from a sweep.yaml of W&B")] = None,
    from_axolotl: Annotated[
        Path | None, typer.Option(help="start a study from axolotl's config or --sweep YAML")
    ] = None,
    from_peft: Annotated[Path | None, typer.Option(help="start a study from PEFT's adapter_config.json")] = None,
) -> int:
    """Print a study as TOML with its bases, its profile and the options merged, and where each value comes from.

    Saved to a file, it is the same study. With --from-wandb, --from-axolotl or --from-peft a new study is printed that
    starts from that file; what was not carried over stands in its comments and on stderr.
    """
    files = {"wandb": from_wandb, "axolotl": from_axolotl, "peft": from_peft}
    given = {form: path for form, path in files.items() if path is not None}
    if given:
        return _started(given, selection, name)
    from bench.study import as_toml

    study, merged = (selection if name is None else selection.of_study(name)).trace()
    print(as_toml.text(study, merged), end="")
    return 0


def _started(files: dict[str, Path], selection: Selection, name: str | None) -> int:
    from bench.study import formats

    over = {key: text for key, text in selection.overrides.items() if key not in ("task", "model")}
    if len(files) > 1 or name is not None or over:
        got = one_of([*files, *over, *([] if name is None else [name])])
        rule, way_out = "must be given alone, beside --task and --model", "change the study that it prints"
        raise BadInput(f"--from-{next(iter(files))}", rule, got=got, way_out=way_out)
    ((form, path),) = files.items()
    task, model = selection.overrides.get("task"), selection.overrides.get("model")
    text, draft = formats.study_of(form, path.expanduser(), task=task, model=model)
    print(text, end="")
    for line in draft.notes:
        print(f"not carried over as it is: {line}", file=sys.stderr)
    for line in draft.lacking:
        print(f"to be looked at: {line}", file=sys.stderr)
    return 0
