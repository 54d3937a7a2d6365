"""The ways to serve K adapters on one base, each from requests to the logits that follow them.

merged: an adapter in the weights, a whole model for each. unmerged: PEFT beside the weights, a model object for each
over one copy of the weights. swapped: one PEFT model that holds all, `set_adapter` before each adapter's requests.
mixed: this engine's rows of any adapter in one forward pass. PEFT knows no bottleneck adapters: theirs are this
engine's, unmerged and mixed; a non-linear map is not merged.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench import methods
from bench.core.seeds import derive
from bench.core.spec import Trial
from bench.engine.bank import Bank, copied
from bench.engine.batching import Batches
from bench.engine.generate import behind_last, takes_of
from bench.engine.paths import BankPath
from bench.engine.trial_rows import TrialRows
from bench.models._base import LoadedModel
from bench.timing.deploy.rows import BASE, LORA
from bench.timing.deploy.saved import Saved
from bench.timing.peers.timer import Timer

SPREAD = 0.02  # standard deviation of a bottleneck adapter's made-up weights
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Prompts, as places in a split, and whose adapter each one asks for."""

    split: Batches
    place_R: Ints
    adapter_R: Ints

    def __len__(self) -> int:
        return len(self.place_R)

    @property
    def tokens(self) -> int:
        """Real tokens of the prompts."""
        assert self.split.prompt_lengths is not None
        return int(self.split.prompt_lengths[self.place_R].sum())

    def at(self, rows: Ints) -> Requests:
        """Return some of them."""
        return replace(self, place_R=self.place_R[rows], adapter_R=self.adapter_R[rows])


Serve = Callable[[Requests], Tensor]  # the logits behind each prompt: [R, V]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to serve: the kind of adapter, whose code it is, bytes of its weights."""

    kind: str
    name: str
    by: str
    weight_bytes: int
    serve: Serve
    switch: Callable[[int], object] | None = None  # to requests of adapter k; None: nothing is to be done


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """The ways that there are, why others are not ((kind, name) -> reason), and the seconds to merge each adapter."""

    ways: tuple[Way, ...]
    refused: dict[tuple[str, str], str]
    merge_seconds: tuple[float | None, ...]


def build(
    adapters: Sequence[Saved], trials: Sequence[Trial], loaded: LoadedModel, timer: Timer, *, bottleneck: bool
) -> Built:
    """Return every way to serve these adapters; `loaded` stays as it is.

    With `bottleneck` there are as many sequential and parallel adapters of the same layers and the largest rank, with
    made-up weights, since their speed does not depend on them.
    """
    base, names = loaded.model, [one.name for one in adapters]
    alone = [_peft(copied(base, share=True), [one]) for one in adapters]
    every = _peft(copied(base, share=True), adapters)

    def switched(k: int) -> Any:
        every.set_adapter(names[k])
        return every

    def by_peft(name: str, model_of: Callable[[int], Any], *models: Any, **more: Any) -> Way:
        of_one = _of_model(model_of, base)
        return Way(kind=LORA, name=name, by="PEFT", weight_bytes=bytes_of(*models), serve=_grouped(of_one), **more)

    whole = _of_model(lambda k: base, base)
    found = [
        Way(kind=BASE, name="base", by="transformers", weight_bytes=bytes_of(base), serve=lambda some: whole(0, some)),
        by_peft("unmerged", alone.__getitem__, *alone),
        by_peft("swapped", switched, every, switch=switched),
        _mixed(LORA, _bank(loaded, trials, adapters)),
    ]
    seconds: list[float | None] = [None] * len(adapters)
    refused = {}
    if adapters[0].base_precision == "same":
        merged, seconds = _merged(base, adapters, timer)
        found.insert(1, by_peft("merged", merged.__getitem__, *merged))
    else:
        refused[LORA, "merged"] = "not into 4 bits"
    for name in _unmerged() if bottleneck else ():
        found += _bottleneck(name, trials, loaded)
        label = methods.get(name).label
        refused |= {(label, "merged"): "does not merge", (label, "swapped"): "PEFT has none"}
    return Built(ways=tuple(found), refused=refused, merge_seconds=tuple(seconds))


def bytes_of(*models: Any) -> int:
    """Return the bytes of the models' weights, those that they share once."""
    tensors = {t.data_ptr(): t for model in models for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _grouped(of_one: Callable[[int, Requests], Tensor]) -> Serve:
    """Return what serves each adapter's requests by a forward pass of their own."""

    def serve(requests: Requests) -> Tensor:
        order = np.argsort(requests.adapter_R, kind="stable")
        wanted = np.unique(requests.adapter_R).tolist()
        parts = [of_one(k, requests.at(np.flatnonzero(requests.adapter_R == k))) for k in wanted]
        return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(parts[0].device)]

    return serve


