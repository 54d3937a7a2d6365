"""Trials trained alone, the ordinary way: PEFT or plain transformers, torch.optim, clip_grad_norm_, get_scheduler.

What the engine does for K trials at once is compared with this, one trial at a time on the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn
from transformers import get_scheduler

from bench import methods
from bench.core.clock import Clock
from bench.core.spec import Trial
from bench.data.splits import Encoded, EncodedData
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.loop import Loop, Training
from bench.engine.paths import settle_masks
from bench.engine.run import choose_path
from bench.models._base import LoadedModel
from tests.support.engine_helpers import clone

CPU = torch.device("cpu")
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}

# A budget in which everything is on that could hide an error; 8 does not divide the 50 examples.
HARD: dict[str, Any] = {
    "max_steps": 20, "batch_size": 8, "max_grad_norm": 0.3, "warmup_steps": 3, "weight_decay": 0.1,
    "adam_beta2": 0.99, "adam_eps": 1e-6, "eval_steps": 20,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one trial starts from: its adapters by layer path, at its own shapes, and its new head by name."""

    adapters: dict[str, dict[str, Tensor]]
    head: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One trial trained alone: loss and gradient norm before clipping of every step, and the model afterwards."""

    losses_S: npt.NDArray[np.float64]
    norms_S: npt.NDArray[np.float64]
    model: nn.Module


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A pack trained by the engine: losses and norms of every step and trial, and its bank afterwards."""

    losses_SxK: npt.NDArray[np.float64]
    norms_SxK: npt.NDArray[np.float64]
    bank: Bank
    state: Training

    def slot(self, k: int) -> dict[str, Tensor]:
        """Return everything trial k has trained, at its own shapes, by name."""
        found = {f"{path}.{leaf}": w for path, own in self.bank.adapters(k).items() for leaf, w in own.items()}
        rest = [name for name in self.bank.params.names() if name.rpartition(".")[0] not in self.bank.adapters(k)]
        return {**found, **{name: self.bank.params[name][k].detach() for name in rest}}


def make_bank(loaded: LoadedModel, trials: Sequence[Trial]) -> Bank:
    """Return the pack's bank before any step."""
    dtype = DTYPES[trials[0].budget.precision]
    return Bank(loaded, trials, methods.get(trials[0].method), device=CPU, dtype=dtype)


def train_pack(
    loaded: LoadedModel, data: EncodedData, trials: Sequence[Trial], *, path: str = "auto", n_chunks: int = 4
) -> Packed:
    """Train a pack with the engine. Path "filled" is the unpadded one with chunks filled up as in half precision."""
    bank, split = make_bank(loaded, trials), Batches(data.train, device=CPU)
    way = choose_path(bank, "unpadded" if path == "filled" else path)
    settle_masks(bank, way, split.chunk(np.arange(2)))
    loop = Loop(
        bank, way, split, trials[0].budget, n_chunks=n_chunks,
        clock=Clock(), evaluate=lambda: np.zeros(len(trials)),
    )  # fmt: skip
    fill = mock.patch.object(way, "shaped", lambda chunk: chunk.rounded(tokens=8, length=4))
    with fill if path == "filled" else nullcontext():
        state = loop.run()
    return Packed(losses_SxK=np.stack(state.losses_SxK), norms_SxK=np.stack(state.norms_SxK), bank=bank, state=state)


def start_values(loaded: LoadedModel, trials: Sequence[Trial]) -> list[Start]:
    """Return what each trial of the pack starts from."""
    bank = make_bank(loaded, trials)
    return [
        Start(
            adapters={p: {n: w.clone() for n, w in own.items()} for p, own in bank.adapters(k).items()},
            head={name: bank.params[name][k].detach().clone() for name in loaded.full_names},
        )
        for k in range(len(trials))
    ]


def train_peft_alone(loaded: LoadedModel, split: Encoded, member: Trial, start: Start) -> Alone:
    """Train a LoRA or LoRA+ trial with PEFT."""
    model = peft_model(loaded, member, start)
    return train_alone(model, split, member, optimizer_of(model, member))


def peft_model(loaded: LoadedModel, member: Trial, start: Start) -> Any:
    """Return a PEFT model that starts from the trial's own adapters and head."""
    named = member.target_modules
    config = LoraConfig(
        r=member.rank, lora_alpha=member.lora_alpha, lora_dropout=0.0,
        target_modules=named if isinstance(named, str) else list(named or ()),
        fan_in_fan_out=loaded.model.config.model_type == "gpt2",
        task_type="SEQ_CLS", use_rslora=bool(member.use_rslora),
        modules_to_save=sorted({name.partition(".")[0] for name in start.head}),
    )  # fmt: skip
    model = get_peft_model(clone(loaded.model), config, autocast_adapter_dtype=False)
    own = dict(model.named_parameters())
    for path, weights in start.adapters.items():
        for leaf, value in weights.items():
            linear, embedding = f"lora_{leaf}.default.weight", f"lora_embedding_{leaf}.default"
            (target,) = (own[name] for n in (linear, embedding) if (name := f"base_model.model.{path}.{n}") in own)
            _set(target, value)
    for name, value in start.head.items():
        top, _, rest = name.partition(".")
        _set(own[f"base_model.model.{top}.modules_to_save.default.{rest}"], value)
    if member.head_policy == "paper":  # the official code freezes RoBERTa's classifier.dense at its random values
        for leaf in ("weight", "bias"):
            own[f"base_model.model.classifier.modules_to_save.default.dense.{leaf}"].requires_grad_(False)
    return model


