"""What `bench speed` prints and draws."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from bench.commands import _text
from bench.core.errors import BadInput
from bench.timing.methods import summary
from bench.timing.methods.summary import Line, Value

TIME = (
    "method", "ms/step", "x LoRA", "examples/s", "fwd/bwd/opt %", "adapter MFLOP/token", "merge ms", "eval s",
    "merged s",
)  # fmt: skip
MEMORY = ("method", "peak MiB", "x LoRA", "kept kB/token", "x LoRA", "trained", "state MiB", "stored MiB")


def text(table: pa.Table) -> str:
    """Return two tables, time and memory, a line for each case, with intervals over the rounds; and what they mean."""
    found = summary.lines(table)
    modes = ", ".join(sorted(set(table.column("timing_mode").to_pylist())))
    n = max((line.n for line in found), default=0)
    return f"""{_text.table(TIME, [time_cells(line) for line in found])}

{_text.table(MEMORY, [memory_cells(line) for line in found])}

timing {modes}; medians over {n} interleaved rounds, [{summary.interval_words(found)}]
x LoRA: paired by round, to LoRA without dropout at the same rank; adapter: forward pass, by formula
eval, merged: one evaluation with the adapters beside and in the weights
kept: for backward, of one whole batch; state: trained weights, gradients and moments"""


def time_cells(line: Line) -> list[str]:
    """Return the texts of one line of the table of times."""
    flop = line.fixed["adapter_flop_per_token"]
    return [
        line.case,
        with_interval(line.values.get("seconds_per_step"), 1e3),
        with_interval(line.ratios.get("seconds_per_step")),
        _plain(line.values.get("examples_per_second")),
        _parts(line),
        "-" if flop is None else number(flop / 1e6),
        _plain(line.values.get("merge_seconds"), 1e3),
        _plain(line.values.get("eval_seconds")),
        _plain(line.values.get("merged_eval_seconds")),
    ]


def memory_cells(line: Line) -> list[str]:
    """Return the texts of one line of the table of memory."""
    fixed = line.fixed
    return [
        line.case,
        _plain(line.values.get("peak_memory_bytes"), 2**-20),
        _plain(line.ratios.get("peak_memory_bytes")),
        _plain(line.values.get("kept_bytes"), 1e-3 / (fixed["kept_tokens"] or 1)),
        _plain(line.ratios.get("kept_bytes")),
        f"{fixed['n_trainable']:,}",
        number((fixed["train_state_bytes"] or 0) / 2**20),
        number((fixed["stored_bytes"] or 0) / 2**20),
    ]


def draw(table: pa.Table, directory: Path) -> Path:
    """Draw the figure into a directory and return its PNG, beside which its PDF lies."""
    from plots import speed, style

    try:
        directory.mkdir(parents=True, exist_ok=True)
        return style.save(speed.methods(table.to_pandas(), summary.lines(table)), directory, "speed")[0]
    except OSError as error:
        way_out = "free space or change its permissions"
        raise BadInput(str(directory), "must be writable", got=error.strerror, way_out=way_out) from error


def _parts(line: Line) -> str:
    names = ("forward_seconds", "backward_seconds", "optimizer_seconds", "other_seconds")
    parts = [line.values[name].median for name in names]
    whole = sum(parts)
    return "/".join(f"{100 * part / whole:.0f}" for part in parts[:3]) if whole > 0 else "-"


def with_interval(value: Value | None, scale: float = 1.0) -> str:
    if value is None or value.interval is None:
        return _plain(value, scale)
    ends = value.interval
    return f"{_plain(value, scale)} [{number(ends.low * scale)} {number(ends.high * scale)}]"


def _plain(value: Value | None, scale: float = 1.0) -> str:
    return "-" if value is None else number(value.median * scale)


def number(value: float) -> str:
    """Return three significant digits, and no decimals from 100 on."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"
