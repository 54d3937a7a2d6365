"""The row: Record, the one parquet SCHEMA, Status, units and meanings of every column.

The data dictionary in results/README.md is generated from COLUMNS (`python -m bench dictionary`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pyarrow as pa

from bench.core import keys, rules
from bench.core.settings import Setting, kind_of
from bench.core.spec import Meaning, Trial

SCHEMA_VERSION = 2  # raised on purpose when a column changes its meaning, name or type


class Status(StrEnum):
    """How a trial ended. Only ok and diverged are finished; oom and failed are attempts and are tried again.

    A paused trial waits at a rung for the others; a pruned one was left out there, and nothing counts it as finished.
    """

    OK = "ok"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"
    PAUSED = "paused"
    PRUNED = "pruned"

    @property
    def finished(self) -> bool:
        """Whether the trial needs no further run."""
        return self in (Status.OK, Status.DIVERGED)


def known(value: float) -> float | None:
    """Return a number as a row holds it: null where it is not finite."""
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One evaluation while training: after `step` updates that took `train_seconds` in all (evaluation excluded)."""

    step: int
    train_seconds: float
    train_loss: float | None  # mean over the steps since the point before
    metric_value: float | None  # on the evaluation split; null where training paused and was not taken up


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What training a trial gave: everything in a row that is not a setting or provenance.

    Missing is None, never 0. A diverged trial keeps its curve up to the divergence and has no metric_value.
    """

    status: Annotated[Status, "ok, diverged (a loss or gradient was not finite), oom, failed, paused or pruned"]
    reason: Annotated[str | None, "why the status is not ok"] = None
    collapsed: Annotated[bool | None, "an ok trial that predicts one class or text, or ends above chance loss"] = None
    metric_name: Annotated[str, "the task's metric"]
    metric_value: Annotated[float | None, "the score: the metric at the last step on the evaluation split"] = None
    metric_stderr: Annotated[float | None, "standard error over the evaluation examples, not over seeds"] = None
    accuracy: Annotated[float | None, "share of the evaluation split that is right: label, or whole text"] = None
    select_metric: Annotated[float | None, "the metric on the part of train held out for choosing"] = None
    best_metric: Annotated[float | None, "best metric_value over the curve: not the score"] = None
    other_metrics: Annotated[
        Mapping[str, float | None] | None, "JSON: the task's other metrics on the evaluation split, by name"
    ] = None
    other_metrics_stderr: Annotated[
        Mapping[str, float | None] | None, "JSON: their standard errors over the evaluation examples"
    ] = None
    n_eval: Annotated[int | None, "examples in the evaluation split"] = None
    eval_correct: Annotated[bytes | None, "numpy.packbits of which examples were right, in file order"] = None
    eval_predictions: Annotated[
        bytes | None, "predicted class or number of each example, in file order; read by bench.data.predictions"
    ] = None
    eval_predictions_type: Annotated[str | None, "bits, uint8, uint16, uint32 or float32, little-endian"] = None
    test_metric: Annotated[float | None, "the metric on the test split: runs of chosen cells only"] = None
    test_metric_stderr: Annotated[float | None, "standard error over the test examples"] = None
    n_test: Annotated[int | None, "examples in the test split"] = None
    test_hash: Annotated[str | None, "hash of the test split's texts and labels"] = None
    train_loss: Annotated[float | None, "mean training loss since the curve point before the last step"] = None
    eval_loss: Annotated[float | None, "mean loss on the evaluation split"] = None
    forgetting_before: Annotated[float | None, "loss per token on a fixed text before the first step"] = None
    forgetting_after: Annotated[float | None, "loss per token on that text after the last step"] = None
    forgetting_tokens: Annotated[int | None, "tokens of that text"] = None
    forgetting_hash: Annotated[str | None, "hash of that text's tokens"] = None
    steps_done: Annotated[int, "updates done", "steps"]
    diverged_step: Annotated[int | None, "the step whose loss or gradient was not finite, from 1"] = None
    mora_r_hat: Annotated[int | None, "side of MoRA's square matrix, of the first adapted module"] = None
    n_trainable: Annotated[int | None, "trained parameters, head included"] = None
    head_new: Annotated[str | None, "JSON: the head's parameters drawn for the seed; the others are kept"] = None
    n_total: Annotated[int | None, "all parameters, adapters included"] = None
    setup_seconds: Annotated[float | None, "building the pack", "s"] = None
    compile_seconds: Annotated[float | None, "recording what a GPU repeats; null where nothing is recorded", "s"] = None
    train_seconds: Annotated[float | None, "training steps only, never evaluation", "s"] = None
    eval_seconds: Annotated[float | None, "evaluation", "s"] = None
    timing_mode: Annotated[str | None, "isolated (alone on an idle device) or pack_share (1/K of the pack)"] = None
    engine_path: Annotated[
        str | None, "way through the model: bank, unpadded or packed; left out; if recorded; kernels refused"
    ] = None
    examples_per_second: Annotated[float | None, "training examples of this trial / train_seconds", "1/s"] = None
    tokens_per_second: Annotated[float | None, "real (not padding) tokens / train_seconds", "1/s"] = None
    peak_memory_bytes: Annotated[int | None, "the pack's peak, the base it shares left out", "bytes"] = None
    curve: tuple[CurvePoint, ...] = ()
    started_at: Annotated[str, "ISO 8601, UTC"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where and with what a pack ran."""

    git_commit: Annotated[str | None, "commit of the harness"]
    git_dirty: Annotated[bool | None, "whether the work tree had uncommitted changes"]
    source_hash: Annotated[str, "hash of the harness's own source files"]
    versions: Annotated[str, "JSON: versions of python, torch, transformers, ..."]
    device: Annotated[str, "name of the device"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row: a trial, its outcome, and the pack and place it ran in."""

    study: Annotated[str, "name of the study that ran the trial"]
    trial: Trial
    pack_id: Annotated[str, "hash of the ids of the trials trained together"]
    pack_size: Annotated[int, "K, how many were trained together"]
    outcome: Outcome
    provenance: Provenance
    attempt: Annotated[int | None, "number of an oom or failed attempt; null in a finished row"] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of the row: its name, arrow type, unit or range, and meaning."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""


_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_ARROW = {
    str: _S,
    tuple: _S,
    float: _F,
    int: _I,
    bool: _B,
    bytes: pa.binary(),
}  # by `kind_of`; a list is stored as JSON
CURVE_TYPE = pa.list_(
    pa.struct([("step", _I), ("train_seconds", _F), ("train_loss", _F), ("metric_value", _F)]),
)

# The stored order of what fields declare here and in spec.py, and of what is derived; settings not named: at None.
_ORDER: tuple[Column | str | None, ...] = (
    "study",
    Column(name="trial_id", type=_S, meaning="hash of the resolved trial: settings, data and base model, not code"),
    "status", "reason", "collapsed", "method", "task", "model", "seed", "rank", "lora_alpha", "use_rslora",
    "lora_dropout", "init", "target_modules", "layers_to_transform", "head_policy", "reinit_head", "head_new",
    Column(name="head_learning_rate", type=_F, meaning="the rate of the head's weight matrices"),
    "loraplus_lr_embedding", "mora_type", "mora_r_hat", "mora_rounding", "eta_A", "lr_ratio", "eta_B", "optimizer",
    "adam_beta1", "adam_beta2", "adam_eps", "weight_decay", "lr_scheduler_type", "warmup_steps", "batch_size",
    "max_steps", "max_length", "max_grad_norm", "precision", "base_precision",
    None,
    "metric_name", "tokenizer_hash", "encoding_version", "template", "n_select", "select_by", "n_left_out",
    "metric_value", "metric_stderr", "accuracy", "select_metric", "best_metric", "other_metrics",
    "other_metrics_stderr", "n_eval", "eval_correct", "eval_predictions", "eval_predictions_type", "test_metric",
    "test_metric_stderr", "n_test", "test_hash", "forgetting_before", "forgetting_after",
    "forgetting_tokens", "forgetting_hash", "train_loss", "eval_loss", "steps_done", "diverged_step",
    "n_trainable", "n_total", "setup_seconds", "compile_seconds", "train_seconds", "eval_seconds", "timing_mode",
    "pack_id", "pack_size", "engine_path", "examples_per_second", "tokens_per_second", "peak_memory_bytes",
    Column(
        name="curve",
        type=CURVE_TYPE,
        meaning="evaluations while training; train_loss: mean since the last one (toy: at the step); "
        "metric_value is null at a rung that a trial did not go on from",
    ),
    "started_at", "git_commit", "git_dirty", "source_hash", "data_hash", "model_hash", "versions", "device", "attempt",
    "spec_version",
    Column(name="schema_version", type=_I, meaning="version of this table"),
)  # fmt: skip


def _told(declaring: type) -> dict[str, Column]:
    """Return the columns that a dataclass declares: what stands beside the type of a field is its meaning and unit."""
    hints = get_type_hints(declaring, include_extras=True).items()
    told = [(name, hint.__origin__, *hint.__metadata__) for name, hint in hints if get_origin(hint) is Annotated]
    return {
        name: Column(name=name, type=_ARROW[kind_of(of)], meaning=meaning, unit="".join(unit))
        for name, of, meaning, *unit in told
    }


SETTINGS: Mapping[str, Setting] = {key: s for key, s in {**keys.TRIAL, **keys.TRAIN}.items() if s.meaning}
_DECLARED = {
    key: Column(name=key, type=_ARROW[setting.kind], meaning=setting.meaning, unit=setting.unit)
    for key, setting in SETTINGS.items()
} | {name: column for kind in (Outcome, Meaning, Provenance, Record) for name, column in _told(kind).items()}
_UNNAMED = [name for name in SETTINGS if name not in _ORDER]
_NAMES = [name for one in _ORDER for name in (_UNNAMED if one is None else [one])]
COLUMNS = tuple(one if isinstance(one, Column) else _DECLARED[one] for one in _NAMES)
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
