"""bench calibrate-pruning: stored curves replayed, to see what leaving cells out early would have cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands._stored import RowsOption

REFERENCE = Path("results/reference")


def command(
    rows_of: RowsOption = None,
    draws: Annotated[int, typer.Option(help="draws of seeds of each grid that has several", min=1)] = 20,
    seeds: Annotated[int | None, typer.Option(help="different seeds of a draw, the same for all cells", min=1)] = None,
) -> int:
    """Tell for settings of rungs how often the best cell survives and what is saved, from stored rows."""
    import numpy as np

    from bench.commands import _stored, _text
    from bench.comparison import pruning
    from bench.core.errors import BadInput

    given = rows_of or sorted(str(path) for path in REFERENCE.glob("*.parquet") if "fresh" not in path.name)
    if not given:
        raise BadInput("--rows", "must be given", way_out="give files that bench export wrote")
    columns = [*pruning.COLUMNS, "diverged_step"]
    found = pruning.grids(_stored.load(_stored.paths_of(given)).select(list(dict.fromkeys(columns))).to_pylist())
    print(f"{_text.count(len(found), 'grid')}: {', '.join(f'{g.name} ({len(g.members)})' for g in found)}\n")
    lines = []
    for rungs in pruning.SETTINGS:
        one = pruning.replay(found, rungs, np.random.default_rng(0), n_draws=draws, n_seeds=seeds)
        if one is not None:
            lines.append(_line(one))
    header = (
        "rungs at",
        "kept",
        "grids",
        "draws",
        "best survives",
        "within an error",
        "95 % interval",
        "worst",
        "steps",
    )
    print(_text.table(header, lines))
    return 0


def _line(one: object) -> tuple[str, ...]:
    from bench.comparison.pruning import Replay

    assert isinstance(one, Replay)
    return (
        ", ".join(f"{share:.3g}" for share in one.rungs.shares),
        f"{one.rungs.keep:.3g}",
        str(one.n_grids),
        str(one.n_draws),
        f"{one.n_best / one.n_draws:.2f}",
        f"{one.n_near / one.n_draws:.2f}",
        f"{one.near.low:.2f} .. {one.near.high:.2f}",
        f"{one.worst:.4f}",
        f"{one.steps:.0%}",
    )
