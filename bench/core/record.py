"""The row: Record, the one parquet SCHEMA, Status, units and meanings of every column.

The data dictionary in results/README.md is generated from COLUMNS (`python -m bench dictionary`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from typing import Any, get_args

import pyarrow as pa

from bench.core import keys, rules
from bench.core.settings import Setting
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
_ARROW = {str: _S, tuple: _S, float: _F, int: _I, bool: _B}  # by Setting.kind; a list is stored as JSON
CURVE_TYPE = pa.list_(
    pa.struct([("step", _I), ("train_seconds", _F), ("train_loss", _F), ("metric_value", _F)]),
)

# The stored order. A name is a setting's, declared in spec.py; those that are not named here stand where None does.
_ORDER: tuple[Column | str | None, ...] = (
    Column(name="study", type=_S, meaning="name of the study that ran the trial"),
    Column(name="trial_id", type=_S, meaning="hash of the resolved trial: settings, data and base model, not code"),
    Column(name="status", type=_S, meaning="ok, diverged (a loss or gradient was not finite), oom or failed"),
    Column(name="reason", type=_S, meaning="why the status is not ok"),
    Column(name="collapsed", type=_B, meaning="an ok trial that predicts one class or text, or ends above chance loss"),
    "method", "task", "model", "seed", "rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules",
    "layers_to_transform", "head_policy", "reinit_head",
    Column(name="head_new", type=_S, meaning="JSON: the head's parameters drawn for the seed; the others are kept"),
    Column(name="head_learning_rate", type=_F, meaning="the rate of the head's weight matrices"),
    "loraplus_lr_embedding", "mora_type",
    Column(name="mora_r_hat", type=_I, meaning="side of MoRA's square matrix, of the first adapted module"),
    "mora_rounding", "eta_A", "lr_ratio", "eta_B", "optimizer", "adam_beta1", "adam_beta2", "adam_eps", "weight_decay",
    "lr_scheduler_type", "warmup_steps", "batch_size", "max_steps", "max_length", "max_grad_norm", "precision",
    None,
    Column(name="metric_name", type=_S, meaning="the task's metric"),
    Column(name="tokenizer_hash", type=_S, meaning="hash of the tokenizer's files"),
    Column(name="encoding_version", type=_I, meaning="how texts become token ids: special tokens, cutting"),
    Column(name="template", type=_S, meaning="the prompt of a causal task, with {prompt} in it; null: no prompts"),
    "n_select",
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
    "data_hash", "model_hash",
    Column(name="versions", type=_S, meaning="JSON: versions of python, torch, transformers, ..."),
    Column(name="device", type=_S, meaning="name of the device"),
    Column(name="attempt", type=_I, meaning="number of an oom or failed attempt; null in a finished row"),
    "spec_version",
    Column(name="schema_version", type=_I, meaning="version of this table"),
)  # fmt: skip


def _column(setting: Setting) -> Column:
    return Column(name=setting.key, type=_ARROW[setting.kind], meaning=setting.meaning, unit=setting.unit)


def _laid_out(order: tuple[Column | str | None, ...]) -> Iterator[Column]:
    for one in order:
        if isinstance(one, Column):
            yield one
        else:
            names = [name for name in SETTINGS if name not in order] if one is None else [one]
            yield from (_column(SETTINGS[name]) for name in names)


SETTINGS: Mapping[str, Setting] = {key: s for key, s in {**keys.TRIAL, **keys.TRAIN}.items() if s.meaning}
COLUMNS = tuple(_laid_out(_ORDER))
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
    trial, outcome = record.trial, record.outcome
    sources: Mapping[str, object] = {
        "study": record.study,
        "trial_id": trial.trial_id,
        **{name: stored(trial, name) for name in SETTINGS},
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
    rest = (trial, outcome, record.provenance, trial.meaning)
    return {name: _pick(name, sources, *rest) for name in SCHEMA.names}


def stored(trial: Trial, name: str) -> Any:
    """Return a setting of a trial as rows hold it: a list as JSON, a text or number as text."""
    value, kind = setting_of(trial, name), SETTINGS[name].kind
    if value is None or kind not in (str, tuple):
        return value
    return str(value) if kind is str else json.dumps(value)


def setting_of(trial: Trial, name: str) -> Any:
    """Return a setting of a trial or of its budget."""
    return getattr(trial.budget if name in keys.TRAIN else trial, name)


def trial_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stored trial, beside its budget's, as fields of Trial hold them."""
    return {f.name: _restored(row.get(f.name), f) for f in fields(Trial) if f.name in SETTINGS}


def _restored(value: Any, field: Field[Any]) -> Any:
    setting = SETTINGS[field.name]
    if value is None:  # of a row older than the setting the default
        return None if field.default is MISSING else field.default
    if setting.kind is tuple:
        found = json.loads(value)
        return tuple(found) if isinstance(found, list) else found
    return rules.scalar(value) if float in get_args(setting.type) and isinstance(value, str) else value


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
