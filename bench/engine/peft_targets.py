"""target_modules that PEFT takes for something else than Linears of these names, or refuses: refused here too.

In mixtures whose experts are one 3-D parameter PEFT takes the names that such a layer had when each expert was a module
(w1, gate_proj, ...) for that parameter and the router, whole paths and "all-linear" included, and a regular expression
for the last parts of the names that it matches. In Mambas it adapts no out_proj: their kernels read its weight past it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN

from bench.core.errors import BadInput, one_of
from bench.models._targets import ALL_LINEAR, Candidate

# peft 0.21, utils/transformers_weight_conversion.py: _MOE_TARGET_MODULE_MAPPING's names of parts of experts
_NAMES = {
    "mixtral": ("gate", "w1", "w2", "w3"),
    "qwen2_moe": ("gate", "gate_proj", "up_proj", "down_proj"),
}
_MAMBAS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")  # peft 0.21, tuners/tuners_utils.py
_NOT_IN_MAMBAS = {"out_proj", "conv1d"}


def check_targets(
    config: Any, modules: Sequence[Candidate], chosen: Sequence[str], target_modules: str | Sequence[str]
) -> None:
    """Refuse target_modules that PEFT refuses for this architecture, or takes for its experts or for more layers.

    Raises:
        BadInput: where a LoraConfig with these target_modules trains something else under PEFT.
    """
    model_type = config.model_type
    leaves = {path.rpartition(".")[2] for path in chosen}
    if model_type in _MAMBAS and leaves & _NOT_IN_MAMBAS:
        rule = f"PEFT adapts no out_proj of {model_type}, whose kernels read its weight themselves"
        way_out = "name modules, such as in_proj"
        raise BadInput("target_modules", rule, got=repr(target_modules), way_out=way_out)
    names = _NAMES.get("mixtral" if model_type == "mixtral" else _MODEL_TO_CONVERSION_PATTERN.get(model_type, ""))
    if names is None:
        return
    known = one_of({m.name.rpartition(".")[2] for m in modules if not m.head and not m.output} - set(names))
    rule = f"the experts of {model_type}, one parameter for all of them, which PEFT adapts too, cannot be adapted"
    if isinstance(target_modules, str) and target_modules.lower() == ALL_LINEAR:
        raise BadInput("target_modules", rule, got=f'"{ALL_LINEAR}"', way_out=f"name modules out of {known}")
    if leaves & set(names):
        raise BadInput("target_modules", rule, got=one_of(leaves & set(names)), way_out=f"name modules out of {known}")
    if isinstance(target_modules, str):
        more = [m.name for m in modules if m.name.rpartition(".")[2] in leaves and m.name not in chosen]
        if more:
            rule = f"a regular expression must take all layers of {model_type} alike, as PEFT makes it do"
            way_out = "use a list of names with layers_to_transform"
            raise BadInput("target_modules", rule, got=repr(target_modules), way_out=way_out)
