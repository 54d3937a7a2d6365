"""Speed and memory on the report's page: isolated timing where `bench speed` was run, and what the sweep cost."""

from __future__ import annotations

from dataclasses import dataclass

from bench.report.data import Isolated, Report, Speed
from bench.report.page.tables import Table, decimal, table, text, whole
from bench.report.page.tables import Value as Shown
from bench.timing.methods.summary import Line, Value, interval_words
from plots import style

_SHARES = (
    " pack_share: a trial's share of the time of the pack it was trained in, which depends on the pack's size and on "
    "what else the machine did: it says what the sweep cost, not which method is faster."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """A table and what there is to say of it."""

    note: str
    table: Table


def view(report: Report) -> dict[str, object] | None:
    """Return what the section shows; None where no row holds a time."""
    if report.isolated is None and not report.speeds:
        return None
    return {
        "isolated": None if report.isolated is None else _isolated(report.isolated),
        "swept": _of_rows(report) if report.speeds else None,
    }


def _isolated(found: Isolated) -> Noted:
    columns = (
        ("method", False), ("ms per step", True), ("interval", False), ("× LoRA", True), ("its interval", False),
        ("forward", True), ("backward", True), ("optimizer", True), ("examples per s", True), ("peak MiB", True),
        ("peak × LoRA", True), ("kept kB per token", True), ("trained", True), ("stored MiB", True),
        ("MFLOP per token", True), ("merge ms", True), ("eval s", True), ("merged eval s", True),
    )  # fmt: skip
    n = max((line.n for line in found.lines), default=0)
    note = (
        f"Each method timed by turns, {', '.join(found.timing_modes)}, on {', '.join(found.devices)}: medians over {n} "
        f"interleaved rounds with their interval ({interval_words(found.lines)}); × LoRA is paired by round, to LoRA "
        "without dropout at the same rank; forward, backward and optimizer in ms of a step; kept: for backward."
    )
    return Noted(note=note, table=table(columns, [_line(line) for line in found.lines]))


def _line(line: Line) -> list[Shown]:
    step, ratio = line.values.get("seconds_per_step"), line.ratios.get("seconds_per_step")
    flop, tokens = line.fixed["adapter_flop_per_token"], line.fixed["kept_tokens"] or 1
    stored = line.fixed["stored_bytes"]
    parts = [_scaled(line.values.get(f"{name}_seconds"), 1e3) for name in ("forward", "backward", "optimizer")]
    return [
        text(line.case), _scaled(step, 1e3), _ends(step, 1e3), _scaled(ratio), _ends(ratio), *parts,
        _scaled(line.values.get("examples_per_second")), _scaled(line.values.get("peak_memory_bytes"), 2**-20),
        _scaled(line.ratios.get("peak_memory_bytes")), _scaled(line.values.get("kept_bytes"), 1e-3 / tokens),
        whole(line.fixed["n_trainable"]), decimal(None if stored is None else stored / 2**20),
        decimal(None if flop is None else flop / 1e6), _scaled(line.values.get("merge_seconds"), 1e3),
        _scaled(line.values.get("eval_seconds")), _scaled(line.values.get("merged_eval_seconds")),
    ]  # fmt: skip


def _scaled(value: Value | None, scale: float = 1.0) -> Shown:
    return decimal(None if value is None else scale * value.median)


def _ends(value: Value | None, scale: float = 1.0) -> Shown:
    if value is None or value.interval is None:
        return ("–", None)
    low, high = (decimal(scale * end)[0] for end in (value.interval.low, value.interval.high))
    return (f"{low} to {high}", scale * value.interval.low)


def _of_rows(report: Report) -> Noted:
    columns = (
        ("method", False), ("rank", True), ("ms per step", True), ("timing", False), ("trials", True),
        ("examples per s", True), ("peak memory, MiB", True), ("trained parameters", True), ("pack size", True),
    )  # fmt: skip
    shares = any(speed.timing_mode != "isolated" for speed in report.speeds)
    note = "Medians over trials; evaluation is never part of it." + (_SHARES if shares else "")
    return Noted(note=note, table=table(columns, [_row(speed) for speed in report.speeds]))


def _row(speed: Speed) -> list[Shown]:
    low, high = speed.pack_sizes
    memory = None if speed.peak_memory_bytes is None else speed.peak_memory_bytes / 2**20
    return [
        text(style.label(speed.series)), whole(speed.rank), decimal(1000 * speed.seconds_per_step),
        text(speed.timing_mode), whole(speed.n),
        whole(speed.examples_per_second), whole(memory), whole(speed.n_trainable),
        (str(low) if low == high else f"{low}–{high}", high),
    ]  # fmt: skip
