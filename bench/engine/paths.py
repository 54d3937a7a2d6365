"""The two ways through a model: `BankPath`, any transformers classifier on padded rows, and the choice between it and
`UnpaddedPath` (in unpadded.py), a token stream for BERT and RoBERTa encoders. Both give [K, b, n_labels] logits.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig

from bench.engine import hardware
from bench.engine.bank import Bank
from bench.engine.batching import Chunk
from bench.engine.dropout import token_key


class Path(Protocol):
    """One way through the model of a pack."""

    name: str

    def logits(self, chunk: Chunk) -> Tensor:
        """Return the logits of every trial for the chunk's examples: [K, b, n_labels], or [K, b, T, V]."""
        ...

    def losses(self, chunk: Chunk, at_M: Tensor, wanted_M: Tensor) -> Tensor:
        """Return the cross-entropy of the ids `wanted_M` after the stream's tokens at `at_M`: [K, M]."""
        ...


class BankPath:
    """The model's own forward pass, on K copies of the padded chunk."""

    name = "bank"

    def __init__(self, bank: Bank) -> None:
        self.bank = bank

    @staticmethod
    def pad_id(config: PretrainedConfig) -> int:
        """Return the padding token, which models of text and pictures name in their text config; 0 where none is."""
        named = (getattr(part, "pad_token_id", None) for part in (config.get_text_config(), config))
        return int(next((token for token in named if token is not None), 0))

    @staticmethod
    def has_types(config: PretrainedConfig) -> bool:
        """Return whether the model embeds more than one type of token."""
        return int(getattr(config, "type_vocab_size", 0) or 0) > 1

    @classmethod
    def inputs_of(cls, config: PretrainedConfig, chunk: Chunk) -> dict[str, Tensor]:
        """Return a chunk as transformers takes it, padded on the right: ids, mask and token types, [b, T] each."""
        inputs = {
            "input_ids": chunk.padded(chunk.ids_N, cls.pad_id(config)),
            "attention_mask": chunk.padded(torch.ones_like(chunk.ids_N), 0),
        }
        if cls.has_types(config) and chunk.type_ids_N is not None:
            inputs["token_type_ids"] = chunk.padded(chunk.type_ids_N, 0)
        return inputs

    def logits(self, chunk: Chunk) -> Tensor:
        """Return the logits of every trial for the chunk's examples: [K, b, n_labels], or [K, b, T, V]."""
        n_trials = self.bank.n_trials
        inputs = self.inputs_of(self.bank.model.config, chunk)
        position_T = torch.arange(chunk.longest, device=chunk.ids_N.device)
        key_bxT = token_key(chunk.example_b[:, None], position_T[None])
        self.bank.keys.start_chunk(key_bxT, key_bxT[:, 0])
        with self.bank.precision():
            logits: Tensor = self.bank.model(**{name: x.repeat(n_trials, 1) for name, x in inputs.items()}).logits
        return logits.to(self.bank.params.values.dtype).unflatten(0, (n_trials, chunk.n_examples))

    def losses(self, chunk: Chunk, at_M: Tensor, wanted_M: Tensor) -> Tensor:
        """Return the cross-entropy of the ids that follow: [K, M]."""
        logits_KxMxV = self.logits(chunk)[:, chunk.row_N[at_M], chunk.position_N[at_M]]
        n_trials, n_targets, _ = logits_KxMxV.shape
        flat = cross_entropy(logits_KxMxV.flatten(0, 1), wanted_M.repeat(n_trials), reduction="none")
        return flat.view(n_trials, n_targets)


def settle_masks(bank: Bank, path: Path, chunk: Chunk) -> None:
    """Find out what the model drops by, beside modules: function calls are keyed too, the rest is left out."""
    bank.keyed_calls = draws_own_masks(bank, path, chunk)
    bank.only_keyed_masks = bank.keyed_calls and draws_own_masks(bank, path, chunk)


@torch.no_grad()
def draws_own_masks(bank: Bank, path: Path, chunk: Chunk) -> bool:
    """Return whether a training forward pass draws random numbers of its own, beside the keyed masks.

    Some architectures drop by function calls, which no module stands for. Such masks would depend on the pack.
    """
    device = chunk.ids_N.device
    before = hardware.generator_state(device)
    with bank.training():
        if chunk.target_N is None:
            path.logits(chunk)
        else:  # one target's logits: those of all tokens may be more than there is memory for
            target_M = chunk.target_places()[:1]
            path.losses(chunk, target_M - 1, chunk.ids_N[target_M])
    return not torch.equal(before, hardware.generator_state(device))


def path_name(path: Path, bank: Bank) -> str:
    """Return a row's engine_path: the path's name, and whether the model's masks are left out as none is keyed."""
    return f"{path.name}, the model's own dropout left out" if bank.only_keyed_masks else path.name
