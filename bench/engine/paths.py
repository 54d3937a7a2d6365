"""The two ways through a model: `BankPath`, any transformers classifier on padded rows, and the choice between it and
`UnpaddedPath` (in unpadded.py), a token stream for BERT and RoBERTa encoders. Both give [K, b, n_labels] logits.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bench.engine.bank import Bank
from bench.engine.batching import Chunk
from bench.engine.dropout import token_key


class Path(Protocol):
    """One way through the model of a pack."""

    name: str

    def logits(self, chunk: Chunk) -> Tensor:
        """Return the logits of every trial for the chunk's examples: [K, b, n_labels]."""
        ...


class BankPath:
    """The model's own forward pass, on K copies of the padded chunk."""

    name = "bank"

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        config = bank.model.config
        self.pad_id = int(config.pad_token_id or 0)
        self.takes_type_ids = int(getattr(config, "type_vocab_size", 0) or 0) > 1

    def logits(self, chunk: Chunk) -> Tensor:
        """Return the logits of every trial for the chunk's examples: [K, b, n_labels], or [K, b, T, V]."""
        n_trials = self.bank.n_trials
        ids_bxT = chunk.padded(chunk.ids_N, self.pad_id)
        mask_bxT = chunk.padded(torch.ones_like(chunk.ids_N), 0)
        position_T = torch.arange(chunk.longest, device=ids_bxT.device)
        key_bxT = token_key(chunk.example_b[:, None], position_T[None])
        self.bank.keys.start_chunk(key_bxT, key_bxT[:, 0])
        inputs = {"input_ids": ids_bxT.repeat(n_trials, 1), "attention_mask": mask_bxT.repeat(n_trials, 1)}
        if self.takes_type_ids and chunk.type_ids_N is not None:
            inputs["token_type_ids"] = chunk.padded(chunk.type_ids_N, 0).repeat(n_trials, 1)
        with self.bank.precision():
            logits: Tensor = self.bank.model(**inputs).logits
        return logits.to(self.bank.params.values.dtype).unflatten(0, (n_trials, chunk.n_examples))


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
    before = _generator_state(device)
    with bank.training():
        path.logits(chunk)
    return not torch.equal(before, _generator_state(device))


def _generator_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
