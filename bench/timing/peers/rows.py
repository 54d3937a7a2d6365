"""The rows of a throughput run: one for each timed block, its own small schema; written whole, read back by plots."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.core import record
from bench.core.record import Column
from bench.store.parts import write_part
from bench.timing import columns
from bench.timing.columns import RUN_COLUMNS, SETTING_COLUMNS, Run

SCHEMA_VERSION = 2
DIRECTORY = "bench"  # below the results directory
PARTS = ("train", "eval", "write", "rank", "length", "sweep", "early")  # early: a sweep that leaves cells out early

_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()
COLUMNS: tuple[Column, ...] = (
    Column(name="run_id", type=_S, meaning="one call of the command: task, model and start"),
    Column(name="part", type=_S, meaning=f"{', '.join(PARTS)}, or ceiling (a matmul)"),
    Column(name="contender", type=_S, meaning="file in bench/timing/peers/contenders; matmul for the ceiling"),
    Column(name="precision", type=_S, meaning="fp32, or bf16 (the peers': autocast over fp32 weights)"),
    Column(name="n_trials", type=_I, meaning="K: trials trained together; in a sweep, its trials"),
    Column(name="rank", type=_I, meaning="LoRA rank"),
    Column(name="length", type=_I, meaning="tokens of every example, where part is length", unit="tokens"),
    Column(name="repeat", type=_I, meaning="round of the interleaved repeats, from 0"),
    Column(name="seconds", type=_F, meaning="the timed block, warm-up excluded; a whole process for a sweep", unit="s"),
    Column(name="steps", type=_I, meaning="training steps of each trial in the block; 0: an evaluation"),
    Column(name="examples", type=_I, meaning="examples seen, of all trials together"),
    Column(name="tokens", type=_I, meaning="real tokens seen, of all trials together"),
    Column(name="targets", type=_I, meaning="of them: tokens that a causal language model learns or writes"),
    Column(name="computed_tokens", type=_I, meaning="the same with padding"),
    Column(name="flop_per_second", type=_F, meaning="of the ceiling: best matmul rate of the round", unit="1/s"),
    Column(name="peak_memory_bytes", type=_I, meaning="growth of resident set (CPU) or allocator (GPU)", unit="bytes"),
    Column(name="matmul_params", type=_I, meaning="P: weights in matrix products for each token, a causal head aside"),
    Column(name="head_params", type=_I, meaning="of a causal model's head: in products at targets only"),
    Column(name="clock", type=_S, meaning="wall, or cpu: seconds of the process, of all its threads"),
    *SETTING_COLUMNS,
    Column(name="random_weights", type=_B, meaning="the model's shapes with random weights"),
    *record.columns("batch_size", "lora_dropout"),
    Column(name="target_modules", type=_S, meaning="JSON: PEFT's target_modules"),
    *RUN_COLUMNS,
)
SCHEMA = pa.schema(
    [(column.name, column.type) for column in COLUMNS],
    metadata={b"lorasweep_bench_version": str(SCHEMA_VERSION).encode()},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context(Run):
    """What all rows of a run share."""

    run_id: str
    matmul_params: int
    head_params: int
    clock: str
    random_weights: bool
    lora_dropout: float
    target_modules: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One timed block."""

    part: str
    contender: str
    precision: str
    n_trials: int
    rank: int | None
    repeat: int
    seconds: float
    length: int | None = None
    steps: int | None = None
    examples: int | None = None
    tokens: int | None = None
    targets: int | None = None
    computed_tokens: int | None = None
    flop_per_second: float | None = None
    peak_memory_bytes: int | None = None


def to_table(rows: list[Row], context: Context) -> pa.Table:
    """Return the rows as an arrow table of exactly SCHEMA."""
    return columns.to_table([asdict(row) for row in rows], context, schema=SCHEMA, schema_version=SCHEMA_VERSION)


def path_of(results_dir: Path, run_id: str) -> Path:
    """Return where a run's rows lie."""
    return results_dir / DIRECTORY / f"{run_id}.parquet"


def write(results_dir: Path, table: pa.Table) -> Path:
    """Write a run's rows, whole or not at all, and return the path."""
    path = path_of(results_dir, table.column("run_id")[0].as_py())
    write_part(path, table)
    return path


def read(path: Path) -> pa.Table:
    """Return the rows of a run."""
    return pq.read_table(path, schema=SCHEMA)


def dictionary(columns: tuple[Column, ...]) -> str:
    """Return Markdown, one line for each column; docs/benchmarks/method.md holds it."""
    head = "| column | type | unit | meaning |\n|---|---|---|---|\n"
    return head + "".join(f"| {c.name} | {c.type} | {c.unit} | {c.meaning} |\n" for c in columns)
