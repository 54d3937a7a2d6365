"""Random decoders, prompts with targets, and a language model trained alone the ordinary way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bench.core.clock import Clock
from bench.core.spec import Trial
from bench.data.splits import Encoded, EncodedData, Reading
from bench.engine.batching import Batches
from bench.engine.loop import Loop
from bench.engine.paths import settle_masks
from bench.engine.run import choose_path, objective_of
from bench.models._base import LoadedModel
from tests.support.decoders import family
from tests.support.engine_helpers import clone, random_split
from tests.support.oracle import CPU, Alone, Packed, Start, descend, make_bank, optimizer_of

END = 2


def language_model(model_type: str, dropout: float = 0.0, **changes: Any) -> LoadedModel:
    """A random decoder with its output layer, in float64, transformers' RMSNorm too."""
    torch.manual_seed(0)
    config = family(model_type, dropout)
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    model.config.use_cache = False
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            parent, _, leaf = name.rpartition(".")
            norm = nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon, dtype=torch.float64)
            norm.weight.data.copy_(module.weight.data)
            setattr(model.get_submodule(parent), leaf, norm)
    return LoadedModel(model=model, head_names=())


def prompted(split: Encoded, seed: int) -> Encoded:
    """The same sequences, cut into prompt and target at random, at least one token each; the end token last."""
    ids = split.ids.copy()
    ids[split.offsets[1:] - 1] = END
    rng = np.random.default_rng(seed)
    prompt_lengths = rng.integers(1, split.lengths)
    return replace(split, ids=ids, prompt_lengths=prompt_lengths, target_bytes=3 * (split.lengths - prompt_lengths))


def causal_data(metric: str = "char_accuracy", *, max_new_tokens: int | None = None, n_train: int = 40) -> EncodedData:
    """Random token sequences; texts are the ids as characters."""
    return EncodedData(
        train=prompted(random_split(n_train, seed=1), 1),
        select=prompted(random_split(10, seed=2), 2),
        eval=prompted(random_split(24, seed=3), 3),
        n_labels=0,
        metric=metric,
        data_hash="0" * 16,
        reading=Reading(decode=decode, end_id=END, answer=None, max_new_tokens=max_new_tokens),
    )


def decode(ids: Any) -> list[str]:
    return ["".join(chr(64 + i) for i in row) for row in ids]


def train_pack(
    loaded: LoadedModel, data: EncodedData, trials: list[Trial], *, n_chunks: int = 3, path: str = "auto"
) -> Packed:
    """Train a pack with the engine."""
    bank, split = make_bank(loaded, trials), Batches(data.train, device=CPU)
    way = choose_path(bank, path)
    settle_masks(bank, way, split.chunk(np.arange(2)))
    loop = Loop(
        bank, way, split, trials[0].budget, n_chunks=n_chunks, clock=Clock(),
        evaluate=lambda: np.zeros(len(trials)), objective=objective_of(data, bank),
    )  # fmt: skip
    state = loop.run()
    return Packed(losses_SxK=np.stack(state.losses_SxK), norms_SxK=np.stack(state.norms_SxK), bank=bank, state=state)


def peft_language_model(loaded: LoadedModel, member: Trial, start: Start) -> Any:
    """A PEFT model that starts from the trial's own adapters."""
    named = member.target_modules
    config = LoraConfig(
        r=member.rank, lora_alpha=member.lora_alpha, lora_dropout=0.0, use_rslora=bool(member.use_rslora),
        target_modules=named if isinstance(named, str) else list(named or ()), task_type="CAUSAL_LM",
        fan_in_fan_out=loaded.model.config.model_type == "gpt2",
    )  # fmt: skip
    model = get_peft_model(clone(loaded.model), config, autocast_adapter_dtype=False)
    own = dict(model.named_parameters())
    for path, weights in start.adapters.items():
        for leaf, value in weights.items():
            linear, embedding = f"lora_{leaf}.default.weight", f"lora_embedding_{leaf}.default"
            (name,) = (name for n in (linear, embedding) if (name := f"base_model.model.{path}.{n}") in own)
            own[name].data.copy_(value)
    return model


def batch_of(split: Encoded, places: Any) -> dict[str, Tensor]:
    """Ids padded with 1, mask, and labels that are -100 at prompt and padding, as transformers' own loss takes them."""
    assert split.prompt_lengths is not None
    longest = int(split.lengths[places].max())
    ids, labels = torch.ones(len(places), longest, dtype=torch.long), torch.full((len(places), longest), -100)
    mask = torch.zeros_like(ids)
    for row, place in enumerate(places):
        own = torch.from_numpy(split.ids[split.offsets[place] : split.offsets[place + 1]].astype(np.int64))
        ids[row, : len(own)], mask[row, : len(own)] = own, 1
        first = int(split.prompt_lengths[place])
        labels[row, first : len(own)] = own[first:]
        if split.target_mask is not None:
            wanted = torch.from_numpy(split.target_mask[split.offsets[place] : split.offsets[place + 1]])
            labels[row, : len(own)] = own.masked_fill(~wanted, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train_alone(loaded: LoadedModel, split: Encoded, member: Trial, model: Any) -> Alone:
    """Train in a plain loop: one forward pass over the padded batch, transformers' shift, mean over target tokens."""

    def loss_of(step: int, places: npt.NDArray[np.int64]) -> Tensor:
        batch = batch_of(split, places)
        labels = batch.pop("labels")
        logits = model(**batch).logits[:, :-1]  # in float64: the model's own loss casts to float32
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

    return descend(model, split, member, optimizer_of(model, member), loss_of)


@torch.no_grad()
def written_alone(model: Any, split: Encoded, limit: int) -> list[list[int]]:
    """Greedy texts of one model, one example at a time, without padding and kept keys: ids before the end token."""
    assert split.prompt_lengths is not None
    found = []
    for place in range(len(split)):
        start = int(split.offsets[place])
        ids = [int(i) for i in split.ids[start : start + int(split.prompt_lengths[place])]]
        made: list[int] = []
        while len(made) < limit:
            token = int(model(input_ids=torch.tensor([ids + made])).logits[0, -1].argmax())
            if token == END:
                break
            made.append(token)
        found.append(made)
    return found