def optimizer_of(model: nn.Module, member: Trial) -> torch.optim.Optimizer:
    """Return AdamW by the parameters' names; PEFT's own LoRA+ optimizer where the head policy is PEFT's."""
    b = member.budget
    betas, eps = (b.adam_beta1, b.adam_beta2), b.adam_eps
    if member.head_policy in ("peft", "paper"):
        assert member.eta_B is not None
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=member.eta_A, loraplus_lr_ratio=member.eta_B / member.eta_A,
            loraplus_lr_embedding=member.loraplus_lr_embedding or 0.0, loraplus_weight_decay=b.weight_decay,
            betas=betas, eps=eps,
        )  # fmt: skip
    groups = [
        {"params": [p], "lr": _rate(name, member), "weight_decay": b.weight_decay if p.ndim > 1 else 0.0}
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    return torch.optim.AdamW(groups, betas=betas, eps=eps)


def _rate(name: str, member: Trial) -> float:
    if "lora_B" in name or "lora_embedding_B" in name:
        return member.eta_A if member.eta_B is None else member.eta_B
    is_head = "modules_to_save" in name or name.startswith(("classifier.", "pre_classifier.", "score."))
    return float(member.head_policy) if is_head and not isinstance(member.head_policy, str) else member.eta_A


def train_alone(
    model: Any, split: Encoded, member: Trial, optimizer: torch.optim.Optimizer,
    *, on_batch: Callable[[int, npt.NDArray[np.int64]], None] = lambda step, places: None,
) -> Alone:  # fmt: skip
    """Train any transformers classifier in a plain loop over padded batches, in the order the engine states.

    `on_batch` is told of each step, from 0, and of its examples before the forward pass.
    """

    def loss_of(step: int, places: npt.NDArray[np.int64]) -> Tensor:
        on_batch(step, places)
        batch = padded(split, places)
        labels = batch.pop("labels")  # the model's own loss is float32 in DeBERTa, whatever the model's dtype
        return torch.nn.functional.cross_entropy(model(**batch).logits, labels)

    return descend(model, split, member, optimizer, loss_of)


def descend(
    model: Any, split: Encoded, member: Trial, optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int, npt.NDArray[np.int64]], Tensor],
) -> Alone:  # fmt: skip
    """Train in a plain loop: `loss_of` gets each step, from 0, and the places of its examples in the split."""
    b = member.budget
    counts = {"num_warmup_steps": b.warmup_steps, "num_training_steps": b.max_steps}
    schedule = get_scheduler(b.lr_scheduler_type, optimizer, **counts)
    order = Batches(split, device=CPU).order(seed=member.seed, batch_size=b.batch_size, max_steps=b.max_steps)
    losses, norms = [], []
    trained = [p for p in model.parameters() if p.requires_grad]
    for step, places in enumerate(order):
        loss = loss_of(step, places)
        optimizer.zero_grad()
        loss.backward()
        assert b.max_grad_norm is not None
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, b.max_grad_norm)))
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return Alone(losses_S=np.array(losses), norms_S=np.array(norms), model=model)


def padded(split: Encoded, places: npt.NDArray[np.int64]) -> dict[str, Tensor]:
    """Return a batch as transformers takes it: ids padded with 1, mask, labels, token types where there are some."""
    longest = int(split.lengths[places].max())
    ids = torch.ones(len(places), longest, dtype=torch.long)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, place in enumerate(places):
        part = slice(split.offsets[place], split.offsets[place + 1])
        n = int(split.lengths[place])
        ids[row, :n], mask[row, :n] = torch.from_numpy(split.ids[part].astype(np.int64)), 1
        if split.type_ids is not None:
            types[row, :n] = torch.from_numpy(split.type_ids[part].astype(np.int64))
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.from_numpy(split.labels[places])}
    return batch if split.type_ids is None else {**batch, "token_type_ids": types}


def assert_same_course(packed: Packed, alone: Mapping[int, Alone], *, atol: float) -> None:
    """The losses of each slot agree with those of its run alone, at every step; so do the gradient norms."""
    assert alone
    for k, run in alone.items():
        slot = f"trial {k}"
        np.testing.assert_allclose(packed.losses_SxK[:, k], run.losses_S, rtol=0, atol=atol, err_msg=slot)
        np.testing.assert_allclose(packed.norms_SxK[:, k], run.norms_S, rtol=100 * atol, atol=atol, err_msg=slot)


def assert_hard(packed: Packed, max_grad_norm: float) -> None:
    """Clipping binds in some steps of every trial and the losses move: else agreement would mean little."""
    binds_K = (packed.norms_SxK > max_grad_norm).any(axis=0)
    assert binds_K.all(), f"clipping never binds in trials {np.flatnonzero(~binds_K)}"
    assert np.ptp(packed.losses_SxK, axis=0).min() > 0.01
    assert np.isfinite(packed.losses_SxK).all()


def make_alone(
    loaded: LoadedModel, data: EncodedData, trials: Sequence[Trial],
    train: Callable[[LoadedModel, Encoded, Trial, Start], Alone], slots: Sequence[int] | None = None,
) -> dict[int, Alone]:  # fmt: skip
    """Train the trials in these slots (default: all) alone, from what they start from in the pack."""
    starts = start_values(loaded, trials)
    return {k: train(loaded, data.train, trials[k], starts[k]) for k in slots or range(len(trials))}


def _set(parameter: Tensor, value: Tensor) -> None:
    assert parameter.shape == value.shape
    parameter.data.copy_(value)
