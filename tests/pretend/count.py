"""Counts one training step on a GPU that is not there: kernels, bytes that they read and write, peak of live bytes.

`python -m tests.pretend.count STUB CASE...` prints a line of JSON for each case. Tensors have shapes and no data
(FakeTensorMode), so the sizes are real ones: RoBERTa-base, Llama-7B. A kernel here is an operation of aten that is no
view and no allocation; bytes are those of its inputs and outputs once each, which is what it moves where nothing stays
in a cache. A case may be counted with the Triton kernels (launches.py), whose bytes are those of their tensors once
each, and with chunks filled up as those that are recorded. Nothing says how long it takes.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from pathlib import Path

    from tests.pretend import stub

    stub.load(Path(sys.argv[1]))

import json
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from bench.core.clock import Clock
from bench.core.spec import Pack, TrainBudget, Trial
from bench.data.splits import Encoded, EncodedData, Reading
from bench.engine import guard, kernels
from bench.engine import run as engine
from bench.engine.graphs import Graphs
from bench.engine.loop import Loop
from bench.engine.run import EngineOptions
from bench.models._base import LoadedModel
from tests.pretend import launches

GPU = torch.device("cuda:0")
BLOCK = 512  # bytes: torch's allocator hands out multiples of it
# Operations that launch nothing: views, and allocations without a fill.
_SILENT = (
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach",
    "alias", "split", "split_with_sizes", "unbind", "as_strided", "unfold", "lift_fresh", "empty", "empty_like",
    "new_empty", "empty_strided", "new_empty_strided", "diagonal", "_reshape_alias", "chunk", "narrow", "view_as_real",
)  # fmt: skip
_GATHERS = ("embedding", "index", "index_select", "gather")  # read as much as they write, not the whole table


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A pack and the shapes of its base."""

    base: Literal["roberta-base", "llama-7b"]
    method: Literal["lora", "full"]
    n_trials: int
    dropout: float = 0.1
    checkpoints: bool = False
    targets: str | tuple[str, ...] = ("query", "value")
    kernels: bool = False  # Triton's
    fills: bool = False  # chunks, as those that are recorded


