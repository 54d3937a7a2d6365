"""What the id of a trial is made of: canonical JSON of its fields, hashed. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Any

# What an id of version 1 is made of. Frozen: rows of that version are found by it (see `Trial.as_version_1`).
TRIAL_1 = (
    "task", "model", "data_hash", "model_hash", "method", "seed", "eta_A", "eta_B", "rank", "lora_alpha", "use_rslora",
    "lora_dropout", "init", "target_modules", "layers_to_transform", "loraplus_lr_embedding", "mora_type",
    "mora_rounding", "head_policy",
)  # fmt: skip
BUDGET_1 = (
    "max_steps", "batch_size", "max_length", "optimizer", "adam_beta1", "adam_beta2", "adam_eps", "weight_decay",
    "lr_scheduler_type", "warmup_steps", "max_grad_norm", "precision", "eval_steps", "n_select",
)  # fmt: skip


def named(source: object, names: Iterable[str]) -> dict[str, Any]:
    """Return these fields of a dataclass."""
    return {name: getattr(source, name) for name in names}


def told(source: Any, always: Collection[str]) -> dict[str, Any]:
    """Return the fields named in `always`, and of the others those that differ from their default.

    So a setting that is added later leaves the ids of trials that do without it as they are.
    """
    values = ((f, getattr(source, f.name)) for f in fields(source))
    return {f.name: value for f, value in values if f.name in always or value != f.default}


def digest(value: object) -> str:
    """Return 16 hex digits of sha256 over canonical JSON: sorted keys, floats by repr, tuples as lists."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
