"""What the work of a trial depends on, on this machine: tokens, weights, memory, place. Imports torch nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core import devices, provenance
from bench.data.splits import Split, TextData
from bench.data.toy import MODEL_TYPE as TOY
from bench.data.toy import ToyData
from bench.engine.decoder_sizes import number
from bench.engine.sizes import shape_of, writes_texts
from bench.models import Located
from bench.schedule.estimate import Place, Workload, matmul_params
from bench.schedule.planner import Limits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = 500  # texts of a split whose tokens are counted: the standard error of their mean is about 3 %
TOKENS_PER_WORD = 1.3  # where there is no tokenizer.json; only time estimate and pack size rest on it
STACKABLE = ("bert", "roberta", "xlm-roberta")  # those that take the engine's unpadded path
TOY_PACK = 1024  # the toy's trials are small, and few large parts are read faster than many small ones
TOY_PARAMS = 1000  # P of the toy: its five products of width x rank take 4P FLOP for each training example


def place_of(device: str) -> Place:
    """Return where trials run: the device's name, as rows tell it, and its kind."""
    chosen = devices.resolve(device)
    if chosen == "cpu":
        return Place(device=provenance.cpu_name(), kind="cpu")
    if chosen == devices.MPS:
        return Place(device=f"{provenance.cpu_name()} GPU", kind=devices.MPS)
    return Place(device=devices.gpu_name(devices.index_of(chosen)), kind="cuda")


def workload_of(data: TextData | ToyData, located: Located, n_select: int) -> Workload:
    """Return what the work of a trial depends on; tokens are counted on a sample of the texts."""
    if isinstance(data, ToyData):
        return Workload(matmul_params=TOY_PARAMS, train_tokens=1.0, n_eval=len(data.eval), eval_tokens=1.0)
    return Workload(
        matmul_params=matmul_params(located.config),
        train_tokens=mean_tokens(data.train, located),
        n_eval=len(data.eval),
        eval_tokens=mean_tokens(data.eval, located),
        n_select=min(n_select, len(data.train) // 10),
    )


def limits_of(device: str, located: Located, train_tokens: float, lengths: Sequence[int] = ()) -> Limits:
    """Return what bounds a pack on a device; `lengths` are tokens of training examples, of a sample of them.

    By its whole memory, not what happens to be free: a resumed sweep must form the same packs.
    """
    chosen = devices.resolve(device)
    shape = shape_of(
        located.config,
        is_decoder=writes_texts(located.config),
        train_tokens=train_tokens,
        n_weights=_stackable(located),
    )
    return Limits(
        max_pack_size=TOY_PACK if located.model_type == TOY else None,
        device_kind=chosen.partition(":")[0],
        memory_bytes=_share(device, devices.memory_bytes(chosen)),
        shape=replace(shape, lengths=tuple(lengths)) if shape.n_layers and shape.hidden_size else None,
    )


def _share(device: str, memory_bytes: int | None) -> int | None:
    """Return what one worker has of a device's memory: of a CPU's all workers take their part."""
    n = len(devices.workers(device)) if devices.shares_memory(device) else 1
    return None if memory_bytes is None else memory_bytes // n


def _stackable(located: Located) -> int:
    """Return the weights of a base that can be trained K times side by side, embeddings included; 0 if it cannot."""
    if located.model_type not in STACKABLE:
        return 0
    config = located.config
    return matmul_params(config) + number(config, "vocab_size") * number(config, "hidden_size")


def train_lengths(data: TextData | ToyData, located: Located) -> tuple[int, ...]:
    """Return the tokens of training examples, of a sample of them."""
    return (1,) if isinstance(data, ToyData) else lengths_of(data.train, located)


def mean_tokens(split: Split, located: Located) -> float:
    """Return the mean number of tokens of an example, special tokens included, from a sample of SAMPLE examples."""
    lengths = lengths_of(split, located)
    return sum(lengths) / len(lengths)


def lengths_of(split: Split, located: Located) -> tuple[int, ...]:
    """Return the tokens of SAMPLE examples, special tokens included."""
    places = range(0, len(split), max(1, len(split) // SAMPLE))
    pairs = split.pairs
    examples = [(split.texts[i],) if pairs is None else (split.texts[i], pairs[i]) for i in places]
    tokenizer = _tokenizer(located.directory / "tokenizer.json")
    if tokenizer is None:
        return tuple(round(2 + TOKENS_PER_WORD * len(" ".join(texts).split())) for texts in examples)
    encoded = tokenizer.encode_batch([texts if len(texts) > 1 else texts[0] for texts in examples])
    return tuple(len(encoding.ids) for encoding in encoded)


def _tokenizer(path: Path) -> Tokenizer | None:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # the library raises plain Exception; the run itself names what is wrong with the file
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
