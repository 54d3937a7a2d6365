"""A Hugging Face model whose adapted layers and head hold K trials' parameters, over one frozen base.

The modules are copied, the frozen weights are not. Rows are K * b: trial k's are the k-th block of b.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.core.spec import Trial
from bench.engine import depths
from bench.engine.adapted import AdaptedEmbedding, AdaptedLayer, converted
from bench.engine.attention import use_keyed_attention
from bench.engine.dropout import KeyedCalls, KeyedDropout, MaskKeys
from bench.engine.hardware import multiplying_in_tf32
from bench.engine.layers import adapted_layers, frozen_layer
from bench.engine.params import ParamBank
from bench.engine.relative import separate_positions
from bench.engine.slots import adapter_slots, base_slots, head_slots, slot_name
from bench.engine.stacked import put, stack_base, stacked, train_base
from bench.methods._base import LayerShape, Method, Role, fixed, require_fit, roles_of
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
        of_adapters, self._starts = adapter_slots(self.model, self.shapes, method, trials)
        self._adapter_names = frozenset(slot.name for slot in of_adapters)
        slots = [*head_slots(head, loaded, trials), *of_adapters]
        if method.trains_base:
            slots += base_slots(self.model, set(loaded.full_names), trials)
        slots = depths.with_depths(slots, self.model, set(loaded.full_names), trials)
        self.params = ParamBank(slots, n_trials=self.n_trials, device=device, dtype=_at_least_fp32(dtype))
        self.model.requires_grad_(False)
        self._install(loaded.full_names)

    def _install(self, head_names: Sequence[str]) -> None:
        known: dict[int, tuple[Tensor, Tensor]] = {}  # what layers have in common is converted once
        for shape in self.shapes:
            layer = self.model.get_submodule(shape.path)
            weights = {name: self.params[slot_name(self.method, shape, name)] for name in self._roles(shape)}
            start = self._starts.pop(shape.path)
            constants = fixed(self.method, self.trials, shape, frozen_layer(layer, shape), start)
            constants = converted(constants, self.params.values, known)
            dropout = self.trials[0].lora_dropout or 0.0
            kind = AdaptedEmbedding if shape.kind == "embedding" else AdaptedLayer
            put(self.model, shape.path, kind(layer, shape, self.method, weights, constants, dropout, self.keys))
        for path in sorted({name.rpartition(".")[0] for name in head_names}):
            put(self.model, path, stacked(self.model.get_submodule(path), path, self.params))
        for name, module in list(self.model.named_modules()):
            if isinstance(module, nn.Dropout):
                put(self.model, name, KeyedDropout(module.p, name, self.keys))
            module._keyed_path = name
        if self.method.trains_base:
            if self.n_trials == 1:
                train_base(self.model, self.params)
            else:
                stack_base(self.model, self.params)
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
        return slot_name(self.method, shape, name)

    def adapters(self, k: int) -> dict[str, dict[str, Tensor]]:
        """Return trial k's adapter parameters at its own shapes, by layer path; a shared one is there at each."""
        found: dict[str, dict[str, Tensor]] = {}
        for shape in self.shapes:
            names = {name: slot_name(self.method, shape, name) for name in self._roles(shape)}
            mine = {name: self.params[slot][k].detach() for name, slot in names.items()}
            found[shape.path] = self.method.unstack(self.trials[k], mine)
        return found

    def _roles(self, shape: LayerShape) -> dict[str, Role]:
        return roles_of(self.method, shape, self.trials[0])

    def _is_adapter(self, name: str) -> bool:
        return name in self._adapter_names

    def _n_shared(self, trial: Trial) -> int:
        return self.method.n_shared(trial) if self.shapes else 0


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


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
