"""The rows of `bench deploy`, in results/<study>/deploy.parquet: timed blocks, adapters, and ways that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.core.record import Column
from bench.store.parts import write_part
from bench.timing import columns
from bench.timing.columns import RUN_COLUMNS, SETTING_COLUMNS, Run

SCHEMA_VERSION = 1
FILE = "deploy.parquet"
LORA, BASE = "LoRA", "no adapter"  # kinds, beside the labels of bottleneck adapters

_S, _F, _I = pa.string(), pa.float64(), pa.int64()
COLUMNS: tuple[Column, ...] = (
    Column(name="kind", type=_S, meaning="LoRA, a bottleneck adapter, or no adapter"),
    Column(name="way", type=_S, meaning="merged, unmerged, swapped, mixed, or base"),
    Column(name="by", type=_S, meaning="whose forward pass: PEFT, lorasweep, transformers"),
    Column(name="part", type=_S, meaning="batch, alone, switch, adapter (its bytes, its merging), or refused"),
    Column(name="repeat", type=_I, meaning="round of the interleaved repeats, from 0"),
    Column(name="seconds", type=_F, meaning="the timed block, or merging an adapter", unit="s"),
    Column(name="n", type=_I, meaning="requests, or switches, in the block"),
    Column(name="tokens", type=_I, meaning="real tokens of the block's prompts"),
    Column(name="weight_bytes", type=_I, meaning="weights of all models and adapters of the way", unit="bytes"),
    Column(name="largest_difference", type=_F, meaning="of a logit from that of the unmerged adapters"),
    Column(name="largest_logit", type=_F, meaning="of the unmerged adapters"),
    Column(name="adapter", type=_S, meaning="name of its directory"),
    Column(name="rank", type=_I, meaning="of the saved factors"),
    Column(name="adapter_bytes", type=_I, meaning="its file of weights", unit="bytes"),
    Column(name="reason", type=_S, meaning="why a way is refused"),
    Column(name="n_adapters", type=_I, meaning="K: adapters on the base"),
    *SETTING_COLUMNS,
    Column(name="batch_size", type=_I, meaning="requests that wait at once"),
    Column(name="precision", type=_S, meaning="of the base; adapters are at least fp32"),
    Column(name="base_precision", type=_S, meaning="same, or nf4: Linear layers of the base in 4 bits"),
    Column(name="clock", type=_S, meaning="wall, or cpu: seconds of the process, of all its threads"),
    Column(name="timing_mode", type=_S, meaning="isolated, or busy: something else was at work on the device"),
    *RUN_COLUMNS,
)  # fmt: skip
SCHEMA = pa.schema(
    [(column.name, column.type) for column in COLUMNS],
    metadata={b"lorasweep_deploy_version": str(SCHEMA_VERSION).encode()},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context(Run):
    """What all rows of a run share."""

    n_adapters: int
    precision: str
    base_precision: str
    clock: str
    timing_mode: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One timed block, adapter, or refusal."""

    kind: str
    way: str
    part: str
    by: str | None = None
    repeat: int | None = None
    seconds: float | None = None
    n: int | None = None
    tokens: int | None = None
    weight_bytes: int | None = None
    largest_difference: float | None = None
    largest_logit: float | None = None
    adapter: str | None = None
    rank: int | None = None
    adapter_bytes: int | None = None
    reason: str | None = None


def to_table(rows: Sequence[Row], context: Context) -> pa.Table:
    """Return the rows as an arrow table of exactly SCHEMA."""
    return columns.to_table([asdict(row) for row in rows], context, schema=SCHEMA, schema_version=SCHEMA_VERSION)


def write(directory: Path, table: pa.Table) -> Path:
    """Write a run's rows in place of the last run's, whole or not at all, and return the path."""
    write_part(directory / FILE, table)
    return directory / FILE


def read(path: Path) -> pa.Table:
    """Return the rows of a run."""
    return pq.read_table(path, schema=SCHEMA)
