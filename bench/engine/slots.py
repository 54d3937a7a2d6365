"""What a pack trains, before it has a place: head, adapters and base of K trials, drawn or as the checkpoint is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.core.errors import BadInput
from bench.core.seeds import derive
from bench.core.spec import Trial
from bench.engine import depths
from bench.engine.layers import frozen_weight
from bench.engine.params import Slot
from bench.methods._base import LayerShape, Method, Role, roles_of
from bench.models._base import LoadedModel


def head_slots(head: Mapping[str, nn.Parameter], loaded: LoadedModel, trials: Sequence[Trial]) -> list[Slot]:
    """Return the head's parameters: the checkpoint's where it gives them, the others drawn anew for each seed.

    New are N(0, initializer_range) weights and zero biases, as BERT's _init_weights in transformers has them, keyed
    by (seed, path, role, shape), so that every method and cell of a seed begins with the same head.
    """
    config = loaded.model.config
    std = getattr(config, "initializer_range", None)
    std = float(getattr(config.get_text_config(), "initializer_range", 0.02) if std is None else std)
    new_K = [set(loaded.new_names(reinit_head=trial.reinit_head)) for trial in trials]
    slots = []
    for name, parameter in head.items():
        role = _head_role(name, parameter, trials[0])
        module = loaded.model.get_submodule(name.rpartition(".")[0])
        values = [
            _head_value(t.seed, name, role, parameter, module, std) if name in new else parameter.detach().cpu()
            for t, new in zip(trials, new_K, strict=True)
        ]
        slots.append(Slot(name=name, role=role, values=torch.stack(values)))
    return slots


def _head_role(name: str, parameter: nn.Parameter, trial: Trial) -> Role:
    """head_policy "paper" leaves RoBERTa's classifier.dense at its random values (run_glue.py of the LoRA+ code)."""
    if trial.head_policy == "paper" and name.startswith("classifier.dense."):
        return Role.FROZEN_HEAD
    return Role.HEAD_WEIGHT if parameter.ndim > 1 else Role.HEAD_BIAS


def _head_value(seed: int, name: str, role: Role, parameter: nn.Parameter, module: nn.Module, std: float) -> Tensor:
    if parameter.ndim > 1:
        # the role is written as HEAD_WEIGHT also where it is frozen: head_policy must not change the values
        generator = _generator(seed, name, Role.HEAD_WEIGHT, tuple(parameter.shape))
        return torch.empty(parameter.shape, dtype=torch.float32).normal_(0, std, generator=generator)
    is_norm_weight = isinstance(module, nn.LayerNorm) and name.endswith(".weight")
    return torch.full(parameter.shape, float(is_norm_weight))


def adapter_slots(
    model: nn.Module, shapes: Sequence[LayerShape], method: Method, trials: Sequence[Trial]
) -> tuple[list[Slot], dict[str, dict[str, Tensor]]]:
    """Return the slots of all layers, and by path what each layer's parameters are at first."""
    slots: dict[str, Slot] = {}
    starts: dict[str, dict[str, Tensor]] = {}
    for shape in shapes:
        size = (shape.out_features, shape.in_features)
        weight = frozen_weight(model.get_submodule(shape.path), shape)
        _check_numbers(method, trials[0], shape, weight)
        inits = [method.init(t, shape, _generator(t.seed, shape.path, "adapter", size), weight) for t in trials]
        starts[shape.path] = stacked = method.stack(inits)
        roles = roles_of(method, shape, trials[0])
        if set(stacked) != set(roles):
            raise ValueError(f"{method.name}: each parameter has exactly one role, got {set(stacked)} and {set(roles)}")
        for name in roles:
            slot = slot_name(method, shape, name)
            slots.setdefault(slot, Slot(name=slot, role=roles[name], values=stacked[name]))
    return list(slots.values()), starts


def _check_numbers(method: Method, trial: Trial, shape: LayerShape, weight: Tensor | None) -> None:
    """Refuse a base whose weights are packed bits where the method computes with their numbers."""
    if not (method.needs_weight or method.keeps_start(trial)) or weight is None or weight.is_floating_point():
        return
    rule, got = "computes with the frozen weights, which must be numbers", f"{weight.dtype} at {shape.path}"
    raise BadInput(f"method {method.name}", rule, got=got, way_out="use lora, or a base in bf16")


def slot_name(method: Method, shape: LayerShape, name: str) -> str:
    """Return the name of a layer's parameter: that of the method and of all layers where it is shared."""
    return f"{method.name}.{name}" if name in method.shared else f"{shape.path}.{name}"


def base_slots(model: PreTrainedModel, head_names: set[str], trials: Sequence[Trial]) -> list[Slot]:
    """Return the pretrained weights that are trained, the same for every trial at first."""
    named = {name: p.detach() for name, p in model.named_parameters() if name not in head_names}
    tables = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    chosen = depths.trained_base(named, trials[0].layers_to_transform)
    return [
        Slot(name=n, role=Role.BASE, values=named[n].expand(len(trials), *named[n].shape), is_table=n in tables)
        for n in chosen
    ]


def _generator(seed: int, path: str, role: str, shape: tuple[int, ...]) -> torch.Generator:
    return torch.Generator().manual_seed(derive("init", seed, path, role, shape))
