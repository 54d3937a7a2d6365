"""Train tiny-decoder from nothing: a Llama that has memorised pairs of UUIDs, none of them those of the task.

    python -m bench.embedded.uuids.pretrain --out DIR

So the layout, the reading of a key and the way from key to value are there, and not one of the pairs that are to be
learnt. One thread and a fixed number of steps: a machine repeats its own weights bit by bit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.embedded.pretraining import Schedule, updater
from bench.embedded.uuids import pairs

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
CHARACTERS = "0123456789abcdef-" + pairs.SEPARATOR
N_VALUE_TOKENS = pairs.N_CHARACTERS + 1  # and the end
SET = "pretraining"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining(Schedule):
    """The settings of one pretraining run; the defaults gave the shipped weights."""

    steps: int = 600
    n_pairs: int = 256
    peak_learning_rate: float = 3e-3
    warmup_steps: int = 50
    decay_from: float = 0.6
    adam_eps: float = 1e-8


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token for each character, and four special ones; 22 in all."""
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    begin = ("<s>", vocab["<s>"])  # what it was pretrained with, so that it puts it there itself
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return the untrained model: Llama, 2 layers, 64 wide, embeddings not tied to the output."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def sequences(tokenizer: PreTrainedTokenizerFast, n: int) -> Tensor:
    """Return the first n pairs as token ids, <s> key = value </s>: [n, 75]."""
    split = pairs.split(n, name=SET)
    texts = [prompt + value for prompt, value in zip(split.texts, split.pairs or (), strict=True)]
    inside = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id] for ids in inside])


def train(model: LlamaForCausalLM, ids: Tensor, settings: Pretraining) -> Iterator[tuple[int, float, float]]:
    """Train in place; yield after each step: steps done, loss of the values in nats, share of their tokens right.

    The right ones are counted with the true value before each token (no generation).
    """
    rng = np.random.default_rng(settings.seed)
    update = updater(model, settings)
    for step in range(settings.steps):
        batch = ids[torch.from_numpy(rng.choice(len(ids), min(settings.batch_size, len(ids)), replace=False))]
        logits: Any = model(input_ids=batch).logits[:, -N_VALUE_TOKENS - 1 : -1]
        wanted = batch[:, -N_VALUE_TOKENS:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        right = float((logits.argmax(-1) == wanted).double().mean())
        yield step + 1, update(step, loss), right


def main() -> None:
    """Pretrain and write the model's directory."""
    default = Pretraining()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--n-pairs", type=int, default=default.n_pairs)
    parser.add_argument("--report-every", type=int, default=200, help="steps between printed lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Pretraining(steps=options.steps, n_pairs=options.n_pairs)
    started = time.perf_counter()
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, settings.seed)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters", flush=True)
    for step, loss, right in train(model, sequences(tokenizer, settings.n_pairs), settings):
        if step % options.report_every == 0 or step == settings.steps:
            print(f"step {step}: loss {loss:.3f}, right {right:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
