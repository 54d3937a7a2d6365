"""PEFT's adapter_config.json: method, rank and what else shapes the adapter; it holds no rates and no steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.errors import BadInput, one_of
from bench.study.formats._base import Draft

_METHODS = {"LORA": "lora", "IA3": "ia3", "VERA": "vera", "LN_TUNING": "ln-tuning"}
_KEYS = {
    "base_model_name_or_path": "model", "r": "rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout",
    "vera_dropout": "lora_dropout", "use_rslora": "use_rslora", "target_modules": "target_modules",
    "layers_to_transform": "layers_to_transform",
}  # fmt: skip
_INITS = {True: "zero_B", "pissa": "pissa", "olora": "olora"}
# Written by PEFT itself, or what training is like here too.
_SAID = ("peft_type", "task_type", "inference_mode", "peft_version", "auto_mapping", "revision", "init_lora_weights",
         "use_dora", "fan_in_fan_out", "megatron_core", "qalora_group_size")  # fmt: skip


def read(raw: Mapping[str, Any], where: str) -> Draft:
    """Return the study that a saved adapter's config gives.

    Raises:
        BadInput: for a file without peft_type, and for a type that no method here has.
    """
    kind = raw.get("peft_type")
    if not isinstance(kind, str) or kind not in _METHODS:
        way_out = f"known: {one_of(_METHODS)}"
        raise BadInput(f"{where} peft_type", "must be of a method here", got=repr(kind), way_out=way_out)
    draft = Draft(method="dora" if raw.get("use_dora") else _METHODS[kind])
    for name, key in _KEYS.items():
        value = raw.get(name)
        if value is not None and value != []:
            draft.take(name, [value], key=key)
    init = raw.get("init_lora_weights", True)
    if kind == "LORA" and isinstance(init, bool | str) and init in _INITS:
        draft.take("init_lora_weights", [_INITS[init]], key="init")
    elif kind == "LORA":
        draft.note("init_lora_weights", f"{init!r} is no init here")
    for name, value in raw.items():
        if name == "modules_to_save" and value:
            draft.note(name, "new heads are trained and saved by themselves")
        elif name not in (*_KEYS, *_SAID) and value not in (None, False, [], {}, "none", 0, 0.0):
            draft.note(name, f"{value!r}: there is no such setting here")
    return draft
