"""Which layers of a model a method adapts, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bench.core.errors import BadInput, one_of
from bench.core.spec import Trial
from bench.engine import peft_targets
from bench.engine.relative import table_bias
from bench.methods._base import Frozen, LayerShape, Method
from bench.models import targets


def adapted_layers(
    model: PreTrainedModel, method: Method, trial: Trial, head_names: Sequence[str]
) -> tuple[LayerShape, ...]:
    """Return the layers that the method adapts: those that target_modules names, or all with a bias.

    Raises:
        BadInput: where there are none, or one of them is of a kind that cannot hold K trials.
    """
    if method.adapts == "norms":
        return _together(_shape(path, model.get_submodule(path)) for path in _norms(model, method, set(head_names)))
    if method.adapts == "biases":
        return _together(_shape(path, model.get_submodule(path)) for path in _biased(model, method, set(head_names)))
    if trial.target_modules is None:
        return ()
    found = targets.candidates(model, head_names)
    chosen = targets.match_targets(found, trial.target_modules, trial.layers_to_transform)
    peft_targets.check_targets(model.config, found, chosen, trial.target_modules)
    return _together(_shape(path, model.get_submodule(path)) for path in chosen)


def _together(shapes: Iterable[LayerShape]) -> tuple[LayerShape, ...]:
    """Return the layers, each of which knows the widest of them."""
    found = tuple(shapes)
    n_in, n_out = (max((getattr(s, side) for s in found), default=0) for side in ("in_features", "out_features"))
    return tuple(replace(shape, widest_in=n_in, widest_out=n_out) for shape in found)


def _biased(model: PreTrainedModel, method: Method, head_names: set[str]) -> list[str]:
    """Return the paths of all modules outside the head that have a bias."""
    where = f"method {method.name}"
    names = [n for n, _ in model.named_parameters() if n.endswith("bias") and n not in head_names]
    if not names:
        got, way_out = f"none in {model.config.model_type}", "use lora, or a model with biases"
        raise BadInput(where, "the model must have biases", got=got, way_out=way_out)
    for name in names:
        path, _, leaf = name.rpartition(".")
        if leaf != "bias" or not isinstance(model.get_submodule(path), nn.Linear | nn.LayerNorm | Conv1D):
            rule = "every bias must be that of a Linear, Conv1D or LayerNorm"
            raise BadInput(where, rule, got=name, way_out="use lora, or another model")
    if any(table_bias(module) for module in model.modules()):
        # the table goes through a LayerNorm that sees no rows: its K biases would have nowhere to go
        rule = "a table of relative positions, which all trials share, must not pass a trained bias"
        raise BadInput(where, rule, got=model.config.model_type, way_out="use lora, or another model")
    return [name.rpartition(".")[0] for name in names]


def _norms(model: PreTrainedModel, method: Method, head_names: set[str]) -> list[str]:
    """Return the paths of all LayerNorms outside the head."""
    in_head = {name.rpartition(".")[0] for name in head_names}
    named = {path: module for path, module in model.named_modules() if path not in in_head}
    found = [path for path, module in named.items() if isinstance(module, nn.LayerNorm)]
    other = [path for path, module in named.items() if type(module).__name__.endswith("Norm") and path not in found]
    bare = [path for path in found if getattr(named[path], "bias", None) is None]
    if not found or other or bare or any(table_bias(module) for module in named.values()):
        rule = "every norm must be a LayerNorm with weight and bias that sees rows of its own trial"
        got = one_of((other or bare)[:3]) if other or bare else model.config.model_type
        raise BadInput(f"method {method.name}", rule, got=got, way_out="use lora, or another model")
    return found


def _shape(path: str, module: Any) -> LayerShape:
    if isinstance(module, nn.Embedding):
        n_in, n_out = module.weight.shape
        return LayerShape(path=path, in_features=n_in, out_features=n_out, kind="embedding")
    if isinstance(module, nn.LayerNorm):
        (width,) = module.normalized_shape
        return LayerShape(path=path, in_features=width, out_features=width, kind="layernorm")
    if isinstance(module, Conv1D):
        n_in, n_out = module.weight.shape
        return LayerShape(path=path, in_features=n_in, out_features=n_out, kind="conv1d")
    return LayerShape(path=path, in_features=int(module.in_features), out_features=int(module.out_features))


def frozen_weight(layer: nn.Module, shape: LayerShape) -> Tensor | None:
    """Return the weight that a method adapts, as `Method.init` gets it; None where the layer has none."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    return weight.detach().T if shape.kind == "conv1d" else weight.detach()


def frozen_layer(layer: nn.Module, shape: LayerShape) -> Frozen:
    """Return the layer as its adapter sees it, detached."""
    bias = getattr(layer, "bias", None)
    detached = bias.detach() if isinstance(bias, Tensor) else None
    return Frozen(weight=frozen_weight(layer, shape), bias=detached, eps=float(getattr(layer, "eps", 0.0)))
