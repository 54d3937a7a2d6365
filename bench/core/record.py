"""The row: Record, the one parquet SCHEMA, Status, units and meanings of every column.

The data dictionary in results/README.md is generated from COLUMNS (`python -m bench dictionary`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from bench.core.spec import Trial

SCHEMA_VERSION = 2  # raised on purpose when a column changes its meaning, name or type


class Status(StrEnum):
    """How a trial ended. Only ok and diverged are finished; oom and failed are attempts and are tried again."""

    OK = "ok"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"

    @property
    def finished(self) -> bool:
        """Whether the trial needs no further run."""
        return self in (Status.OK, Status.DIVERGED)


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One evaluation while training: after `step` updates that took `train_seconds` in all (evaluation excluded)."""

    step: int
    train_seconds: float
    train_loss: float | None  # mean over the steps since the point before
    metric_value: float | None  # on the evaluation split


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What training a trial gave: everything in a row that is not a setting or provenance.

    Missing is None, never 0. A diverged trial keeps its curve up to the divergence and has no metric_value.
    """

    status: Status
    reason: str | None = None
    collapsed: bool | None = None
    metric_name: str
    metric_value: float | None = None
    metric_stderr: float | None = None
    accuracy: float | None = None
    select_metric: float | None = None
    best_metric: float | None = None
    other_metrics: Mapping[str, float | None] | None = None
    other_metrics_stderr: Mapping[str, float | None] | None = None
    n_eval: int | None = None
    eval_correct: bytes | None = None
    eval_predictions: bytes | None = None  # see bench/data/predictions.py
    eval_predictions_type: str | None = None
    test_metric: float | None = None
    test_metric_stderr: float | None = None
    n_test: int | None = None
    test_hash: str | None = None
    train_loss: float | None = None
    eval_loss: float | None = None
    steps_done: int
    diverged_step: int | None = None
    mora_r_hat: int | None = None
    n_trainable: int | None = None
    head_new: str | None = None
    n_total: int | None = None
    setup_seconds: float | None = None
    compile_seconds: float | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    timing_mode: str | None = None
    engine_path: str | None = None
    examples_per_second: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    curve: tuple[CurvePoint, ...] = ()
    started_at: str  # ISO 8601, UTC, to the second


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where and with what a pack ran."""

    git_commit: str | None
    git_dirty: bool | None
    source_hash: str
    versions: str  # JSON object: package -> version
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row: a trial, its outcome, and the pack and place it ran in."""

    study: str
    trial: Trial
    pack_id: str
    pack_size: int
    outcome: Outcome
    provenance: Provenance
    attempt: int | None = None  # 1, 2, ... of an oom or failed attempt; None for a finished trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of the row: its name, arrow type, unit or range, and meaning."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""


_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()
CURVE_TYPE = pa.list_(
    pa.struct([("step", _I), ("train_seconds", _F), ("train_loss", _F), ("metric_value", _F)]),
)

COLUMNS: tuple[Column, ...] = (
    Column(name="study", type=_S, meaning="name of the study that ran the trial"),
    Column(name="trial_id", type=_S, meaning="hash of the resolved trial: settings, data and base model, not code"),
    Column(name="status", type=_S, meaning="ok, diverged (a loss or gradient was not finite), oom or failed"),
    Column(name="reason", type=_S, meaning="why the status is not ok"),
    Column(name="collapsed", type=_B, meaning="an ok trial that predicts one class or text, or ends above chance loss"),
    Column(name="method", type=_S, meaning="file name in bench/methods; LoRA+ at lr_ratio 1 is stored as lora"),
    Column(name="task", type=_S, meaning="name of the task"),
    Column(name="model", type=_S, meaning="registered name, Hub id or last part of a local directory"),
    Column(name="seed", type=_I, meaning="keys data order, dropout and initialisation"),
    Column(name="rank", type=_I, meaning="r; MoRA: the LoRA rank that it is as large as; subspace: its dimension"),
    Column(name="lora_alpha", type=_F, meaning="PEFT's lora_alpha: the update is scaled by lora_alpha / rank"),
    Column(name="use_rslora", type=_B, meaning="scale by lora_alpha / sqrt(rank) instead"),
    Column(name="lora_dropout", type=_F, meaning="dropout on the adapter's input", unit="probability"),
    Column(name="init", type=_S, meaning="zero_B (PEFT's), zero_A (the LoRA+ paper's) or nonzero (its toy)"),
    Column(name="target_modules", type=_S, meaning="JSON: PEFT's target_modules, resolved"),
    Column(name="layers_to_transform", type=_S, meaning="JSON: the layers that are adapted; null: all"),
    Column(name="head_policy", type=_S, meaning="rate of newly initialised modules: eta_A, a number, peft or paper"),
    Column(
        name="reinit_head", type=_B, meaning="draw anew a head that the checkpoint has; null: a row older than this"
    ),
    Column(name="head_new", type=_S, meaning="JSON: the head's parameters drawn for the seed; the others are kept"),
    Column(name="head_learning_rate", type=_F, meaning="the rate of the head's weight matrices"),
    Column(name="loraplus_lr_embedding", type=_F, meaning="LoRA+: the rate of embedding adapters"),
    Column(name="mora_type", type=_I, meaning="MoRA's operator: 1, 2, 3, 4 or 6, as in the official code"),
    Column(name="mora_r_hat", type=_I, meaning="side of MoRA's square matrix, of the first adapted module"),
    Column(name="mora_rounding", type=_S, meaning="of r_hat: floor (the paper) or nearest (the official code)"),
    Column(name="eta_A", type=_F, meaning="learning rate of A; of every trained weight where there is no B"),
    Column(name="lr_ratio", type=_F, meaning="lambda = eta_B / eta_A, derived"),
    Column(name="eta_B", type=_F, meaning="learning rate of B"),
    Column(name="optimizer", type=_S, meaning="adamw (torch.optim.AdamW's update) or sgd"),
    Column(name="adam_beta1", type=_F, meaning="AdamW beta 1"),
    Column(name="adam_beta2", type=_F, meaning="AdamW beta 2"),
    Column(name="adam_eps", type=_F, meaning="AdamW epsilon"),
    Column(name="weight_decay", type=_F, meaning="decoupled weight decay; none on biases and norms"),
    Column(name="lr_scheduler_type", type=_S, meaning="linear, constant or cosine, as in transformers"),
    Column(name="warmup_steps", type=_I, meaning="linear warm-up", unit="steps"),
    Column(name="batch_size", type=_I, meaning="examples in a step of one trial"),
    Column(name="max_steps", type=_I, meaning="updates planned", unit="steps"),
    Column(name="max_length", type=_I, meaning="longer texts are cut", unit="tokens"),
    Column(name="max_grad_norm", type=_F, meaning="each trial's gradient is clipped to this norm; null: not clipped"),
    Column(name="precision", type=_S, meaning="fp64, fp32, bf16 or fp16 of the base; adapters are at least fp32"),
    Column(name="metric_name", type=_S, meaning="the task's metric"),
    Column(name="tokenizer_hash", type=_S, meaning="hash of the tokenizer's files"),
    Column(name="encoding_version", type=_I, meaning="how texts become token ids: special tokens, cutting"),
    Column(name="template", type=_S, meaning="the prompt of a causal task, with {prompt} in it; null: no prompts"),
    Column(name="n_select", type=_I, meaning="training examples held out for choosing"),
    Column(name="select_by", type=_S, meaning="how they were chosen; null where none are held out"),
    Column(name="n_left_out", type=_I, meaning="training examples left out for sharing texts with those held out"),
    Column(name="metric_value", type=_F, meaning="the score: the metric at the last step on the evaluation split"),
    Column(name="metric_stderr", type=_F, meaning="standard error over the evaluation examples, not over seeds"),
    Column(name="accuracy", type=_F, meaning="share of the evaluation split that is right: label, or whole text"),
    Column(name="select_metric", type=_F, meaning="the metric on the part of train held out for choosing"),
    Column(name="best_metric", type=_F, meaning="best metric_value over the curve: not the score"),
    Column(name="other_metrics", type=_S, meaning="JSON: the task's other metrics on the evaluation split, by name"),
    Column(name="other_metrics_stderr", type=_S, meaning="JSON: their standard errors over the evaluation examples"),
    Column(name="n_eval", type=_I, meaning="examples in the evaluation split"),
    Column(name="eval_correct", type=pa.binary(), meaning="numpy.packbits of which examples were right, in file order"),
    Column(
        name="eval_predictions",
        type=pa.binary(),
        meaning="predicted class or number of each example, in file order; read by bench.data.predictions",
    ),
    Column(name="eval_predictions_type", type=_S, meaning="bits, uint8, uint16, uint32 or float32, little-endian"),
    Column(name="test_metric", type=_F, meaning="the metric on the test split: runs of chosen cells only"),
    Column(name="test_metric_stderr", type=_F, meaning="standard error over the test examples"),
    Column(name="n_test", type=_I, meaning="examples in the test split"),
    Column(name="test_hash", type=_S, meaning="hash of the test split's texts and labels"),
    Column(name="train_loss", type=_F, meaning="mean training loss since the curve point before the last step"),
    Column(name="eval_loss", type=_F, meaning="mean loss on the evaluation split"),
    Column(name="steps_done", type=_I, meaning="updates done", unit="steps"),
    Column(name="diverged_step", type=_I, meaning="the step whose loss or gradient was not finite, from 1"),
    Column(name="n_trainable", type=_I, meaning="trained parameters, head included"),
    Column(name="n_total", type=_I, meaning="all parameters, adapters included"),
    Column(name="setup_seconds", type=_F, meaning="building the pack", unit="s"),
    Column(name="compile_seconds", type=_F, meaning="compiling; null where nothing is compiled", unit="s"),
    Column(name="train_seconds", type=_F, meaning="training steps only, never evaluation", unit="s"),
    Column(name="eval_seconds", type=_F, meaning="evaluation", unit="s"),
    Column(name="timing_mode", type=_S, meaning="isolated (alone on an idle device) or pack_share (1/K of the pack)"),
    Column(name="pack_id", type=_S, meaning="hash of the ids of the trials trained together"),
    Column(name="pack_size", type=_I, meaning="K, how many were trained together"),
    Column(name="engine_path", type=_S, meaning="way through the model: bank or unpadded, and what it left out"),
    Column(name="examples_per_second", type=_F, meaning="training examples of this trial / train_seconds", unit="1/s"),
    Column(name="tokens_per_second", type=_F, meaning="real (not padding) tokens / train_seconds", unit="1/s"),
    Column(name="peak_memory_bytes", type=_I, meaning="the pack's peak above what was held before it", unit="bytes"),
    Column(
        name="curve",
        type=CURVE_TYPE,
        meaning="evaluations while training; train_loss: mean since the last one (toy: at the step)",
    ),
    Column(name="started_at", type=_S, meaning="ISO 8601, UTC"),
    Column(name="git_commit", type=_S, meaning="commit of the harness"),
    Column(name="git_dirty", type=_B, meaning="whether the work tree had uncommitted changes"),
    Column(name="source_hash", type=_S, meaning="hash of the harness's own source files"),
    Column(name="data_hash", type=_S, meaning="hash of the task's data"),
    Column(name="model_hash", type=_S, meaning="hash of the base model's files, or its Hub revision"),
    Column(name="versions", type=_S, meaning="JSON: versions of python, torch, transformers, ..."),
    Column(name="device", type=_S, meaning="name of the device"),
    Column(name="attempt", type=_I, meaning="number of an oom or failed attempt; null in a finished row"),
    Column(name="spec_version", type=_I, meaning="version of trial_id: what it is a hash of; null: 1"),
    Column(name="schema_version", type=_I, meaning="version of this table"),
)

SCHEMA = pa.schema(
    [(column.name, column.type) for column in COLUMNS],
    metadata={b"lorasweep_schema_version": str(SCHEMA_VERSION).encode()},
)


def columns(*names: str) -> tuple[Column, ...]:
    """Return these columns of the row, in this order, for other tables that hold the same.

    Raises:
        KeyError: for a name that the row has not.
    """
    by_name = {column.name: column for column in COLUMNS}
    return tuple(by_name[name] for name in names)


def to_row(record: Record) -> dict[str, Any]:
    """Return one flat row of SCHEMA, each column present."""
    trial, budget, outcome = record.trial, record.trial.budget, record.outcome
    sources: Mapping[str, object] = {
        "study": record.study,
        "trial_id": trial.trial_id,
        "lr_ratio": trial.lr_ratio,
        "head_learning_rate": trial.head_learning_rate,
        "head_policy": str(trial.head_policy),
        "target_modules": _json(trial.target_modules),
        "layers_to_transform": _json(trial.layers_to_transform),
        "status": str(outcome.status),
        "metric_name": trial.meaning.metric_name or outcome.metric_name,
        "other_metrics": _json(outcome.other_metrics),
        "other_metrics_stderr": _json(outcome.other_metrics_stderr),
        "curve": [_point(point) for point in outcome.curve],
        "pack_id": record.pack_id,
        "pack_size": record.pack_size,
        "attempt": record.attempt,
        "schema_version": SCHEMA_VERSION,
    }
    rest = (trial, budget, outcome, record.provenance, trial.meaning)
    return {name: _pick(name, sources, *rest) for name in SCHEMA.names}


def to_table(records: list[Record]) -> pa.Table:
    """Return the records as an arrow table of exactly SCHEMA."""
    return pa.Table.from_pylist([to_row(record) for record in records], schema=SCHEMA)


def _pick(name: str, first: Mapping[str, object], *rest: object) -> object:
    if name in first:
        return first[name]
    for source in rest:
        if hasattr(source, name):
            return getattr(source, name)
    raise KeyError(f"no source for column {name}")


def _point(point: CurvePoint) -> dict[str, float | int | None]:
    return {field: getattr(point, field) for field in ("step", "train_seconds", "train_loss", "metric_value")}


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)
