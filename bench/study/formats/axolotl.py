"""axolotl: the YAML of `axolotl train config.yaml --sweep sweep.yaml`, a config, or both in one file.

A sweep gives lists by key; under `_` lie dicts of values that belong together. A config gives one value by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.errors import BadInput
from bench.study.formats._base import NAMES, Draft

_NAMES = {
    "base_model": "model", "micro_batch_size": "batch_size", "sequence_len": "max_length", "lora_r": "rank",
    "lr_scheduler": "lr_scheduler_type", "warmup_ratio": "warmup_steps", "lora_target_modules": "target_modules",
    "peft_layers_to_transform": "layers_to_transform", "peft_use_rslora": "use_rslora",
    "adam_beta1": "adam_beta1", "adam_beta2": "adam_beta2", "adam_epsilon": "adam_eps", "optimizer": "optimizer",
}  # fmt: skip
_METHODS = {"lora": "lora", "qlora": "lora", None: "full"}
_FLAGS = (
    "adapter",
    "bf16",
    "fp16",
    "load_in_4bit",
    "peft_use_dora",
    "lora_target_linear",
    "gradient_accumulation_steps",
)
_LISTS = ("target_modules", "layers_to_transform")  # of which a list is one value
_PAIRED = "_"


def read(raw: Mapping[str, Any], where: str) -> Draft:
    """Return the study that a config or a sweep of axolotl gives.

    Raises:
        BadInput: for a file in which nothing is axolotl's.
    """
    known = {*_NAMES, *_FLAGS, *NAMES, _PAIRED}
    if not known & set(raw):
        rule, way_out = "must have keys of axolotl, such as learning_rate or lora_r", "give axolotl's own file"
        raise BadInput(where, rule, way_out=way_out)
    draft = Draft()
    given = {name: value for name, value in raw.items() if name not in (*_FLAGS, _PAIRED)}
    for name, value in {**given, **_paired(draft, raw.get(_PAIRED))}.items():
        _take(draft, name, value)
    _flags(draft, raw)
    return draft


def _paired(draft: Draft, pairs: Any) -> dict[str, list[Any]]:
    """Return the values of keys that go together, each key for itself."""
    if not isinstance(pairs, list):
        return {}
    found: dict[str, list[Any]] = {}
    for name, value in ((n, v) for one in pairs if isinstance(one, dict) for n, v in one.items()):
        if value not in found.setdefault(name, []):
            found[name].append(value)
    if found:
        draft.note(_PAIRED, f"every combination of {', '.join(found)} runs, not only those that are paired there")
    return found


def _take(draft: Draft, name: str, value: Any) -> None:
    if value is None:
        return
    key = _NAMES.get(name, NAMES.get(name))
    if name == "optimizer":
        value = [
            "adamw" if str(one).startswith("adamw") else one for one in (value if isinstance(value, list) else [value])
        ]
        value = list(dict.fromkeys(value))
    if isinstance(value, dict):
        draft.note(name, "there is no such setting here")
    else:
        one_value = not isinstance(value, list) or (key in _LISTS and not any(isinstance(v, list) for v in value))
        draft.take(name, [value] if one_value else value, key=key)


def _flags(draft: Draft, raw: Mapping[str, Any]) -> None:
    """Carry over what axolotl says by switches."""
    adapter = raw.get("adapter", "lora")
    if adapter not in _METHODS:
        draft.note("adapter", f"{adapter!r} is no method here; lora was taken")
    draft.method = _METHODS.get(adapter, "lora")
    if raw.get("peft_use_dora"):
        draft.method = "dora"
    if "lr_ratio" in draft.grid:
        draft.method = "lora+"
    if raw.get("lora_target_linear"):
        draft.grid["target_modules"] = "all-linear"
    if raw.get("load_in_4bit") or adapter == "qlora":
        draft.train["base_precision"] = "nf4"
    for precision in ("bf16", "fp16"):
        if raw.get(precision) is True:
            draft.train["precision"] = precision
        elif raw.get(precision):
            draft.note(precision, f"{raw[precision]!r}: give --precision")
    _accumulated(draft, raw.get("gradient_accumulation_steps"))


def _accumulated(draft: Draft, steps: Any) -> None:
    """Make batch_size the examples of a step, as it is here."""
    size = draft.train.get("batch_size")
    if isinstance(steps, int) and isinstance(size, int):
        draft.train["batch_size"] = size * steps
    elif steps not in (None, 1):
        draft.note("gradient_accumulation_steps", "batch_size is the examples of a whole step here")
