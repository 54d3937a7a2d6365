"""Conversations, a byte-level tokenizer that knows the usual marks, and templates, for tests of chat tasks."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bench.data import chat
from bench.data.splits import Split
from bench.tasks._chat import split_of

MARKS = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|begin_of_text|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# the same, with the assistants' turns and their end marks marked
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 400 tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(MARKS), initial_alphabet=alphabet)
    made.train_from_iterator(["user assistant system hello how are you fine thanks"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", additional_special_tokens=list(MARKS[2:])
    )


def messages(*said: str, system: str | None = None) -> list[dict[str, str]]:
    """Return a conversation: users and assistants take turns."""
    roles = ["user", "assistant"] * len(said)
    turns = [{"role": role, "content": content} for role, content in zip(roles, said, strict=False)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def split(*conversations: list[dict[str, Any]]) -> Split:
    """Return conversations as a task's data has them."""
    return split_of(chat.text_of(one) for one in conversations)


def write_jsonl(path: Path, *rows: Any) -> Path:
    """Write one JSON value a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def save_chatty(directory: Path, template: str = CHATML) -> Path:
    """Save a random Llama of 2 layers, 16 wide, with this module's tokenizer and a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=256, pad_token_id=1, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    torch.random.set_rng_state(state)
    tokenizer().save_pretrained(directory)
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory
