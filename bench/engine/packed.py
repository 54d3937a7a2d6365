"""Decoders as a packed stream: each trial's ragged examples in one row, nothing padded, shared work done once.

Any decoder whose attention asks transformers' interface takes it: the model's own body runs over [S, N] tokens whose
positions begin anew with each example, and attention goes example by example (blocks.py). S is 1 up to the first layer
with an adapter, whose inputs all trials still share, and K from there on. The model's own head computes on the rows
that are read alone: targets of a language model, last tokens of a classifier. guard.py compares before a pack trains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, masking_utils
from transformers.modeling_outputs import BaseModelOutputWithPast

from bench.engine import waiting
from bench.engine.adapted import AdaptedLayer, shared_part
from bench.engine.attention import ATTENTION, PACKED, asks_interface
from bench.engine.bank import Bank
from bench.engine.batching import Chunk
from bench.engine.chunking import filling
from bench.engine.cross_entropy import target_losses
from bench.engine.dropout import MaskKeys, token_key
from bench.engine.joined import Group, Joined, can_join
from bench.engine.paths import BankPath


class PackedPath:
    """Forward pass over [S, N] streams, S = 1 while all trials agree and K from the first adapted layer on."""

    name = "packed"

    def __init__(self, bank: Bank) -> None:
        self.bank, self.keys, self.model = bank, bank.keys, bank.model
        self.few_shapes = waiting.may_ask(bank.device) and bank.is_half
        self.body_path, self.body = body_of(bank.model)
        self.reads_tokens = bank.model.get_output_embeddings() is not None
        inside = f"{self.body_path}."
        adapted = [shape.path for shape in bank.shapes]
        self.head_is_trained = bank.method.trains_base or any(not path.startswith(inside) for path in adapted)
        _share(bank.model, adapted, bank.n_trials, bank.keys)
        for model in (self.body, self.model):  # looking for padding, they would make the host wait for a GPU
            model.warn_if_padding_and_no_attention_mask = lambda *_: None
        self._join()

    def logits(self, chunk: Chunk) -> Tensor:
        """Return the logits of every trial: [K, b, n_labels], or [K, b, T, V] with 0 where there is no token."""
        with self.bank.precision():
            hidden_SxNxD = self._hidden(chunk)
            if not self.reads_tokens:
                return self._classify(hidden_SxNxD, chunk).to(self.bank.params.values.dtype)
            with self.keys.stream_of(chunk.lengths):
                own_SxNxD = hidden_SxNxD[:, : chunk.n_tokens]
                logits_KxNxV = self._head(own_SxNxD, chunk.ids_N).to(self.bank.params.values.dtype)
        grid = logits_KxNxV.new_zeros(self.bank.n_trials, chunk.n_examples, chunk.longest, logits_KxNxV.shape[-1])
        grid[:, chunk.row_N, chunk.position_N] = logits_KxNxV
        return grid

    def losses(self, chunk: Chunk, at_M: Tensor, wanted_M: Tensor) -> Tensor:
        """Return the cross-entropy of the ids that follow: [K, M], at least float32."""
        with self.bank.precision():
            hidden_KxMxD = self._hidden(chunk)[:, at_M].expand(self.bank.n_trials, -1, -1)
            rows = _Rows(self.keys, at_M, chunk.lengths)

            def head(part_KxmxD: Tensor, part: slice) -> Tensor:
                with rows.of(part), self.bank.precision():
                    return self._head(part_KxmxD, wanted_M[part])

            return target_losses(head, hidden_KxMxD, wanted_M, trains_head=self.head_is_trained)

    def _hidden(self, chunk: Chunk) -> Tensor:
        """Return the body's last hidden states: [S, N or more, d]; behind the chunk's own is what fills it up."""
        if self.few_shapes:  # each size has kernels of its own, which a CPU's memory keeps
            chunk = chunk.rounded(tokens=filling(chunk.n_tokens), length=1)
        key_N = token_key(chunk.example_b[chunk.row_N], chunk.position_N)
        self.keys.start_chunk(key_N[None], key_N[:1])
        with self.keys.stream_of(chunk.lengths), _without_masks(self.body, self.model):
            ids, positions = chunk.ids_N[None], chunk.position_N[None]
            hidden: Tensor = self.body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        return hidden

    @torch.no_grad()
    def _join(self) -> None:
        """Put the frozen products that read one input together: which do so is seen in a pass of two tokens."""
        read: dict[int, tuple[Tensor, list[str]]] = {}
        hooks = [
            module.register_forward_pre_hook(
                lambda module, args, name=name: read.setdefault(id(args[0]), (args[0], []))[1].append(name)
            )
            for name, module in self.body.named_modules()
            if can_join(module) and not any(can_join(self.body.get_submodule(up)) for up in _above(name))
        ]
        ids = torch.ones(2, dtype=torch.int64, device=self.bank.device)
        first = torch.zeros(1, dtype=torch.int64, device=self.bank.device)
        self.keys.start_chunk(ids[None], first)
        with self.keys.stream_of((2,)), _without_masks(self.body, self.model):
            self.body(input_ids=ids[None], position_ids=torch.arange(2, device=ids.device)[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        for _, names in read.values():
            members = [self.body.get_submodule(name) for name in names]
            group = Group(members=members, n_trials=self.bank.n_trials, keys=self.keys)
            for place, name in enumerate(names):
                parent, _, leaf = name.rpartition(".")
                setattr(self.body.get_submodule(parent), leaf, Joined(members[place], group, place))

    def _head(self, hidden_SxMxD: Tensor, ids_M: Tensor) -> Tensor:
        """Return what the model's own forward pass makes of these hidden states: [K, M, V]."""
        hidden_KxMxD = hidden_SxMxD.expand(self.bank.n_trials, -1, -1)
        ids_KxM = ids_M.expand(self.bank.n_trials, -1)
        with self._body_gives(hidden_KxMxD):
            logits: Tensor = self.model(input_ids=ids_KxM, use_cache=False).logits
        return logits

    def _classify(self, hidden_SxNxD: Tensor, chunk: Chunk) -> Tensor:
        """Return the logits that the model's own head makes of the last token that is no padding: [K, b, n_labels]."""
        n_trials = self.bank.n_trials
        pad = BankPath.pad_id(self.model.config)
        place_N = chunk.position_N.masked_fill(chunk.ids_N == pad, 0)
        last_b = torch.zeros_like(chunk.first_b).scatter_reduce(0, chunk.row_N, place_N, "amax")
        at_b = chunk.first_b + last_b
        hidden_KxbxD = hidden_SxNxD[:, at_b].expand(n_trials, -1, -1)
        key_N = self.keys.token_key
        assert key_N is not None
        keys_bx1, first_b = key_N[0, at_b][:, None], key_N[0, chunk.first_b]
        ids = chunk.ids_N[at_b].repeat(n_trials)[:, None]
        with (
            self.keys.of_rows(keys_bx1, first_b, None, self.keys.calls),
            self._body_gives(hidden_KxbxD.flatten(0, 1)[:, None]),
        ):
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits.unflatten(0, (n_trials, chunk.n_examples))

    @contextmanager
    def _body_gives(self, hidden: Tensor) -> Iterator[None]:
        """Let the model's body return these hidden states while inside, so that its forward pass is its head."""
        parent, _, leaf = self.body_path.rpartition(".")
        owner = self.model.get_submodule(parent)
        setattr(owner, leaf, _Given(hidden))
        try:
            yield
        finally:
            setattr(owner, leaf, self.body)


class _Given(nn.Module):
    """Stands in for a model's body whose hidden states are known."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *args: object, **kwargs: object) -> _Output:
        """Return the hidden states, whatever comes in."""
        return _Output(last_hidden_state=self.hidden)


@dataclass
class _Output(BaseModelOutputWithPast):  # type: ignore[misc]
    """Hidden states, and None for whatever else an architecture's body returns."""

    def __getattr__(self, name: str) -> None:
        """Return None for a plain name."""
        if name.startswith("__"):
            raise AttributeError(name)


class _Rows:
    """The mask keys of the rows that the head reads, and the masks drawn before it: the same for every part of them."""

    def __init__(self, keys: MaskKeys, at_M: Tensor, lengths: tuple[int, ...]) -> None:
        assert keys.token_key is not None
        assert keys.first_key is not None
        self.keys, self.key_1xM, self.first, self.lengths = keys, keys.token_key[:, at_M], keys.first_key, lengths
        self.calls = keys.calls

    def of(self, part: slice) -> Any:
        """Return a context in which the rows are those of this part."""
        return self.keys.of_rows(self.key_1xM[:, part], self.first, self.lengths, self.calls)


class _Once(nn.Module):
    """A module without parts of its own that computes once where its input is the same for all trials."""

    def __init__(self, module: nn.Module, n_trials: int, keys: MaskKeys) -> None:
        super().__init__()
        self.module, self.n_trials, self.keys = module, n_trials, keys

    def __getattr__(self, name: str) -> Any:
        """Return what the module has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the module's output, seen K times over where it was computed once."""
        part = shared_part(x, self.n_trials, self.keys)
        out = self.module(part, *args, **kwargs)
        return out if part is x else out.expand(self.n_trials, *out.shape[1:])


def _share(model: PreTrainedModel, adapted: list[str], n_trials: int, keys: MaskKeys) -> None:
    """Let the layers that hold an adapter see a shared stream K times over, and their first modules compute it once."""
    layers = {match[0] for path in adapted if (match := re.match(r".*?\.\d+(?=\.)", path))}
    for path in layers if n_trials > 1 else ():
        layer = model.get_submodule(path)
        layer.register_forward_pre_hook(_expand(n_trials, keys), with_kwargs=True)
        for name, module in list(layer.named_modules()):
            is_leaf = not list(module.children()) and not isinstance(module, _Once)
            inside = any(isinstance(layer.get_submodule(up), AdaptedLayer) for up in _above(name))
            if name and is_leaf and not inside and not isinstance(module, AdaptedLayer) and not can_join(module):
                parent, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(parent), leaf, _Once(module, n_trials, keys))


def _above(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def _expand(n_trials: int, keys: MaskKeys) -> Any:
    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if keys.lengths is None:
            return None
        if args:
            return (args[0].expand(n_trials, -1, -1), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].expand(n_trials, -1, -1)}

    return before


@contextmanager
def _without_masks(*models: nn.Module) -> Iterator[None]:
    """Let transformers build no mask while inside.

    Nor look for packed examples in the positions, for which the host would wait for a GPU once in each forward pass.
    """
    configs: list[Any] = [model.config for model in models]
    names, look = [config._attn_implementation for config in configs], masking_utils.find_packed_sequence_indices
    for config in configs:
        config._attn_implementation = PACKED
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look
        for config, name in zip(configs, names, strict=True):
            config._attn_implementation = name


def body_of(model: PreTrainedModel) -> tuple[str, Any]:
    """Return the part of a model that turns tokens into hidden states, and its path."""
    body = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is body), body


def problem(model: PreTrainedModel) -> str | None:
    """Return why a model cannot take the packed path, as far as its classes tell, or None."""
    if getattr(model.config, "is_encoder_decoder", False):
        return "it has an encoder and a decoder"
    if not asks_interface(model) or model.config._attn_implementation not in ("sdpa", "eager", ATTENTION, None):
        return "its attention does not ask transformers' interface"
    path, _ = body_of(model)
    return None if path else "its head is part of its body"
