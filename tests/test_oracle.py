"""Trials trained in a pack against PEFT and torch.optim.AdamW, one at a time on the same batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import budget, clone, random_data, tiny_model, trial
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import get_scheduler

from bench import methods
from bench.clock import Clock
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.loop import Loop
from bench.engine.run import choose_path
from bench.models._base import LoadedModel
from bench.spec import Trial
from bench.text import Encoded, EncodedData

CPU = torch.device("cpu")
HARD: dict[str, Any] = {  # everything on that could hide an error
    "max_steps": 60, "batch_size": 8, "max_grad_norm": 0.3, "warmup_steps": 7, "weight_decay": 0.1,
    "lr_scheduler_type": "linear", "adam_beta2": 0.99, "adam_eps": 1e-6,
}  # fmt: skip


def train_pack(
    loaded: LoadedModel, data: EncodedData, trials: list[Trial], *, path: str, n_chunks: int = 4
) -> tuple[Bank, np.ndarray, np.ndarray]:
    """Train a pack; return its bank, losses and gradient norms, [steps, K] each."""
    dtype = {"fp64": torch.float64, "fp32": torch.float32}[trials[0].budget.precision]
    bank = Bank(loaded, trials, methods.get(trials[0].method), device=CPU, dtype=dtype)
    loop = Loop(
        bank, choose_path(bank, path), Batches(data.train, device=CPU), trials[0].budget, n_chunks=n_chunks,
        clock=Clock(), evaluate=lambda: np.zeros(len(trials)),
    )  # fmt: skip
    state = loop.run()
    return bank, np.stack(state.losses_SxK), np.stack(state.norms_SxK)


def peft_model(loaded: LoadedModel, bank: Bank, initial: dict[str, torch.Tensor], k: int) -> Any:
    """A PEFT model that starts from the same adapters and head as trial k."""
    member = bank.trials[k]
    config = LoraConfig(
        r=member.rank, lora_alpha=member.lora_alpha, lora_dropout=0.0, target_modules=list(member.target_modules or ()),
        task_type="SEQ_CLS", use_rslora=bool(member.use_rslora),
    )  # fmt: skip
    model = get_peft_model(clone(loaded.model), config, autocast_adapter_dtype=False)
    rank = member.rank
    own = dict(model.named_parameters())
    for name, value in initial.items():
        path, _, leaf = name.rpartition(".")
        mine = value[k]
        if leaf in ("A", "B"):
            target = own[f"base_model.model.{path}.lora_{leaf}.default.weight"]
            mine = mine[:rank] if leaf == "A" else mine[:, :rank]
        else:
            target = own[_saved_name(own, name)]
        target.data.copy_(mine)
    return model


def _saved_name(own: dict[str, Any], name: str) -> str:
    head, _, rest = name.partition(".")
    return next(n for n in own if n == f"base_model.model.{head}.modules_to_save.default.{rest}")


def initial_values(loaded: LoadedModel, trials: list[Trial]) -> dict[str, torch.Tensor]:
    bank = Bank(loaded, trials, methods.get(trials[0].method), device=CPU, dtype=torch.float64)
    return {name: bank.params.trained(name).detach().clone() for name in bank.params.names()}


def optimizer_of(model: Any, member: Trial) -> torch.optim.Optimizer:
    """AdamW by role; PEFT's own LoRA+ optimizer where the head policy is PEFT's."""
    b = member.budget
    betas, eps = (b.adam_beta1, b.adam_beta2), b.adam_eps
    if member.head_policy == "peft":
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=member.eta_A, loraplus_lr_ratio=member.eta_B / member.eta_A,
            loraplus_weight_decay=b.weight_decay, betas=betas, eps=eps,
        )  # fmt: skip
    groups = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            rate = member.eta_B if "lora_B" in name else member.eta_A
            groups.append({"params": [p], "lr": rate, "weight_decay": b.weight_decay if p.ndim > 1 else 0.0})
    return torch.optim.AdamW(groups, betas=betas, eps=eps)


def train_alone(model: Any, split: Encoded, member: Trial) -> tuple[list[float], list[float]]:
    """A plain loop over padded batches, in the order the engine states: losses and gradient norms."""
    b = member.budget
    optimizer = optimizer_of(model, member)
    schedule = get_scheduler(b.lr_scheduler_type, optimizer, num_warmup_steps=b.warmup_steps, num_training_steps=b.max_steps)
    order = Batches(split, device=CPU).order(seed=member.seed, batch_size=b.batch_size, max_steps=b.max_steps)
    losses, norms = [], []
    for places in order:
        loss = model(**padded(split, places)).loss
        optimizer.zero_grad()
        loss.backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, b.max_grad_norm)))
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses, norms


def padded(split: Encoded, places: np.ndarray) -> dict[str, torch.Tensor]:
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


MEMBERS = [
    {"rank": 2, "eta_A": 1e-3}, {"rank": 4, "eta_A": 3e-3, "use_rslora": True}, {"rank": 8, "eta_A": 2e-2, "lora_alpha": 16.0},
    {"rank": 4, "eta_A": 5e-4, "eta_B": 8e-3, "method": "lora+"}, {"rank": 8, "eta_A": 1e-4, "eta_B": 6.4e-3, "method": "lora+"},
    {"rank": 3, "eta_A": 2e-3, "eta_B": 4e-3, "method": "lora+", "init": "zero_A"},
]  # fmt: skip


@pytest.mark.parametrize("path", ["bank", "unpadded"])
@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("head_policy", ["eta_A", "peft"])
def test_lora_pack_trains_as_peft_alone(path: str, kind: str, head_policy: str) -> None:
    loaded = tiny_model(kind)
    data = random_data(types=kind == "bert")
    trials = [trial(budget=budget(**HARD), head_policy=head_policy, **m) for m in MEMBERS]
    initial = initial_values(loaded, trials)
    bank, losses, norms = train_pack(loaded, data, trials, path=path)
    assert (norms > HARD["max_grad_norm"]).any(), "clipping must bind for the test to mean something"
    for k, member in enumerate(trials):
        alone, alone_norms = train_alone(peft_model(loaded, bank, initial, k), data.train, member)
        np.testing.assert_allclose(losses[:, k], alone, rtol=0, atol=1e-10)
        np.testing.assert_allclose(norms[:, k], alone_norms, rtol=1e-8, atol=1e-10)
