"""The rows of `bench speed`: one for each turn of a case, its own small schema, in results/<study>/speed.parquet."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.record import Column
from bench.store import write_part

SCHEMA_VERSION = 1
FILE = "speed.parquet"

_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()
COLUMNS: tuple[Column, ...] = (
    Column(name="study", type=_S, meaning="name of the study whose settings these are"),
    Column(name="arm", type=_S, meaning="name in a comparison; null: not at its settings, or the device was busy"),
    Column(name="case", type=_S, meaning="method, rank and adapter dropout, in words"),
    Column(name="method", type=_S, meaning="file name in bench/methods"),
    Column(name="mora_type", type=_I, meaning="MoRA's operator"),
    Column(name="mora_r_hat", type=_I, meaning="side of MoRA's square matrix, of the first adapted module"),
    Column(name="rank", type=_I, meaning="r; for MoRA the LoRA rank whose parameter count is matched"),
    Column(name="lora_dropout", type=_F, meaning="dropout on the adapter's input", unit="probability"),
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
    Column(name="engine_path", type=_S, meaning="way through the model: bank or unpadded"),
    Column(name="task", type=_S, meaning="name of the task"),
    Column(name="model", type=_S, meaning="name of the model"),
    Column(name="batch_size", type=_I, meaning="examples in a step"),
    Column(name="max_length", type=_I, meaning="longer texts are cut", unit="tokens"),
    Column(name="precision", type=_S, meaning="of the base; adapters are at least fp32"),
    Column(name="target_modules", type=_S, meaning="JSON: PEFT's target_modules"),
    Column(name="threads", type=_I, meaning="torch's threads"),
    Column(name="load_share", type=_F, meaning="share of the device at work before the run; null: not known"),
    Column(name="device", type=_S, meaning="name of the device"),
    Column(name="started_at", type=_S, meaning="ISO 8601, UTC"),
    Column(name="git_commit", type=_S, meaning="commit of the harness"),
    Column(name="git_dirty", type=_B, meaning="whether the work tree had uncommitted changes"),
    Column(name="source_hash", type=_S, meaning="hash of the harness's own source files"),
    Column(name="versions", type=_S, meaning="JSON: versions of python, torch, transformers, ..."),
    Column(name="schema_version", type=_I, meaning="version of this table"),
)
SCHEMA = pa.schema(
    [(column.name, column.type) for column in COLUMNS],
    metadata={b"lorasweep_speed_version": str(SCHEMA_VERSION).encode()},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What all rows of a run share."""

    study: str
    timing_mode: str
    task: str
    model: str
    batch_size: int
    max_length: int
    precision: str
    threads: int
    load_share: float | None
    device: str
    started_at: str
    git_commit: str | None
    git_dirty: bool | None
    source_hash: str
    versions: str


def to_table(rows: list[dict[str, object]], context: Context) -> pa.Table:
    """Return the rows as an arrow table of exactly SCHEMA.

    Raises:
        ValueError: for a row that lacks a column, or has one that SCHEMA lacks.
    """
    shared = {f.name: getattr(context, f.name) for f in fields(context)} | {"schema_version": SCHEMA_VERSION}
    whole = [shared | row for row in rows]
    for row in whole:
        if set(row) != set(SCHEMA.names):
            raise ValueError(f"a row is of other columns: {sorted(set(row) ^ set(SCHEMA.names))}")
    return pa.Table.from_pylist(whole, schema=SCHEMA)


def write(directory: Path, table: pa.Table) -> Path:
    """Write a run's rows in place of the last run's, whole or not at all, and return the path."""
    write_part(directory / FILE, table)
    return directory / FILE


def read(directory: Path) -> pa.Table | None:
    """Return the rows of the last run in a study's directory; None where there was none."""
    path = directory / FILE
    return pq.read_table(path, schema=SCHEMA) if path.is_file() else None
