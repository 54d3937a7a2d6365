"""A Hugging Face model whose adapted layers and head hold K trials' parameters, over one frozen base.

The modules are copied, the frozen weights are not. Rows are K * b: trial k's are the k-th block of b.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bench.core.errors import BadInput, one_of
from bench.core.seeds import derive
from bench.core.spec import Trial
from bench.engine import depths, peft_targets
from bench.engine.attention import use_keyed_attention
from bench.engine.dropout import KeyedCalls, KeyedDropout, MaskKeys, drop_rows, drop_table
from bench.engine.hardware import multiplying_in_tf32
from bench.engine.params import ParamBank, Slot
from bench.engine.relative import separate_positions, table_bias
from bench.engine.stacked import StackedEmbedding, StackedLayerNorm, StackedLinear
from bench.methods._base import Frozen, LayerShape, Method, Role, fixed, require_fit, roles_of
from bench.models import targets
from bench.models._base import LoadedModel
from bench.models._nf4 import n_parameters


class Bank:
    """A pack's model: `model` with K trials' parameters, which `params` owns, and the keys of its dropout masks."""

    def __init__(
        self, loaded: LoadedModel, trials: Sequence[Trial], method: Method, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.trials, self.method, self.n_trials = tuple(trials), method, len(trials)
        self.keys = MaskKeys(trials[0].seed, n_trials=len(trials))
        self.keyed_calls = False  # set where the model drops by function calls: they are keyed too
        self.only_keyed_masks = False  # set where the model draws masks that are not keyed: they are left out
        self.device, self.dtype = device, dtype
        self.model = copied(loaded.model, share=not method.trains_base).to(device)
        self.n_base = n_parameters(self.model)
        self.shapes = () if method.trains_base else adapted_layers(self.model, method, trials[0], loaded.full_names)
        _check(trials, method, self.shapes)
        self.new_names = [loaded.new_names(reinit_head=trial.reinit_head) for trial in trials]
        head = {name: self.model.get_parameter(name) for name in loaded.full_names}
        adapter_slots, self._starts = _adapter_slots(self.model, self.shapes, method, trials)
        self._adapter_names = frozenset(slot.name for slot in adapter_slots)
        slots = [*_head_slots(head, loaded, trials), *adapter_slots]
        if method.trains_base:
            slots += _base_slots(self.model, set(loaded.full_names), trials)
        slots = depths.with_depths(slots, self.model, set(loaded.full_names), trials)
        self.params = ParamBank(slots, n_trials=self.n_trials, device=device, dtype=_at_least_fp32(dtype))
        self.model.requires_grad_(False)
        self._install(loaded.full_names)

    def _install(self, head_names: Sequence[str]) -> None:
        known: dict[int, tuple[Tensor, Tensor]] = {}  # what layers have in common is converted once
        for shape in self.shapes:
            layer = self.model.get_submodule(shape.path)
            weights = {name: self.params[_slot_name(self.method, shape, name)] for name in self._roles(shape)}
            start = self._starts.pop(shape.path)
            constants = fixed(self.method, self.trials, shape, frozen_layer(layer, shape), start)
            constants = converted(constants, self.params.values, known)
            dropout = self.trials[0].lora_dropout or 0.0
            kind = AdaptedEmbedding if shape.kind == "embedding" else AdaptedLayer
            _put(self.model, shape.path, kind(layer, shape, self.method, weights, constants, dropout, self.keys))
        for path in sorted({name.rpartition(".")[0] for name in head_names}):
            _put(self.model, path, _stacked(self.model.get_submodule(path), path, self.params))
        for name, module in list(self.model.named_modules()):
            if isinstance(module, nn.Dropout):
                _put(self.model, name, KeyedDropout(module.p, name, self.keys))
            module._keyed_path = name
        if self.method.trains_base:
            if self.n_trials == 1:
                _train_base(self.model, self.params)
            else:
                _stack_base(self.model, self.params)
        use_keyed_attention(self.model, self.keys)
        separate_positions(self.model, self.keys, self.n_trials)

    @property
    def is_half(self) -> bool:
        """Return whether the base is computed with in 16 bits."""
        return self.dtype in (torch.bfloat16, torch.float16)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Draw dropout masks while inside; where the model draws some of its own, only the keyed ones."""
        self.keys.training = True
        if not self.only_keyed_masks:
            self.model.train()
        try:
            calls = KeyedCalls(self.keys) if self.keyed_calls else nullcontext()
            with self.params.unchanged(), calls, self._products():  # backward, too
                yield
        finally:
            self.keys.training = False
            self.model.eval()

    def precision(self) -> AbstractContextManager[None]:
        """Compute in half precision while inside, where the weights themselves are trained and stay in float32.

        A frozen base is in half precision already.
        """
        if self.method.trains_base and self.is_half:
            return torch.autocast(self.device.type, self.dtype)
        return self._products()

    def _products(self) -> AbstractContextManager[None]:
        """Multiply as the trials' precision says while inside: tf32 is float32 with rounded factors."""
        return multiplying_in_tf32() if self.trials[0].budget.precision == "tf32" else nullcontext()

    def n_trainable(self, trial: Trial) -> int:
        """Return how many numbers are trained in one trial, head included, padding of shorter ranks excluded."""
        adapters = sum(self.method.n_trainable(trial, shape) for shape in self.shapes) + self._n_shared(trial)
        own = [n for n in self.params.names() if not self._is_adapter(n)]
        return adapters + sum(self.params.trained(name)[0].numel() for name in own)

    def n_total(self, trial: Trial) -> int:
        """Return all parameters of one trial's model: base, head and adapters."""
        return self.n_base + sum(self.method.n_added(trial, shape) for shape in self.shapes) + self._n_shared(trial)

    def slot(self, shape: LayerShape, name: str) -> str:
        """Return by which name `params` holds a layer's parameter."""
        return _slot_name(self.method, shape, name)

    def adapters(self, k: int) -> dict[str, dict[str, Tensor]]:
        """Return trial k's adapter parameters at its own shapes, by layer path; a shared one is there at each."""
        found: dict[str, dict[str, Tensor]] = {}
        for shape in self.shapes:
            names = {name: _slot_name(self.method, shape, name) for name in self._roles(shape)}
            mine = {name: self.params[slot][k].detach() for name, slot in names.items()}
            found[shape.path] = self.method.unstack(self.trials[k], mine)
        return found

    def _roles(self, shape: LayerShape) -> dict[str, Role]:
        return roles_of(self.method, shape, self.trials[0])

    def _is_adapter(self, name: str) -> bool:
        return name in self._adapter_names

    def _n_shared(self, trial: Trial) -> int:
        return self.method.n_shared(trial) if self.shapes else 0


