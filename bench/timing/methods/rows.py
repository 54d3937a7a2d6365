"""The rows of `bench speed`: one for each turn of a case, its own small schema, in results/<study>/speed.parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.core import record
from bench.core.record import Column
from bench.store.parts import write_part
from bench.timing import columns
from bench.timing.columns import RUN_COLUMNS, SETTING_COLUMNS, Run

SCHEMA_VERSION = 1
FILE = "speed.parquet"

_S, _F, _I = pa.string(), pa.float64(), pa.int64()
COLUMNS: tuple[Column, ...] = (
    Column(name="study", type=_S, meaning="name of the study whose settings these are"),
    Column(name="arm", type=_S, meaning="name in a comparison; null: not at its settings, or the device was busy"),
    Column(name="case", type=_S, meaning="method, rank and adapter dropout, in words"),
    Column(name="method", type=_S, meaning="file name in bench/methods"),
    Column(name="mora_type", type=_I, meaning="MoRA's operator"),
    *record.columns("mora_r_hat", "rank", "lora_dropout"),
    Column(name="timing_mode", type=_S, meaning="isolated, or busy: something else was at work on the device"),
    Column(name="repeat", type=_I, meaning="round of the interleaved repeats, from 0"),
    Column(name="steps", type=_I, meaning="training steps timed, after a warm-up"),
    Column(name="examples", type=_I, meaning="examples in them"),
    Column(name="tokens", type=_I, meaning="real tokens in them"),
    Column(name="seconds_per_step", type=_F, meaning="of the timed steps", unit="s"),
    Column(name="forward_seconds", type=_F, meaning="of a step: the model's forward passes", unit="s"),
    Column(name="backward_seconds", type=_F, meaning="of a step: loss and backward passes", unit="s"),
    Column(name="optimizer_seconds", type=_F, meaning="of a step: gradient norm, clipping, update", unit="s"),
    Column(name="other_seconds", type=_F, meaning="of a step: zeroing gradients, cutting the batch", unit="s"),
    Column(name="examples_per_second", type=_F, meaning="examples over the timed seconds", unit="1/s"),
    Column(name="peak_memory_bytes", type=_I, meaning="base, adapters, optimizer and activations", unit="bytes"),
    Column(name="kept_bytes", type=_I, meaning="kept for backward of one batch in one piece", unit="bytes"),
    Column(name="kept_tokens", type=_I, meaning="tokens of that batch"),
    Column(name="n_trainable", type=_I, meaning="trained parameters, head included"),
    Column(name="train_state_bytes", type=_I, meaning="trained weights, gradients, two moments", unit="bytes"),
    Column(name="stored_bytes", type=_I, meaning="a checkpoint: adapters and head, or the model", unit="bytes"),
    Column(name="adapter_flop_per_token", type=_I, meaning="of a forward pass, by formula; null: no formula"),
    Column(name="merge_seconds", type=_F, meaning="putting all adapters into the weights", unit="s"),
    Column(name="eval_seconds", type=_F, meaning="one evaluation, adapters beside the weights", unit="s"),
    Column(name="merged_eval_seconds", type=_F, meaning="one evaluation, adapters in the weights", unit="s"),
    Column(name="n_eval", type=_I, meaning="examples of an evaluation"),
    Column(name="engine_path", type=_S, meaning="way through the model: bank, unpadded or packed"),
    *SETTING_COLUMNS,
    Column(name="batch_size", type=_I, meaning="examples in a step"),
    Column(name="max_length", type=_I, meaning="longer texts are cut", unit="tokens"),
    Column(name="precision", type=_S, meaning="of the base; adapters are at least fp32"),
    Column(name="target_modules", type=_S, meaning="JSON: PEFT's target_modules"),
    *RUN_COLUMNS,
)
SCHEMA = pa.schema(
    [(column.name, column.type) for column in COLUMNS],
    metadata={b"lorasweep_speed_version": str(SCHEMA_VERSION).encode()},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context(Run):
    """What all rows of a run share."""

    study: str
    timing_mode: str
    max_length: int
    precision: str


def to_table(rows: list[dict[str, object]], context: Context) -> pa.Table:
    """Return the rows as an arrow table of exactly SCHEMA.

    Raises:
        ValueError: for a row that lacks a column, or has one that SCHEMA lacks.
    """
    return columns.to_table(rows, context, schema=SCHEMA, schema_version=SCHEMA_VERSION)


def write(directory: Path, table: pa.Table) -> Path:
    """Write a run's rows in place of the last run's, whole or not at all, and return the path."""
    write_part(directory / FILE, table)
    return directory / FILE


def read(directory: Path) -> pa.Table | None:
    """Return the rows of the last run in a study's directory; None where there was none."""
    path = directory / FILE
    return pq.read_table(path, schema=SCHEMA) if path.is_file() else None
