"""Tiny random models with tokenizers, saved as save_pretrained does: what a local directory or the Hub holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = ["good", "bad", "film", "a", "not", "very", "plot", "why", "?", "."]


def save_tiny(directory: Path, model_type: str = "bert", *, pooler: bool = True, seed: int = 0, **changes: Any) -> Path:
    """Save a random base model (no head) of 2 layers, 16 wide, and its tokenizer; return the directory."""
    import torch
    from transformers import AutoConfig, AutoModel

    sizes: dict[str, Any] = {
        "vocab_size": 32,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "type_vocab_size": 2 if model_type == "bert" else 1,
        "pad_token_id": 0 if model_type == "bert" else 1,
    }
    config = AutoConfig.for_model(model_type, **{**sizes, **changes})
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    base = AutoModel.from_config(config, **({} if pooler else {"add_pooling_layer": False}))
    torch.random.set_rng_state(state)
    base.save_pretrained(directory)
    save_tokenizer(directory, model_type)
    return directory


def save_tokenizer(directory: Path, model_type: str = "bert") -> None:
    """Save a tokenizer of WORDS: WordPiece as BERT's, or byte-level BPE without merges as RoBERTa's."""
    from transformers import BertTokenizerFast, RobertaTokenizerFast

    if model_type == "bert":
        vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
        BertTokenizerFast(vocab=vocab, model_max_length=40).save_pretrained(directory)
        return
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(set("".join(WORDS))), "Ġ"]
    RobertaTokenizerFast(vocab={t: i for i, t in enumerate(letters)}, merges=[]).save_pretrained(directory)
