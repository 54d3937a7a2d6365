"""Train tiny-roberta from nothing: its tokenizer, then masked-language modelling on text of the demo grammar.

    python -m bench.embedded.demo.pretrain --out DIR

One thread and a fixed number of steps, so that a machine repeats its own weights bit by bit (another processor or
version of torch rounds differently).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from bench.embedded.demo import corpus, grammar, words
from bench.embedded.pretraining import Schedule, updater

VOCAB_SIZE = 1_650
HIDDEN_SIZE = 96
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True))  # " <mask>" is one token
POOL_BATCHES = 50  # batches are cut from this many batches' documents sorted by length
PROBE_SEED, N_PROBE = 99, 1_000

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining(Schedule):
    """The settings of one pretraining run; the defaults gave the shipped weights."""

    steps: int = 12_000
    peak_learning_rate: float = 1.5e-3
    warmup_steps: int = 200
    decay_from: float = 0.4
    easy_fraction: float = 0.1  # of the steps, the first ones, see nothing but word lists with their verdict
    adam_eps: float = 1e-6  # RoBERTa's, as its betas
    mask_verdict: float = 0.7  # probability that a document's verdict word is masked
    mask_word: float = 0.2  # probability that any other token is masked where the verdict is not
    mask_word_beside: float = 0.08  # and where it is: the words that decide the verdict are needed to fill it
    n_documents: int = corpus.N_DOCUMENTS


def train_tokenizer(documents: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with RoBERTa's special tokens, trained on `documents`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=SPECIAL_TOKENS[-1],
        model_max_length=128,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int, hidden_size: int = HIDDEN_SIZE) -> RobertaForMaskedLM:
    """Return the untrained model.

    Embeddings are not tied to the output layer and start at standard deviation 0.07: tied ones, or RoBERTa's 0.02, stay
    on a plateau for longer than this whole run.
    """
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=130,  # 128 tokens; RoBERTa's positions begin at 2
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.07,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return RobertaForMaskedLM(config)


def batches(encoded: Sequence[Sequence[int]], batch_size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Yield, without end, lists of document numbers: shuffled each epoch, each list of similar lengths."""
    pool = POOL_BATCHES * batch_size
    while True:
        order = rng.permutation(len(encoded))
        cut = []
        for start in range(0, len(order) - batch_size + 1, pool):
            by_length = sorted(order[start : start + pool].tolist(), key=lambda i: len(encoded[i]))
            cut += [by_length[i : i + batch_size] for i in range(0, len(by_length) - batch_size + 1, batch_size)]
        for k in rng.permutation(len(cut)).tolist():
            yield cut[k]


def mask_batch(
    ids: Ids, verdict_ids: Ids, tokenizer: PreTrainedTokenizerFast, settings: Pretraining, rng: np.random.Generator
) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Return the ids with <mask> in the chosen places, and where those are: both [batch, tokens]."""
    is_verdict = np.isin(ids, verdict_ids)
    hidden = is_verdict & (rng.random((len(ids), 1)) < settings.mask_verdict)
    rate = np.where(hidden.any(axis=1, keepdims=True), settings.mask_word_beside, settings.mask_word)
    special = np.isin(ids, tokenizer.all_special_ids)
    chosen = hidden | ((rng.random(ids.shape) < rate) & ~is_verdict & ~special)
    return np.where(chosen, tokenizer.mask_token_id, ids), chosen


def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> Ids:
    """Return the sequences as one array [batch, longest]."""
    out = np.full((len(sequences), max(map(len, sequences))), pad_id, dtype=np.int64)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence)] = sequence
    return out


def train(
    model: RobertaForMaskedLM, tokenizer: PreTrainedTokenizerFast, documents: Sequence[str], settings: Pretraining
) -> Iterator[tuple[int, float]]:
    """Train the model in place; yield (steps done, loss of the step in nats) after each step."""
    rng = np.random.default_rng(settings.seed)
    easy = corpus.easy_documents(settings.seed + 1, settings.batch_size * 200)
    easy_ids, all_ids = tokenizer(easy)["input_ids"], tokenizer(list(documents))["input_ids"]
    easy_order = batches(easy_ids, settings.batch_size, rng)
    order = batches(all_ids, settings.batch_size, rng)
    verdict_ids = np.array(verdict_token_ids(tokenizer))
    update = updater(model, settings)
    model.train()
    for step in range(settings.steps):
        is_easy = step < settings.easy_fraction * settings.steps
        chosen = [easy_ids[i] for i in next(easy_order)] if is_easy else [all_ids[i] for i in next(order)]
        ids = pad(chosen, tokenizer.pad_token_id)
        masked, where = mask_batch(ids, verdict_ids, tokenizer, settings, rng)
        if where.any():
            loss = _loss(model, masked, ids, where, tokenizer.pad_token_id)
            yield step + 1, update(step, loss)


def verdict_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of the ten verdict words, each of which must be one token."""
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in sorted(words.VERDICT_WORDS)]
    if any(len(one) != 1 for one in ids):
        raise ValueError("the tokenizer splits a verdict word: train it on more documents")
    return [one[0] for one in ids]