CASES = {
    "lora-1": Case(base="roberta-base", method="lora", n_trials=1),
    "lora-32": Case(base="roberta-base", method="lora", n_trials=32),
    "lora-64": Case(base="roberta-base", method="lora", n_trials=64),
    "full-8": Case(base="roberta-base", method="full", n_trials=8),
    "llama-1": Case(base="llama-7b", method="lora", n_trials=1, dropout=0.0, targets=("q_proj", "v_proj")),
    "llama-1-all": Case(base="llama-7b", method="lora", n_trials=1, dropout=0.0, targets="all-linear"),
    "llama-4": Case(
        base="llama-7b", method="lora", n_trials=4, dropout=0.0, targets=("q_proj", "v_proj"), checkpoints=True
    ),
}
# with the Triton kernels; and as a step is that has been recorded
CASES |= {f"{name}-kernels": replace(CASES[name], kernels=True) for name in ("lora-1", "lora-32", "lora-64")}
CASES |= {
    f"{name}-recorded": replace(CASES[f"{name}-kernels"], fills=True) for name in ("lora-1", "lora-32", "lora-64")
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What a training step takes. `by_operation` has the kernels by name, most first; bytes are of the device."""

    case: str
    path: str
    n_chunks: int
    tokens: int
    kernels: int
    moved_bytes: int
    peak_bytes: int  # of all live tensors: base, adapters, optimizer, activations
    idle_bytes: int  # of what stays between steps
    by_operation: dict[str, int]


class Ledger(TorchDispatchMode):
    """Counts what is launched on cuda:0 and what lives there."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.moved, self.live, self.peak = Counter[str](), 0, 0, 0
        self._sizes: dict[int, int] = {}
        self._launched: tuple[str, int] | None = None  # the last of Triton's kernels, and where it writes

    def start(self) -> None:
        """Forget what was launched; the peak begins at what lives now."""
        self.kernels.clear()
        self.moved, self.peak = 0, self.live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        ins, outs = _on_gpu((args, kwargs)), _on_gpu(out)
        for tensor in outs:
            self._hold(tensor)
        name = func.name().removeprefix("aten::").partition(".")[0]
        if not func.name().startswith("aten::") or name in _SILENT or not (ins or outs):
            return out
        self.kernels[name] += 1
        written = {id(tensor) for tensor in outs}
        read = outs if name in _GATHERS else [tensor for tensor in ins if id(tensor) not in written]
        in_place = any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns)
        self.moved += sum(map(_bytes, read)) + sum(map(_bytes, outs)) * (2 if in_place else 1)
        return out

    def launched(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Count a launch of one of Triton's kernels, whose first tensor is written.

        Attention is launched once for each block of lengths, on tensors of which each launch has its texts' part.
        """
        self.kernels[name] += 1
        part = (name, tensors[0].untyped_storage()._cdata)
        if part != self._launched:
            self.moved += sum(map(_bytes, {id(tensor): tensor for tensor in tensors}.values()))
        self._launched = part

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = -(-storage.nbytes() // BLOCK) * BLOCK
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


def _on_gpu(found: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and leaf.device.type == "cuda"]


def _bytes(tensor: Tensor) -> int:
    """Return how many bytes a tensor's values take; of an expanded one those that are there."""
    size = tensor.element_size()
    return min(tensor.numel(), tensor.untyped_storage().nbytes() // size) * size


def lengths_like_sst2(n: int) -> np.ndarray:
    """Return tokens of sentences spread as SST-2's are: median 11, mean 14.4, from 3 to 67."""
    spread = np.sqrt(2 * np.log(14.36 / 11))
    drawn = np.exp(np.random.default_rng(0).normal(np.log(11), spread, n))
    return np.clip(np.round(drawn), 3, 67).astype(np.int64)


def model_of(case: Case) -> LoadedModel:
    """Return the base in bf16, on no device that has data."""
    config: PretrainedConfig
    kind: Any
    if case.base == "roberta-base":
        kind = AutoModelForSequenceClassification
        config = RobertaConfig(
            vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2,
            hidden_dropout_prob=case.dropout, attention_probs_dropout_prob=case.dropout,
        )  # fmt: skip
    else:
        kind = AutoModelForCausalLM
        config = LlamaConfig(num_hidden_layers=32, hidden_size=4096, intermediate_size=11008, vocab_size=32000)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with GPU:
            model: PreTrainedModel = kind.from_config(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    head = tuple(name for name, parameter in model.named_parameters() if id(parameter) not in inside)
    return LoadedModel(model=model, head_names=head if case.base == "roberta-base" else ())


def data_of(case: Case) -> EncodedData:
    """Return texts of SST-2's lengths, or of 256 tokens half of which are targets."""
    is_causal = case.base != "roberta-base"
    lengths = np.full(512, 256) if is_causal else lengths_like_sst2(2048)
    split = Encoded(
        ids=np.full(int(lengths.sum()), 7, dtype=np.int32), type_ids=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]), labels=np.zeros(len(lengths), dtype=np.int64),
        index=np.arange(len(lengths)), **({"prompt_lengths": lengths // 2} if is_causal else {}),
    )  # fmt: skip
    reading: Any = (
        {"reading": Reading(decode=lambda ids: [], end_id=2, answer=None, max_new_tokens=None)} if is_causal else {}
    )
    metric, n_labels = ("perplexity", 0) if is_causal else ("accuracy", 2)
    return EncodedData(
        train=split, select=None, eval=split, n_labels=n_labels, metric=metric, data_hash="0" * 16, **reading
    )


def trials_of(case: Case) -> tuple[Trial, ...]:
    """Return trials of equal settings at different rates."""
    batch_size = 16 if case.base == "llama-7b" else 32
    budget = TrainBudget(max_steps=100, eval_steps=50, batch_size=batch_size, precision="bf16", max_length=512)
    lora: dict[str, Any] = {
        "rank": 8, "lora_alpha": 8.0, "use_rslora": False, "lora_dropout": case.dropout, "init": "zero_B",
        "target_modules": case.targets,
    }  # fmt: skip
    rates = [1e-4 * (i + 1) for i in range(case.n_trials)]
    return tuple(
        Trial(
            task="t", model="m", data_hash="d", model_hash="h", method=case.method, seed=0, budget=budget, eta_A=rate,
            **({**lora, "eta_B": rate} if case.method == "lora" else {}),
        )
        for rate in rates
    )  # fmt: skip


def count(name: str) -> Counted:
    """Return what the second step of a case takes; the first makes what stays."""
    case = CASES[name]
    ledger = Ledger()
    names = kernels.NAMES if case.kernels else ()
    with FakeTensorMode(), ledger, kernels.use(*names):
        if case.kernels:
            launches.install(ledger.launched)
        loop = built(case)
        if case.fills:
            loop.graphs = Graphs(loop._add_alone, loop.bank.keys, _unrecorded)
        places = _usual(loop)
        loop.step(places)
        ledger.start()
        idle = ledger.live
        loop.step(places)
    return Counted(
        case=name, path=loop.path.name, n_chunks=loop.n_chunks, tokens=int(loop.split.lengths[places].sum()),
        kernels=ledger.kernels.total(), moved_bytes=ledger.moved, peak_bytes=ledger.peak, idle_bytes=idle,
        by_operation=dict(ledger.kernels.most_common()),
    )  # fmt: skip


def _unrecorded(work: Any) -> Any:
    """Record nothing: what a recording repeats is what the chunk's first pass does."""
    raise RuntimeError("there is no GPU")


def built(case: Case, with_ids: np.random.Generator | None = None) -> Loop:
    """Return the loop of a case; `with_ids` draws ids, for a step that is computed."""
    trials, loaded, data = trials_of(case), model_of(case), data_of(case)
    if with_ids is not None:
        drawn = with_ids.integers(5, 1000, len(data.train.ids)).astype(np.int32)
        data = replace(data, train=replace(data.train, ids=drawn))
    options = EngineOptions(device=GPU, gradient_checkpointing=case.checkpoints)
    ready = engine.prepare(Pack(trials=trials), data, loaded, options)
    return Loop(
        ready.bank, ready.path, ready.train, trials[0].budget, n_chunks=ready.n_chunks, clock=Clock(),
        evaluate=lambda: np.zeros(len(trials)), objective=ready.objective,
    )  # fmt: skip


def _usual(loop: Loop) -> np.ndarray:
    """Return the batch, of the first twenty, whose tokens come nearest to their mean."""
    batches = list(loop.split.order(seed=0, batch_size=loop.budget.batch_size, max_steps=20))
    tokens = np.array([loop.split.lengths[batch].sum() for batch in batches])
    return np.asarray(batches[int(np.argmin(abs(tokens - tokens.mean())))])


def without_looks_at_values() -> None:
    """Leave out what looks at values before training, which tensors without any cannot answer: the guard, the settling
    of masks; and recording, which needs a GPU.
    """
    Loop._can_record = lambda self, least_steps: False  # type: ignore[method-assign]
    guard.require = lambda *args, **kwargs: None  # type: ignore[assignment]
    guard.problem = lambda *args, **kwargs: None  # type: ignore[assignment]
    engine.settle_masks = lambda *args: None  # type: ignore[assignment]
    Tensor.pin_memory = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment,misc]
    FakeTensorMode.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]  # a copy would not mix with it
    torch.cuda.is_bf16_supported = lambda *args, **kwargs: True  # type: ignore[assignment]
    torch.nn.Module.to = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment,misc]


def main(names: Sequence[str]) -> None:
    """Print what each case takes."""
    torch.autograd.set_multithreading_enabled(False)  # the ledger sees operations of its own thread alone
    without_looks_at_values()
    for name in names:
        print(json.dumps(asdict(count(name))), flush=True)


if __name__ == "__main__":
    main(sys.argv[2:])
