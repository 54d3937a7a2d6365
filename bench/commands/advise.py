"""bench advise: a first learning rate for each method and rank of a study, from rows that are stored already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.commands._stored import RowsOption

if TYPE_CHECKING:
    from bench.comparison.advise import Known
    from bench.core.spec import Study
    from bench.study.layer import Axes


@study_command
def command(
    selection: Selection,
    rows_of: RowsOption = None,
    save: Annotated[
        Path | None, typer.Option(help="write the narrow grids as a study file, to be swept with --study")
    ] = None,
) -> int:
    """Tell a first rate for each method of a study and the narrow grid around it, and what it cost elsewhere."""
    from bench.commands import _stored, _text
    from bench.comparison import advised

    study = selection.study()
    if rows_of is None:
        known = advised.known(selection.results_dir)
    else:
        known = advised.known_of(_stored.load(_stored.paths_of(rows_of)))
    lines = []
    for (method, kind, rank), found in advised.advices(study, known):
        name = method if kind is None else f"{method} type {kind}"
        shown = "-" if rank is None else str(rank)
        if found is None:
            lines.append((name, shown, "nothing is known", "", "", ""))
            continue
        sources = f"{', '.join(found.sources)} (alike in {found.alike})"
        ratio = "-" if found.lr_ratio is None else _text.ratio(found.lr_ratio)
        lines.append((name, shown, _text.rate(found.eta_A), ratio, f"{found.spread:.3g}", sources))
    grids = advised.narrow(study, known)
    print(_text.table(("method", "rank", "eta_A", "lambda", "spread", "from"), lines))
    print("spread: the largest best eta_A of these studies over the smallest\n")
    print(_regret(known))
    if grids:
        print("\nnarrow grids, swept with PROFILE=advised:")
        rows = [(method, name, ", ".join(f"{value:g}" for value in values))
                for method, axes in grids.items() for name, values in axes.items()]  # fmt: skip
        print(_text.table(("method", "axis", "values"), rows))
    if save is not None:
        _save(save, study, grids)
    return 0


def _regret(known: tuple[Known, ...]) -> str:
    """Return what the advice of all other studies cost in each stored one, in words."""
    from bench.comparison import advise
    from bench.core import stats

    left = advise.leave_one_out(known)
    if not left:
        return "no two stored studies have a method in common: what the rule costs is not known"
    lines = [f"leaving one study out at a time, {len(left)} grids of {len({one.known.study for one in left})} studies:"]
    for name, values in (
        ("at these rates", [x.at_once for x in left]),
        ("in the narrow grid", [x.in_grid for x in left]),
    ):
        interval = stats.median_interval(values)
        told = (
            "" if interval is None else f" ({interval[1]:.0%} interval {interval[0].low:.4f} to {interval[0].high:.4f})"
        )
        lines.append(f"  {name}: median regret {stats.median(values):.4f}{told}, worst {max(values):.4f}")
    return "\n".join(lines)


def _save(path: Path, study: Study, grids: Mapping[str, Axes]) -> None:
    """Write the grids as a study file that inherits the rest."""
    from bench.core.errors import BadInput

    if not grids:
        raise BadInput("--save", "needs a method that a stored study has", way_out="sweep a whole grid first")
    base = study.name if (Path("studies") / f"{study.name}.toml").is_file() else study.task
    lines = ["# Narrow grids around advised rates", f'base = "{base}"', f'model = "{study.model}"']
    for method, axes in grids.items():
        lines += ["", f'[grid."{method}"]', *(f"{name} = {list(values)}" for name, values in axes.items())]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(
            "--save", "must be a file that can be written", got=error.strerror, way_out="give another"
        ) from error
    print(f"\n{path}: make sweep STUDY={path}")
