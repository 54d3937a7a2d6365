"""Causal language models: the loss of a target's tokens, and the scores of what is generated (generate.py).

Loss: the mean over all target tokens of a batch, as transformers' own with -100 at the prompt: an example with a longer
target weighs more. Generation knows nothing of the targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.core import devices
from bench.data import causal
from bench.data.splits import Reading
from bench.engine import generate
from bench.engine.bank import Bank
from bench.engine.batching import Batches, Chunk
from bench.engine.chunking import EVAL_ROWS, evaluation_rows
from bench.engine.paths import Path

Floats = npt.NDArray[np.float64]


class NextTokens:
    """Cross-entropy of the target's tokens; scored by what is generated, or by perplexity."""

    def __init__(self, bank: Bank, metric: str, reading: Reading, *, ragged: bool = False) -> None:
        self.bank, self.metric, self.reading = bank, metric, reading
        self.ragged = ragged  # prompts of any lengths may be read together: see bench/engine/guard.py
        self.chance_loss = math.log(bank.model.config.get_text_config().vocab_size)

    def summed_loss(self, path: Path, chunk: Chunk) -> Tensor:
        """Return each trial's cross-entropy, summed over the chunk's target tokens: [K]."""
        return self._of_examples(path, chunk).sum(dim=1)

    def count(self, split: Batches, places: npt.NDArray[np.int64]) -> int:
        """Return the number of target tokens, the end tokens included."""
        return int(_target_lengths(split)[places].sum())

    def evaluate(self, path: Path, split: Batches, *, n_trials: int) -> Written:
        """Return losses and, where the metric asks for it, generated texts of all trials on the whole split."""
        found = self.read(path, split, n_trials=n_trials)
        return self.with_texts(found, split) if self.metric in causal.GENERATED else found

    def read(self, path: Path, split: Batches, *, n_trials: int) -> Written:
        """Return losses of all trials on the whole split."""
        return Written(
            losses_KxN=self._losses(path, split, n_trials),
            counts_N=_target_lengths(split),
            bytes_N=split.target_bytes,
            texts=None,
            answer=self.reading.answer,
            numeric=self.reading.numeric,
        )

    def with_texts(self, found: Written, split: Batches) -> Written:
        """Return what was made of the split with its generated texts, which are made now unless they are there."""
        return found if found.texts is not None else replace(found, texts=self._texts(split))

    @torch.no_grad()
    def _losses(self, path: Path, split: Batches, n_trials: int) -> Floats:
        wide = devices.widest_float(split.device)
        losses = torch.zeros(n_trials, split.n, dtype=wide, device=split.device)
        words = self.bank.model.config.get_text_config().vocab_size
        rows = evaluation_rows(path.name, on_cpu=split.device.type == "cpu", vocab_size=words)
        for chunk in split.chunks_of(max(1, rows // n_trials)):
            losses[:, chunk.place_b] = self._of_examples(path, chunk).to(wide)
        return losses.cpu().numpy().astype(np.float64)

    def _of_examples(self, path: Path, chunk: Chunk) -> Tensor:
        """Return the cross-entropy of each example's target, summed over its tokens: [K, b]."""
        target_M = chunk.target_places()
        losses_KxM = path.losses(chunk, target_M - 1, chunk.ids_N[target_M])
        losses_Kxb = losses_KxM.new_zeros(len(losses_KxM), chunk.n_examples)
        return losses_Kxb.index_add(1, chunk.row_N[target_M], losses_KxM)

    def write(self, split: Batches, limit: int) -> list[list[list[int]]]:
        """Return the ids that each trial writes after each prompt, [K][N], at most `limit`."""
        write = generate.ragged if self.ragged else generate.equal
        return write(self.bank, split, end_id=self.reading.end_id, limit=limit, max_tokens=EVAL_ROWS)

    def _texts(self, split: Batches) -> Texts:
        """Return the decoded targets, and what each trial generates in their place."""
        generated = self.write(split, self.reading.max_new_tokens or int(_target_lengths(split).max()))
        targets = [generate.until(ids, self.reading.end_id) for ids in split.targets()]
        decode = self.reading.decode
        return Texts(targets=tuple(decode(targets)), generated=tuple(tuple(decode(rows)) for rows in generated))


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """What was wanted, [N], and what each trial wrote, [K][N]."""

    targets: tuple[str, ...]
    generated: tuple[tuple[str, ...], ...]

    def each(self, score: Callable[[str, str], float]) -> Floats:
        """Return `score(written, target)` of every text: [K, N], float64."""
        scores = [[score(*both) for both in zip(row, self.targets, strict=True)] for row in self.generated]
        return np.array(scores, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What K trials make of one split: see `bench.engine.objective.Scored`."""

    losses_KxN: Floats  # summed over an example's target tokens
    counts_N: npt.NDArray[np.int64]  # target tokens
    texts: Texts | None
    answer: str | None
    numeric: bool = False
    bytes_N: npt.NDArray[np.int64] | None = None  # of the text that the target tokens write

    @property
    def loss_K(self) -> Floats:
        """Return the mean over all target tokens of the split."""
        return self._per(self.counts_N)

    def score(self, metric: str) -> tuple[Floats, Floats]:
        """Return the metric of each trial and its standard error over the examples: [K] each, float64.

        Raises:
            ValueError: a metric of written texts, where none were generated.
        """
        if metric == "perplexity":
            return self._perplexity()
        if metric == "eval_loss":
            return self.loss_K, self._stderr_K(self.counts_N)
        if metric == "bits_per_byte":
            return self._bits_per_byte()
        if self.texts is None:
            raise ValueError(f"{metric} needs generated texts")
        if metric == "exact_match":
            one: Callable[[str, str], float] = self._is_match
        else:
            one = causal.char_accuracy
        values_KxN = self.texts.each(one)
        return values_KxN.mean(axis=1), values_KxN.std(axis=1) / np.sqrt(values_KxN.shape[1])

    def several(self, names: Sequence[str], classes: tuple[str, ...]) -> dict[str, tuple[Floats, Floats]]:
        """Return metrics by name; there are no classes."""
        return {name: self.score(name) for name in names}

    def predictions(self, k: int) -> None:
        """Return None: texts are not kept."""

    def accuracy(self, k: int) -> float | None:
        """Return the share of examples that trial k wrote right."""
        correct = self.correct(k)
        return None if correct is None else float(correct.mean())

    def correct(self, k: int) -> npt.NDArray[np.bool_] | None:
        """Return which targets (or their answers) trial k wrote right, whole: [N]; None without generated texts."""
        if self.texts is None:
            return None
        both = zip(self.texts.generated[k], self.texts.targets, strict=True)
        return np.array([self._is_match(mine, target) for mine, target in both], dtype=np.bool_)

    def _is_match(self, generated: str, target: str) -> bool:
        return causal.is_match(generated, target, self.answer, numeric=self.numeric)

    def says_one_thing(self, k: int) -> bool:
        """Return whether trial k writes the same text for all of several different targets."""
        texts = self.texts
        return texts is not None and len(set(texts.targets)) > 1 and len(set(texts.generated[k])) == 1

    def _perplexity(self) -> tuple[Floats, Floats]:
        """Return exp(loss), and its standard error by the delta method."""
        loss_K, stderr_K = self.loss_K, self._stderr_K(self.counts_N)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(loss_K), np.exp(loss_K) * stderr_K

    def _bits_per_byte(self) -> tuple[Floats, Floats]:
        """Return the loss in bits over the bytes of the targets' text: the same for every tokenizer; nan if unknown."""
        if self.bytes_N is None:
            unknown = np.full(len(self.losses_KxN), np.nan)
            return unknown, unknown
        return self._per(self.bytes_N) / math.log(2), self._stderr_K(self.bytes_N) / math.log(2)

    def _per(self, sizes_N: npt.NDArray[np.int64]) -> Floats:
        return np.asarray(self.losses_KxN.sum(axis=1) / sizes_N.sum())

    def _stderr_K(self, sizes_N: npt.NDArray[np.int64]) -> Floats:
        """Return the standard error of the summed loss over the summed sizes: a ratio of means over examples."""
        residuals_KxN = self.losses_KxN - self._per(sizes_N)[:, None] * sizes_N
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.sqrt((residuals_KxN**2).mean(axis=1) / len(sizes_N)) / sizes_N.mean())


def _target_lengths(split: Batches) -> npt.NDArray[np.int64]:
    assert split.n_targets is not None
    return split.n_targets
