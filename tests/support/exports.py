"""Small tasks and models of one's own, swept to be taken away."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
)

from tests.support.tiny_models import save_tokenizer

CLASSES = ("quite bad", "so so", "rather good", "very good")


OPTIONS = ("--eta-A", "1e-2", "--ranks", "2", "--seeds", "0", "--steps", "4", "--batch", "8", "--max-length", "16",
           "--n-select", "0", "--device", "cpu")  # fmt: skip


def four_classes(directory: Path) -> Path:
    rows = [
        f"{text}\t{label}" for text in ("a good film", "not a bad plot", "very bad .", "why ?") for label in CLASSES
    ]
    for name in ("train", "dev"):
        (directory / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    task = directory / "stars.toml"
    files = '[files]\ntrain = "train.tsv"\neval = "dev.tsv"\n'
    task.write_text(f'name = "stars"\nlabels = {json.dumps(CLASSES)}\nmetric = "accuracy"\n{files}', encoding="utf-8")
    return task


def decoder(directory: Path, *, tied: bool) -> Path:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2, tie_word_embeddings=tied,
        initializer_range=0.3,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    save_tokenizer(directory, "roberta")
    return directory


def sums(directory: Path) -> Path:
    rows = "\n".join(["text\ttarget", *(f"{a}\t{b}" for a, b in (("good", "film"), ("bad", "plot"), ("a", "why")) * 6)])
    for name in ("train", "dev"):
        (directory / f"{name}.tsv").write_text(rows + "\n", encoding="utf-8")
    task = directory / "say.toml"
    task.write_text(
        'name = "say"\nkind = "causal_lm"\nmetric = "perplexity"\ndefault_model = "m"\n[columns]\nprompt = "text"\n'
        'target = "target"\n[files]\ntrain = "train.tsv"\neval = "dev.tsv"\n', encoding="utf-8",
    )  # fmt: skip
    return task
