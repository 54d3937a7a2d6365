"""What a trained bank leaves with: a PEFT adapter, where PEFT has the method, or the whole model with updates merged.

PEFT's AutoPeftModel builds the base from what adapter_config.json names, and knows nothing of the task's classes. So a
classifier's adapter brings a directory `base` along: config.json with the task's classes, and links to the weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as chatter

from bench import methods
from bench.core.spec import Trial
from bench.engine.adapted import converted
from bench.engine.bank import Bank
from bench.engine.layers import frozen_layer
from bench.methods._base import LayerShape
from bench.models._base import LoadedModel

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save_adapter(bank: Bank, loaded: LoadedModel, directory: Path, *, base_model: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors of a bank of one trial, as PEFT's save_pretrained does.

    `base_model` is the Hub id or directory from which PEFT's AutoPeftModel takes the base.

    Raises:
        ValueError: for a bank of several trials.
    """
    _check_single(bank)
    save_file(adapter_state(bank, loaded), directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = adapter_config(bank.trials[0], bank.shapes, loaded, base_model=base_model)
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def save_base(loaded: LoadedModel, directory: Path, *, weights: Sequence[Path]) -> None:
    """Write what an adapter stands on: config.json with the task's classes, and links to the checkpoint's `weights`.

    Where the checkpoint's head is of another shape than the task's, the weights are written anew: transformers would
    refuse them.
    """
    directory.mkdir()
    if not loaded.fits_checkpoint:
        _save(loaded.model, directory)
        return
    config = copy.deepcopy(loaded.model.config)
    config.architectures = [type(loaded.model).__name__]
    config.save_pretrained(directory)
    for path in weights:
        (directory / path.name).symlink_to(path.resolve())


def save_merged(bank: Bank, loaded: LoadedModel, directory: Path) -> None:
    """Write the merged model as transformers' save_pretrained does.

    Raises:
        ValueError: for a bank of several trials.
    """
    _save(merged_model(bank, loaded), directory)


def _save(model: PreTrainedModel, directory: Path) -> None:
    shown = chatter.is_progress_bar_enabled()
    chatter.disable_progress_bar()  # one file is written in no time
    try:
        model.save_pretrained(directory)
    finally:
        if shown:
            chatter.enable_progress_bar()


def adapter_state(bank: Bank, loaded: LoadedModel) -> dict[str, Tensor]:
    """Return the adapter's tensors, on the CPU, by PEFT's names, which its method says, and the new head's."""
    state: dict[str, Tensor] = {}
    adapters = bank.adapters(0)
    for shape in bank.shapes:
        own = {name: weight.cpu() for name, weight in adapters[shape.path].items()}
        constants = own_constants(bank, shape, loaded.model.get_submodule(shape.path))
        for name, weight in bank.method.peft_state(bank.trials[0], shape, own, constants).items():
            whose = "base_model" if name.startswith(".") else f"base_model.model.{shape.path}."
            state[f"{whose}{name}"] = weight
    trained = head_state(bank, loaded)
    for name, weight in loaded.model.named_parameters():
        if _top(name, loaded.model) in modules_to_save(loaded):
            state[f"base_model.model.{name}"] = trained.get(name, weight.detach())
    return {name: weight.detach().cpu().contiguous().clone() for name, weight in state.items()}


def adapter_config(
    trial: Trial, shapes: Sequence[LayerShape], loaded: LoadedModel, *, base_model: str
) -> dict[str, Any]:
    """Return PEFT's LoraConfig as it is stored; target_modules are whole names, so that nothing else can match."""
    kinds, method = {shape.kind for shape in shapes}, methods.get(trial.method)
    return {
        "peft_type": method.peft_type,
        "task_type": "SEQ_CLS" if loaded.full_names else "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        **method.peft_saved(trial, shapes),
        **({} if kinds == {"layernorm"} else {"fan_in_fan_out": kinds == {"conv1d"}}),
        "target_modules": [shape.path for shape in shapes],
        "modules_to_save": list(modules_to_save(loaded)),
    }


def modules_to_save(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the new modules by the names that PEFT's modules_to_save takes: classifier, or pooler and classifier."""
    return tuple(dict.fromkeys(_top(name, loaded.model) for name in loaded.full_names))


def head_state(bank: Bank, loaded: LoadedModel) -> dict[str, Tensor]:
    """Return the head's values after training, by parameter name."""
    return {name: bank.params[name][0].detach() for name in loaded.full_names}


def merged_model(bank: Bank, loaded: LoadedModel) -> PreTrainedModel:
    """Return a copy of the model with the head and the update of every layer in it, in at least float32.

    Below that the sum of weight and update would be rounded, and the logits with it. It lies on the CPU.

    Raises:
        ValueError: for a bank of several trials.
    """
    _check_single(bank)
    model: PreTrainedModel = copy.deepcopy(loaded.model).cpu()
    model = model if model.dtype == torch.float64 else model.float()
    with torch.no_grad():
        _put(model, head_state(bank, loaded))
        if bank.method.trains_base:
            _put(model, {name: bank.params[name][0].detach() for name in bank.params.names()})
        for shape in bank.shapes:
            _merge(model, shape, bank)
    return model


def _merge(model: PreTrainedModel, shape: LayerShape, bank: Bank) -> None:
    own = {name: weight[None].cpu() for name, weight in bank.adapters(0)[shape.path].items()}
    module: Any = model.get_submodule(shape.path)
    constants = own_constants(bank, shape, module)
    _untie(model, module)
    delta = bank.method.weight_delta(own, constants, shape)[0]
    module.weight += (delta.T if shape.kind == "conv1d" else delta).to(module.weight)
    bias_delta = bank.method.bias_delta(own, constants)
    if bias_delta is not None:
        module.bias += bias_delta[0].to(module.bias)


def own_constants(bank: Bank, shape: LayerShape, layer: torch.nn.Module) -> dict[str, Any]:
    """Return the constants of an adapted layer on the CPU, where `layer` is the frozen one."""
    adapted: Any = bank.model.get_submodule(shape.path)
    found = converted(adapted.constants, torch.empty(0, dtype=bank.params.values.dtype), {})
    return {**found, "frozen": frozen_layer(layer, shape)}


def _untie(model: PreTrainedModel, module: Any) -> None:
    """Give a module that shares its weight with another, as tied embeddings do, a weight of its own to merge into."""
    sharing = [other for other in model.modules() if getattr(other, "weight", None) is module.weight]
    if len(sharing) < 2:
        return
    module.weight = torch.nn.Parameter(module.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _put(model: PreTrainedModel, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameter = model.get_parameter(name)
        parameter.copy_(value.to(parameter))


def _top(name: str, model: PreTrainedModel) -> str:
    """Return the first part of a parameter's name below the base model's prefix."""
    return name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]


def _check_single(bank: Bank) -> None:
    if bank.n_trials != 1:
        raise ValueError(f"a bank of one trial leaves with its weights, but this one has {bank.n_trials}")