class AdaptedLayer(nn.Module):
    """A frozen Linear, Conv1D, LayerNorm or Embedding plus what the method adds for each trial."""

    def __init__(
        self,
        layer: nn.Module,
        shape: LayerShape,
        method: Method,
        weights: Mapping[str, Tensor],
        constants: Mapping[str, Any],
        dropout: float,
        keys: MaskKeys,
    ) -> None:
        super().__init__()
        self.layer, self.shape, self.method, self.dropout, self.keys = layer, shape, method, dropout, keys
        self.weights, self.constants = dict(weights), dict(constants)
        self.n_trials = next(iter(weights.values())).shape[0]

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for models that ask a layer for its dtype."""
        return self.layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, for models that add it by themselves (Mamba), as they do under PEFT."""
        return getattr(self.layer, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the adapters' added, for x [K * b, ..., in].

        Raises:
            BadInput: where the rows are no multiple of K * b.
        """
        if self.keys.rows is not None:
            h = self.layer(x)
            return self.keys.rows.each(self.output, h, x).reshape(h.shape)
        if self.keys.table_trial is None:
            self._check_rows(x)
        x = shared_part(x, self.n_trials, self.keys)
        h = self.layer(x)
        mask_path = f"{self.shape.path}.lora_dropout"
        if self.keys.table_trial is not None:
            k = self.keys.table_trial
            return self.output(h, drop_table(x, self.dropout, mask_path, self.keys), dropped=self._drops)[k : k + 1]
        seen = drop_rows(x, self.dropout, mask_path, self.keys) if self._drops else x
        if self._is_shared(x):
            return self.output(h, seen, self._drops)
        by_trial = (self.n_trials, -1)
        y_KxNxO = self.output(h.reshape(*by_trial, h.shape[-1]), seen.reshape(*by_trial, x.shape[-1]), self._drops)
        return y_KxNxO.view_as(h)

    def output(self, h: Tensor, seen: Tensor, dropped: bool = False, *, overwrite: bool = False) -> Tensor:
        """Return each trial's output, [K, N, O], of the frozen layer's, [K or 1, N, O]: every path ends here.

        `seen` [K or 1, N, I] is what the adapters see, with `dropped` the layer's input after dropout. With `overwrite`
        h is a product of which no gradient is made, and may be lost.
        """
        if not self.method.adds:
            return self.method.output(self.weights, self.constants, h, seen, dropped=dropped)
        return add(h, self.delta(seen)) if overwrite else h + self.delta(seen)

    def delta(self, x_KxNxI: Tensor) -> Tensor:
        """Return the adapters' part for each trial, [K, N, O], in x's dtype; x may be shared, [1, N, I]."""
        params = self.method.computed(self.weights, self.constants, x_KxNxI)
        return self.method.delta(params, self.constants, x_KxNxI)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the method's two factors in x's type, or None where it does not add a product of two."""
        if not self.method.adds:
            return None
        return self.method.factors(self.method.computed(self.weights, self.constants, x), self.constants)

    def mask(self, x_SxNxI: Tensor) -> Tensor | None:
        """Return the mask of the adapter's input, a packed stream, that is drawn now: [1, N, I]; None: no dropout."""
        if not self._drops or self.keys.token_key is None:
            return None
        path = f"{self.shape.path}.lora_dropout"
        return self.keys.mask(path, self.dropout, self.keys.token_key, x_SxNxI.shape[-1], x_SxNxI.dtype)

    def output_of(self, h: Tensor, x_SxNxI: Tensor) -> Tensor:
        """Return each trial's output for a packed stream, dropout included, of the frozen layer's: [K, N, O]."""
        mask = self.mask(x_SxNxI)
        return self.output(h, x_SxNxI if mask is None else x_SxNxI * mask, mask is not None)

    def _check_rows(self, x: Tensor) -> None:
        """Refuse an input whose leading axis is not that of the chunk's examples: trials could not be told apart."""
        b = 1 if self.keys.first_key is None else self.keys.first_key.shape[0]
        if x.shape[0] % (self.n_trials * b) and not self._is_shared(x):
            rule = f"K * b rows must come in, for K={self.n_trials} trials and b={b} examples"
            way_out = "leave it out of target_modules, or use another architecture"
            raise BadInput(f"model, layer {self.shape.path}", rule, got=f"shape {tuple(x.shape)}", way_out=way_out)

    def _is_shared(self, x: Tensor) -> bool:
        """Return whether x is a packed stream that is the same for all trials: [1, N, ...]."""
        return self.keys.lengths is not None and x.shape[0] == 1 and self.n_trials > 1

    @property
    def _drops(self) -> bool:
        return self.dropout > 0 and self.keys.training


def shared_part(x: Tensor, n_trials: int, keys: MaskKeys) -> Tensor:
    """Return x[:1] where x is one packed stream seen K times over, without a step between trials; else x."""
    is_one = keys.lengths is not None and n_trials > 1 and x.ndim > 2 and x.shape[0] == n_trials and x.stride(0) == 0
    return x[:1] if is_one else x


class AdaptedEmbedding(AdaptedLayer):
    """A frozen Embedding plus what the method adds for each trial; there is no dropout on ids."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embedding with the adapters' added, for ids [K * b, T]."""
        if self.keys.rows is not None:
            return self.layer(ids) + self.keys.rows.each(self.delta, ids)
        self._check_rows(ids)
        h = self.layer(ids)
        if self._is_shared(ids):
            return h + self.delta(ids[0])
        return h + self.delta(ids.reshape(self.n_trials, -1)).view_as(h)

    def delta(self, x_KxNxI: Tensor) -> Tensor:
        """Return the adapters' part for each trial and id, [K, N, O]."""
        return scaled_as(self.layer, super().delta(x_KxNxI))


def scaled_as(table: nn.Module, delta: Tensor) -> Tensor:
    """Return an embedding's delta times what the table multiplies its rows by (Gemma), as PEFT does: a merge has it."""
    scale = getattr(table, "embed_scale", None)
    return delta if scale is None else delta * (scale.to(delta.dtype) if isinstance(scale, Tensor) else scale)


def add(h_SxNxO: Tensor, delta_KxNxO: Tensor) -> Tensor:
    """Return the sum of a product, which may be overwritten since no gradient is made of it, and another stream."""
    if h_SxNxO.shape[0] < delta_KxNxO.shape[0] or h_SxNxO.dtype != delta_KxNxO.dtype:
        return h_SxNxO + delta_KxNxO
    return h_SxNxO.add_(delta_KxNxO)


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


def _check(trials: Sequence[Trial], method: Method, shapes: Sequence[LayerShape]) -> None:
    if len({(trial.seed, trial.budget, method.pack_key(trial)) for trial in trials}) > 1:
        raise ValueError("the trials of a pack share seed, budget and their method's pack_key")
    for trial in trials:
        require_fit(method, trial, shapes)


def copied(model: PreTrainedModel, *, share: bool) -> PreTrainedModel:
    """Return a copy of the modules; with `share`, the weights are the same tensors as in the original."""
    memo: dict[int, Any] = {}
    if share:
        memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
    copied: PreTrainedModel = copy.deepcopy(model, memo).eval()
    return copied


def _head_slots(head: Mapping[str, nn.Parameter], loaded: LoadedModel, trials: Sequence[Trial]) -> list[Slot]:
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


def _adapter_slots(
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
            slot = _slot_name(method, shape, name)
            slots.setdefault(slot, Slot(name=slot, role=roles[name], values=stacked[name]))
    return list(slots.values()), starts


def _check_numbers(method: Method, trial: Trial, shape: LayerShape, weight: Tensor | None) -> None:
    """Refuse a base whose weights are packed bits where the method computes with their numbers."""
    if not (method.needs_weight or method.keeps_start(trial)) or weight is None or weight.is_floating_point():
        return
    rule, got = "computes with the frozen weights, which must be numbers", f"{weight.dtype} at {shape.path}"
    raise BadInput(f"method {method.name}", rule, got=got, way_out="use lora, or a base in bf16")


def _slot_name(method: Method, shape: LayerShape, name: str) -> str:
    """Return the name of a layer's parameter: that of the method and of all layers where it is shared."""
    return f"{method.name}.{name}" if name in method.shared else f"{shape.path}.{name}"


def _base_slots(model: PreTrainedModel, head_names: set[str], trials: Sequence[Trial]) -> list[Slot]:
    named = {name: p.detach() for name, p in model.named_parameters() if name not in head_names}
    tables = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    chosen = depths.trained_base(named, trials[0].layers_to_transform)
    return [
        Slot(name=n, role=Role.BASE, values=named[n].expand(len(trials), *named[n].shape), is_table=n in tables)
        for n in chosen
    ]


def _generator(seed: int, path: str, role: str, shape: tuple[int, ...]) -> torch.Generator:
    return torch.Generator().manual_seed(derive("init", seed, path, role, shape))


def _train_base(model: PreTrainedModel, params: ParamBank) -> None:
    """Make every pretrained weight a view of the buffer: K is 1, so a [1, ...] parameter is the weight itself.

    A weight with two names, as of an output layer that is tied to the embedding, stays one.
    """
    fresh: dict[int, nn.Parameter] = {}
    for name in params.names():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if leaf in module._parameters:
            stacked = params.trained(name)
            weight = nn.Parameter(stacked.detach()[0])
            weight.grad = None if stacked.grad is None else stacked.grad[0]
            fresh[id(module._parameters[leaf])] = weight
    for module in model.modules():
        for leaf, old in list(module._parameters.items()):
            if id(old) in fresh:
                module._parameters[leaf] = fresh[id(old)]


def _stack_base(model: PreTrainedModel, params: ParamBank) -> None:
    """Put K weights of their own in the place of every pretrained module that has some."""
    for path in dict.fromkeys(name.rpartition(".")[0] for name in params.names()):
        module = model.get_submodule(path)
        if isinstance(module, nn.Embedding):
            _put(model, path, StackedEmbedding(params[f"{path}.weight"], path))
        elif not isinstance(module, StackedLinear | StackedLayerNorm):  # the new head is stacked already
            _put(model, path, _stacked(module, path, params))


def _stacked(module: nn.Module, path: str, params: ParamBank) -> nn.Module:
    if isinstance(module, nn.Linear):
        return StackedLinear(params[f"{path}.weight"], None if module.bias is None else params[f"{path}.bias"], path)
    if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        bias_KxD = None if module.bias is None else params[f"{path}.bias"]
        return StackedLayerNorm(params[f"{path}.weight"], bias_KxD, module.eps)
    raise BadInput(
        "model", "a module with K weights of its own must be a Linear or a LayerNorm",
        got=f"{type(module).__name__} at {path}", way_out="use a checkpoint that brings this module's weights",
    )  # fmt: skip


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def converted(constants: Mapping[str, Any], like: Tensor, known: dict[int, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return a layer's constants in the parameters' precision and place; the frozen layer stays as it is."""
    found: dict[str, Any] = {}
    for name, value in constants.items():
        if isinstance(value, Mapping):
            found[name] = converted(value, like, known)
        elif isinstance(value, Tensor):
            dtype = like.dtype if value.is_floating_point() else value.dtype
            found[name] = known.setdefault(id(value), (value, value.to(like.device, dtype)))[1]
        else:
            found[name] = value
    return found


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