def probe_reviews(documents: Sequence[str], n: int = N_PROBE) -> list[tuple[str, str, str]]:
    """Return n reviews with a hole for their verdict that stand neither in `documents` nor in the task."""
    seen = task_texts() | {corpus.without_verdict(document) for document in documents}
    return corpus.unseen_reviews(PROBE_SEED, n, exclude=seen)


@torch.no_grad()
def probe(model: Any, tokenizer: Any, reviews: Sequence[tuple[str, str, str]]) -> float:
    """Return how often the right verdict word is likelier than its opposite, 0 .. 1; guessing gives 0.5."""
    right = 0
    model.eval()
    for start in range(0, len(reviews), 100):
        part = reviews[start : start + 100]
        texts = [form.format(tokenizer.mask_token) for form, _, _ in part]
        ids = torch.from_numpy(pad(tokenizer(texts)["input_ids"], tokenizer.pad_token_id))
        logits = model(input_ids=ids, attention_mask=ids != tokenizer.pad_token_id).logits
        at_mask = logits[ids == tokenizer.mask_token_id]  # [reviews, vocabulary]
        pairs = [[tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in review[1:]] for review in part]
        scores = at_mask.gather(1, torch.tensor(pairs))
        right += int((scores[:, 0] > scores[:, 1]).sum())
    model.train()
    return right / len(reviews)


def task_texts() -> frozenset[str]:
    """Return the texts of the demo task, which the pretraining text must not contain."""
    return frozenset(text for split in grammar.generate_splits() for text in split.texts)


def _loss(model: RobertaForMaskedLM, masked: Ids, ids: Ids, where: npt.NDArray[np.bool_], pad_id: int) -> torch.Tensor:
    inputs = torch.from_numpy(masked)
    hidden = model.roberta(input_ids=inputs, attention_mask=inputs != pad_id).last_hidden_state
    chosen = torch.from_numpy(where)
    logits = model.lm_head(hidden[chosen])  # [masked tokens, vocabulary]: the others have no loss
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids)[chosen])


def main() -> None:
    """Pretrain with the default settings and write the model's directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=Pretraining().steps)
    parser.add_argument(
        "--hidden-size", type=int, default=HIDDEN_SIZE, help="features; the inner layers have twice as many"
    )
    parser.add_argument("--report-every", type=int, default=500, help="steps between printed lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Pretraining(steps=options.steps)
    started = time.perf_counter()
    documents = corpus.documents(n=settings.n_documents, exclude=task_texts())
    tokenizer = train_tokenizer(documents)
    model = new_model(tokenizer, settings.seed, options.hidden_size)
    reviews = probe_reviews(documents)
    print(f"{len(documents)} documents, {len(tokenizer)} tokens, {model.num_parameters()} parameters", flush=True)
    for step, loss in train(model, tokenizer, documents, settings):
        if step % options.report_every == 0 or step == settings.steps:
            line = f"step {step}: loss {loss:.3f}, verdict filled {probe(model, tokenizer, reviews):.3f}"
            print(f"{line}, {time.perf_counter() - started:.0f} s", flush=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