def _of_model(model_of: Callable[[int], Any], base: Any) -> Callable[[int, Requests], Tensor]:
    """Return what serves requests of one adapter by the model that `model_of` gives."""
    takes, pad_id = takes_of(base), BankPath.pad_id(base.config)

    @torch.no_grad()
    def serve(k: int, requests: Requests) -> Tensor:
        return behind_last(model_of(k), *requests.split.prompts(requests.place_R, pad_id), takes=takes)

    return serve


def _mixed(kind: str, bank: Bank) -> Way:
    """Return one forward pass of this engine over rows of any adapter."""
    takes, pad_id, values = takes_of(bank.model), BankPath.pad_id(bank.model.config), bank.params.values

    @torch.no_grad()
    def serve(requests: Requests) -> Tensor:
        prompts = requests.split.prompts(requests.place_R, pad_id)
        bank.keys.rows = TrialRows.of(requests.adapter_R, bank.n_trials, bank.device)
        try:
            return behind_last(bank.model, *prompts, takes=takes)
        finally:
            bank.keys.rows = None

    size = bytes_of(bank.model) + values.numel() * values.element_size()
    return Way(kind=kind, name="mixed", by="lorasweep", weight_bytes=size, serve=serve)


def _peft(model: Any, adapters: Sequence[Saved]) -> Any:
    """Return a model as PEFT wraps it, with these adapters from their files, the first one active."""
    from peft import PeftModel

    first, *others = adapters
    wrapped = PeftModel.from_pretrained(model, str(first.directory), adapter_name=first.name)
    for one in others:
        wrapped.load_adapter(str(one.directory), adapter_name=one.name)
    return wrapped.eval()


def _merged(base: Any, adapters: Sequence[Saved], timer: Timer) -> tuple[list[Any], list[float | None]]:
    """Return a whole model for each adapter, with PEFT's seconds to merge it."""
    models, seconds = [], list[float | None]()
    for one in adapters:
        wrapped = _peft(copy.deepcopy(base), [one])
        start = timer.read()
        with warnings.catch_warnings():  # of tied embeddings: PEFT's advice on saving, and nothing is saved here
            warnings.filterwarnings("ignore", ".*tie_word_embeddings.*")
            models.append(wrapped.merge_and_unload().eval())
        seconds.append(timer.read() - start)
    return models, seconds


def _empty(loaded: LoadedModel, trials: Sequence[Trial]) -> Bank:
    model = loaded.model
    return Bank(loaded, trials, methods.get(trials[0].method), device=model.device, dtype=model.dtype)


@torch.no_grad()
def _bank(loaded: LoadedModel, trials: Sequence[Trial], adapters: Sequence[Saved]) -> Bank:
    """Return a bank that holds the adapters' weights; zero where one adapts fewer layers or has a smaller rank."""
    bank = _empty(loaded, trials)
    bank.params.values.zero_()
    for shape in bank.shapes:
        for k, one in enumerate(adapters):
            if shape.path in one.layers:
                A_RxI, B_OxR = (one.layers[shape.path][name].to(bank.params.values) for name in "AB")
                bank.params[bank.slot(shape, "A")][k, : len(A_RxI)] = A_RxI
                bank.params[bank.slot(shape, "B")][k, :, : len(A_RxI)] = B_OxR
    return bank


@torch.no_grad()
def _bottleneck(name: str, trials: Sequence[Trial], loaded: LoadedModel) -> list[Way]:
    """Return the ways of bottleneck adapters with made-up weights: K banks of one, and one of K."""
    nothing: dict[str, Any] = dict.fromkeys(("lora_alpha", "use_rslora", "init", "eta_B", "lora_dropout"))
    rank = max(trial.rank or 1 for trial in trials)
    one = replace(trials[0], method=name, rank=rank, adapter_activation="relu", adapter_gate=False, **nothing)
    every, alone = _empty(loaded, [one] * len(trials)), [_empty(loaded, [one]) for _ in trials]
    generator = torch.Generator().manual_seed(derive("deploy", name))
    every.params.values.copy_(torch.empty(every.params.values.shape).normal_(0, SPREAD, generator=generator))
    for k, bank in enumerate(alone):
        for slot in every.params.names():
            bank.params[slot][0] = every.params[slot][k]
    mixed, label = _mixed(methods.get(name).label, every), methods.get(name).label
    ways = [_mixed(label, bank).serve for bank in alone]

    def of_one(k: int, requests: Requests) -> Tensor:
        return ways[k](replace(requests, adapter_R=np.zeros(len(requests), dtype=np.int64)))

    return [replace(mixed, name="unmerged", serve=_grouped(of_one)), mixed]


def _unmerged() -> tuple[str, ...]:
    """Return the methods for which no weights of the plain layer do the same: bottleneck adapters."""
    return tuple(sorted(name for name in methods.names() if not methods.get(name).merges))
