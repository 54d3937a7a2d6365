"""The work that every contender does: the same examples of one task, one model, one LoRA trial's settings."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from bench.core.seeds import derive
from bench.core.spec import Precision, Trial
from bench.data.splits import Encoded, EncodedData
from bench.data.text import take
from bench.models._base import LoadedModel

WARM_UP_STEPS = 2
LEAST_STEPS = {"cpu": 2}  # of a pack in a block; else GPU_STEPS: a step there is over in milliseconds
GPU_STEPS = 8
WRITTEN = 32  # prompts of a block of generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A block of `steps` training steps over exactly the examples of `data.train`, each once, and an evaluation.

    `trial` is the LoRA trial that is trained (its precision and rates aside); `loaded` the model it starts from, in
    float32 on the CPU, of which every contender gets a copy of its own.
    """

    trial: Trial
    data: EncodedData
    loaded: LoadedModel
    matmul_params: int  # P, see bench.schedule.estimate; of a language model without its head
    device: torch.device
    steps: int
    pad_to: int = 128  # B0's fixed length, in tokens
    head_params: int = 0  # weights of a language model's head, whose product is needed at targets only

    @property
    def batch_size(self) -> int:
        """Examples in a step of one trial."""
        return self.trial.budget.batch_size

    @property
    def is_causal(self) -> bool:
        """Whether targets are learnt, and texts generated."""
        return self.data.reading is not None

    @property
    def written(self) -> Encoded:
        """The examples whose prompts are written after: at most WRITTEN of the evaluation split."""
        return representative(self.data.eval, WRITTEN)

    @property
    def limit(self) -> int:
        """Tokens of a generated text at most, as an evaluation has it."""
        split, reading = self.written, self.data.reading
        assert split.prompt_lengths is not None
        assert reading is not None
        return reading.max_new_tokens or int((split.lengths - split.prompt_lengths).max())

    def model(self, dtype: torch.dtype = torch.float32) -> LoadedModel:
        """Return a copy of the model in `dtype`."""
        return replace(self.loaded, model=copy.deepcopy(self.loaded.model).to(dtype))

    def trials(self, n: int, precision: Precision, max_steps: int) -> tuple[Trial, ...]:
        """Return n trials that differ in their rates, which are small enough that none diverges."""
        budget = replace(self.trial.budget, precision=precision, max_steps=max_steps, eval_steps=max_steps)
        rates = [1e-6 * (1 + k / n) for k in range(n)]
        return tuple(replace(self.trial, eta_A=rate, eta_B=rate, budget=budget) for rate in rates)

    def batches(self, n: int) -> list[npt.NDArray[np.int64]]:
        """Return n of the block's batches, places in data.train: those in a row whose lengths are nearest to the mean.

        A contender whose step takes long does fewer of them; the choice keeps its tokens per example those of all.
        """
        size, split = self.batch_size, self.data.train
        every = [np.arange(i, min(i + size, len(split))) for i in range(0, len(split), size)]
        tokens = np.array([split.lengths[places].sum() for places in every], dtype=np.float64)
        n = min(n, len(every))
        means = np.convolve(tokens, np.ones(n) / n, mode="valid")
        first = int(np.argmin(np.abs(means - tokens.mean())))
        return every[first : first + n]

    def steps_of(self, n_trials: int) -> int:
        """Return the steps of a pack of this size: together about those of one trial."""
        return max(LEAST_STEPS.get(self.device.type, GPU_STEPS), self.steps // n_trials)

    def longest(self) -> npt.NDArray[np.int64]:
        """Return the batch of the longest examples: warming up with it leaves no allocation for later."""
        order = np.argsort(self.data.train.lengths, kind="stable")
        return np.ascontiguousarray(order[-self.batch_size :])


def representative(split: Encoded, n: int, *, seed: int = 0) -> Encoded:
    """Return n examples whose lengths are spread as the whole split's are, in random order.

    Every len(split) / n-th example by length: the mean length of a small sample drawn at random would be off by
    several percent, and with it every rate.
    """
    n = min(n, len(split))
    by_length = np.argsort(split.lengths, kind="stable")
    chosen = by_length[((np.arange(n) + 0.5) * len(split) / n).astype(np.int64)]
    shuffled = np.random.Generator(np.random.Philox(derive("throughput", seed))).permutation(chosen)
    return take(split, shuffled)


def n_targets(split: Encoded) -> int | None:
    """Return the tokens that a causal language model learns; None where there are none."""
    targets = split.is_target()
    return None if targets is None else int(targets.sum())


def of_length(n: int, length: int, *, vocab_size: int, n_labels: int, seed: int = 0) -> Encoded:
    """Return n examples of exactly `length` random tokens, for the cost of length alone; ids above the special ones."""
    rng = np.random.Generator(np.random.Philox(derive("length", seed, length)))
    low = min(200, vocab_size // 2)  # tokenizers number special tokens and bytes first
    return Encoded(
        ids=rng.integers(low, vocab_size, n * length).astype(np.int32),
        type_ids=None,
        offsets=np.arange(0, (n + 1) * length, length, dtype=np.int64),
        labels=rng.integers(0, n_labels, n),
        index=np.arange(n, dtype=np.int64),
    )
