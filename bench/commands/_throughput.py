"""What `bench bench` prints and draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from bench.commands import _text
from bench.core.errors import BadInput
from bench.timing.peers import contenders, summary
from bench.timing.peers.summary import Line

TITLES = {
    "train": "training",
    "eval": "evaluation",
    "write": "generation, greedy",
    "rank": "cost of rank",
    "length": "cost of length",
    "sweep": "a whole sweep, start-up included (demo, tiny-roberta)",
    "early": "the same cells, some left out early: halving, and Optuna's median pruner",
}


def text(table: pa.Table) -> str:
    """Return a table for each part, and the ceilings."""
    lines = summary.lines(table)
    blocks = [
        _block(part, [line for line in lines if line.part == part]) for part in dict.fromkeys(x.part for x in lines)
    ]
    limits = ", ".join(f"{p} {rate / 1e9:,.0f} GFLOP/s" for p, rate in sorted(summary.ceilings(table).items()))
    n = max((line.n for line in lines), default=0)
    foot = (
        f"matmul ceiling: {limits}; share: 4P FLOP a real token (evaluation 2P; a causal head at targets) over it; "
        f"medians of {n} interleaved rounds, [lowest highest]; x: examples/s over the baseline's; memory: highest "
        "growth of a round"
    )
    return "\n\n".join([*blocks, foot])


def _block(part: str, lines: Sequence[Line]) -> str:
    baselines = sorted({key for line in lines for key in line.ratios}, key=lambda key: (key[1] == "bf16", key[0]))
    header = ["contender", "precision", "K", "examples/s", "", "ms/trial-step", "ceiling", "padding", "memory"]
    if part in ("rank", "length"):
        header.insert(3, part)
    if any(line.tokens_per_second is not None for line in lines):
        header.append("tokens/s")
    header += [f"x {name.capitalize()} {precision}" for name, precision in baselines]
    is_causal = "tokens/s" in header
    return f"{TITLES[part]}\n{_text.table(header, [_cells(line, baselines, is_causal) for line in lines])}"


def _cells(line: Line, baselines: Sequence[tuple[str, str]], is_causal: bool) -> list[str]:
    extra = {"rank": [str(line.rank)], "length": [str(line.length)]}.get(line.part, [])
    label = "lorasweep" if line.contender == "ours" else contenders.get(line.contender).label
    return [
        label,
        line.precision,
        str(line.n_trials),
        *extra,
        _number(line.examples_per_second),
        f"[{_number(line.lowest)} {_number(line.highest)}]",
        _number(line.ms_per_trial_step),
        "-" if line.share is None else f"{100 * line.share:.0f} %",
        _number(line.padding),
        "-" if line.peak_memory_bytes is None else f"{line.peak_memory_bytes / 2**20:,.0f} MiB",
        *([_number(line.tokens_per_second)] if is_causal else []),
        *(_ratio(line, key) for key in baselines),
    ]


def _ratio(line: Line, key: tuple[str, str]) -> str:
    return f"{line.ratios[key]:.2f}" if key in line.ratios else "-"


def _number(value: float | None) -> str:
    """Return three significant digits, and no decimals from 100 on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def draw(table: pa.Table, directory: Path) -> Iterator[Path]:
    """Draw the figures of a run; yield the PNG of each, whose PDF lies beside it."""
    from plots import style, throughput

    run_id = table.column("run_id")[0].as_py()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, figure in throughput.all_figures(table.to_pandas()).items():
            yield style.save(figure, directory, f"{run_id}-{name}")[0]
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(directory), "must be writable", got=error.strerror, way_out=way_out) from error
