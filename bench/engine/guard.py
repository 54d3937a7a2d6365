"""An architecture trains as itself or not at all: a pack's logits are compared with the plain model's before it trains.

Compared are small models of the same architecture (twin.py), once for each config up to its sizes, head kind, method,
adapted layers and versions of transformers and this project; what was found is kept in the cache. The pack's trials
have different weights everywhere, so each one's logits are those of the plain model with that trial's weights only if
masks, soft caps, sinks and windows are the model's own and no trial sees another's numbers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from bench import methods
from bench.core import cache, provenance
from bench.core.errors import BadInput, one_line
from bench.core.spec import Trial
from bench.data.splits import Encoded
from bench.engine import generate, packed, twin, unpadded
from bench.engine.adapted import converted, scaled_as
from bench.engine.bank import Bank
from bench.engine.batching import Batches, Chunk
from bench.engine.layers import adapted_layers, frozen_layer
from bench.engine.paths import BankPath, Path, settle_masks
from bench.methods._base import LayerShape, Method, fixed, roles_of
from bench.models import targets
from bench.models._base import LoadedModel

SIZES = (1, 3)  # trials in a pack
RAGGED, EVEN = (11, 5, 8, 3), (7, 7)  # lengths in tokens; with three trials no number of rows is one of positions
RAGGED_PROMPTS = (6, 2, 5, 1)  # of the ragged ones, where texts are written
RAGGED_WRITING = ", ragged writing"  # behind a path: see ragged_problem
TOLERANCE = 1e-5  # of the largest logit: norms and softmaxes of many models are in float32 whatever their weights are
TOLERANCE_FP32 = 1e-3  # where the model computes in float32 only
CPU = torch.device("cpu")
WAYS: Mapping[str, Callable[[Bank], Path]] = {
    "bank": BankPath, "unpadded": unpadded.UnpaddedPath, "packed": packed.PackedPath,
}  # fmt: skip


def require(
    loaded: LoadedModel, trial: Trial, shapes: Sequence[LayerShape], kind: twin.Kind, path: str, *, writes: bool = False
) -> None:
    """Refuse a model of an architecture that does not train as itself under this trial's method and targets.

    `shapes` are the layers adapted in `loaded`, `path` is a path's name; with `writes` texts are generated, with
    kept keys and values. Seconds the first time, then a read of a file.

    Raises:
        BadInput: where the pack's logits differ from the plain model's beyond float order, or cannot be had.
    """
    _refuse(loaded.model, problem(loaded, trial, shapes, kind, path, writes=writes))


def problem(
    loaded: LoadedModel, trial: Trial, shapes: Sequence[LayerShape], kind: twin.Kind, path: str, *, writes: bool = False
) -> str | None:
    """Return what `require` refuses a model for, or None."""
    paths = [shape.path for shape in shapes]
    return _found(loaded.model, kind, trial, paths, loaded.full_names, path, writes)


def require_config(values: Mapping[str, Any], trial: Trial, kind: twin.Kind, *, writes: bool = False) -> None:
    """Refuse what `require` refuses, off a config.json alone: before any weights are read.

    Raises:
        BadInput: as `require` does, and where transformers has no such model or the trial does not fit it.
    """
    try:
        model = twin.on_meta(twin.from_values(values), kind)
    except Exception as error:
        rule, way_out = "transformers must know the architecture", "use another model"
        raise BadInput("model", rule, got=_in_words(error), way_out=way_out) from error
    base, method = f"{model.base_model_prefix}.", methods.get(trial.method)
    names = [name for name, _ in model.named_parameters() if kind == "classification" and not name.startswith(base)]
    shapes = () if method.trains_base else adapted_layers(model, method, trial, names)
    known = (kind, trial, [s.path for s in shapes], names)
    if kind == "classification" and unpadded.problem(model.config) is None:
        _refuse(model, _found(model, *known, "unpadded", writes))
    elif packed.problem(model) is not None or _found(model, *known, "packed", writes) is not None:
        _refuse(model, _found(model, *known, "bank", writes))


def ragged_problem(loaded: LoadedModel, trial: Trial, shapes: Sequence[LayerShape], path: str) -> str | None:
    """Return what goes wrong where prompts of several lengths are written after together, or None.

    Compared are the logits that `generate.Ragged` would choose by, rows coming and going as there, through
    the modules as the pack's path has left them.
    """
    return _found(
        loaded.model, "causal", trial, [s.path for s in shapes], loaded.full_names, path + RAGGED_WRITING, False
    )


def _refuse(model: PreTrainedModel, problem: str | None) -> None:
    if problem is not None:
        rule = f"{model.config.model_type}: a pack must compute what transformers computes"
        way_out = "use another model or other target_modules"
        raise BadInput("model", rule, got=problem, way_out=way_out)


def _found(
    model: PreTrainedModel, kind: twin.Kind, trial: Trial, paths: Sequence[str], names: Sequence[str], path: str,
    writes: bool,
) -> str | None:  # fmt: skip
    shown, head = {_pattern(name) for name in paths}, {_pattern(name) for name in names}
    key = _key(next(twin.configs(model.config)), kind, trial, shown, head, f"{path}, written" if writes else path)
    return _recall(key, lambda: _look(model, kind, trial, shown, head, path, writes))


def _look(
    model: PreTrainedModel, kind: twin.Kind, trial: Trial, shown: set[str], head: set[str], path: str, writes: bool
) -> str | None:
    """Return what is wrong, or None. The smallest model that transformers itself can build and run is looked at."""
    failure = ""
    for small in twin.configs(model.config):
        for dtype in (torch.float64, torch.float32):
            try:
                plain = twin.build(small, type(model), dtype)
                chunks = _chunks(plain, kind)
                with torch.no_grad():
                    sound = all(_plain_logits(plain, chunk, kind).isfinite().all() for chunk in chunks)
                    padding = _padding_moves(plain, kind)
            except Exception as error:  # whatever the architecture objects to: the next larger model is tried
                failure = failure or f"no small model can be looked at: {_in_words(error)}"
                continue
            if not sound:
                failure = failure or "transformers' own logits are not finite with random weights"
                continue
            return padding or _compare(plain, chunks, kind, trial, shown, head, path, writes)
    return failure


def _padding_moves(plain: PreTrainedModel, kind: twin.Kind) -> str | None:
    """Return by how much an example's logits depend on the padding behind it, or None.

    Chunks, whose number follows from the number of trials, decide how much padding there is: a trial would depend on
    its pack. Convolutions over tokens (ConvBERT) and Fourier transforms (FNet) see padding.
    """
    (ragged, _), limit = _chunks(plain, kind), _limit(plain)
    together = _plain_logits(plain, ragged, kind)
    for place, alone in enumerate(_examples(plain, kind)):
        mine = together[place : place + 1] if kind == "classification" else together[ragged.row_N == place]
        off, scale = _distance(_plain_logits(plain, alone, kind), mine)
        if off > limit * scale:
            return f"logits that move by {off:.1e} with the padding behind a text, where the largest is {scale:.1e}"
    return None


def _limit(model: PreTrainedModel) -> float:
    return TOLERANCE if model.dtype == torch.float64 else TOLERANCE_FP32


def _compare(
    plain: PreTrainedModel, chunks: Sequence[Chunk], kind: twin.Kind, trial: Trial,
    shown: set[str], head: set[str], path: str, writes: bool,
) -> str | None:  # fmt: skip
    names = tuple(name for name, _ in plain.named_parameters() if _pattern(name) in head)
    loaded = LoadedModel(model=plain, head_names=names)
    method = methods.get(trial.method)
    for n_trials in SIZES if path == "unpadded" or not method.trains_base else SIZES[:1]:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                bank = _bank(loaded, _small(trial, loaded, shown, method), method, n_trials)
                way = WAYS[path.removesuffix(RAGGED_WRITING)](bank)
                if path.endswith(RAGGED_WRITING):
                    problem = _ragged_differs(bank, way)
                else:
                    problem = _differs(bank, way, loaded, chunks, kind)
                if problem is None and writes:
                    problem = _cache_differs(bank, way, chunks[1])
                if problem is None and n_trials > 1 and not path.endswith(RAGGED_WRITING):
                    problem = _masks_differ(bank, way, loaded, chunks[0])
        except Exception as error:  # a shape that does not fit, a cache that is missing: nothing that may train
            problem = _in_words(error)
        if problem is not None:
            return f"{problem} ({n_trials} trial{'s' if n_trials > 1 else ''} in the pack)"
    return None


def _small(trial: Trial, loaded: LoadedModel, shown: set[str], method: Method) -> Trial:
    """Return the trial with the least rank, at the layers of the small model that are called as the large one's."""
    found = targets.candidates(loaded.model, loaded.full_names)
    paths = tuple(module.name for module in found if _pattern(module.name) in shown)
    wanted = paths if trial.target_modules is not None and method.adapts == "targets" else trial.target_modules
    budget = replace(trial.budget, precision="fp64" if loaded.model.dtype == torch.float64 else "fp32")
    changes: dict[str, Any] = {"target_modules": wanted, "layers_to_transform": None, "budget": budget}
    if trial.rank is not None:
        changes["rank"] = 1  # fits every layer; other ranks are sums of it
    return replace(trial, **changes)


def _bank(loaded: LoadedModel, trial: Trial, method: Method, n_trials: int) -> Bank:
    """Return a bank whose trials have weights of their own everywhere, the larger the later the trial."""
    bank = Bank(loaded, [trial] * n_trials, method, device=CPU, dtype=loaded.model.dtype)
    with torch.no_grad():
        for name in bank.params.names():
            values = bank.params.trained(name)
            fan_in = max(1, values[0].shape[-1]) if values.ndim > 2 else 16
            for k in range(n_trials):
                values.data[k] += (1 + k) / fan_in**0.5 * torch.randn_like(values[k])
    return bank


def _differs(bank: Bank, way: Path, loaded: LoadedModel, chunks: Sequence[Chunk], kind: twin.Kind) -> str | None:
    """Return in words by how much a trial's logits differ from the plain model's with its weights, or None."""
    limit = _limit(loaded.model)
    with torch.no_grad():
        for chunk in chunks:
            found = way.logits(chunk)
            for k in range(bank.n_trials):
                with _as_trial(loaded.model, bank, k):
                    wanted = _plain_logits(loaded.model, chunk, kind)
                off, scale = _distance(_seen(found[k], chunk, kind), wanted)
                if not off <= limit * scale:
                    return f"logits that differ by {off:.1e} where the largest is {scale:.1e}"
    return None


def _cache_differs(bank: Bank, way: Path, chunk: Chunk) -> str | None:
    """Return by how much logits differ with kept keys and values, token by token as texts are generated, or None."""
    ids_bxT = chunk.padded(chunk.ids_N, 0)
    kept = DynamicCache(config=bank.model.config)
    with torch.no_grad():
        wanted = way.logits(chunk)[:, :, -1].flatten(0, 1)
        for step in (ids_bxT[:, :-2], ids_bxT[:, -2:-1], ids_bxT[:, -1:]):
            rows = step.repeat(bank.n_trials, 1)
            found = bank.model(input_ids=rows, past_key_values=kept, use_cache=True).logits[:, -1]
    off, scale = _distance(found, wanted)
    if off <= _limit(bank.model) * scale:
        return None
    return f"logits that differ by {off:.1e} with the keys and values kept that generating takes"


class _Forced(generate.Ragged):
    """Writes the texts that are there, and compares the logits that it would choose by with those without a cache."""

    def __init__(self, bank: Bank, split: Batches, wanted_KxbxTxV: Tensor) -> None:
        assert split.prompt_lengths is not None
        limits = split.lengths - split.prompt_lengths
        super().__init__(bank, split, end_id=-1, limits_N=limits, max_tokens=3 * max(RAGGED))
        self.wanted_KxbxTxV, self.ids = wanted_KxbxTxV, split.targets()
        self.off: list[float] = []

    def choose(self, logits_RxV: Tensor, trial_R: generate.Ints, place_R: generate.Ints) -> Tensor:
        """Return the tokens of the texts; those of a row that has stopped are of no effect."""
        tokens = []
        for row, (k, i) in enumerate(zip(trial_R, place_R, strict=True)):
            n_made, n_all = len(self.made[k][i]), len(self.ids[i])
            if n_made < n_all:
                at = int(self.prompts_N[i]) + n_made - 1
                self.off.append(_distance(logits_RxV[row], self.wanted_KxbxTxV[k, i, at])[0])
            tokens.append(self.ids[i][min(n_made, n_all - 1)])
        return torch.tensor(tokens)


@torch.no_grad()
def _ragged_differs(bank: Bank, way: Path) -> str | None:
    """Return by how much logits differ where texts of several lengths are written together, or None."""
    texts = _texts(bank.model, "causal", RAGGED, prompts=RAGGED_PROMPTS)
    wanted_KxbxTxV = way.logits(texts.chunk(np.arange(texts.n)))
    forced, scale = _Forced(bank, texts, wanted_KxbxTxV), float(wanted_KxbxTxV.abs().max())
    forced.written()
    if all(off <= _limit(bank.model) * scale for off in forced.off):  # not of nan
        return None
    return f"logits that differ by {np.max(forced.off):.1e} where prompts of several lengths are written after together"


def _masks_differ(bank: Bank, way: Path, loaded: LoadedModel, chunk: Chunk) -> str | None:
    """Return what is wrong with dropout: with one set of masks a trial's logits must not depend on its neighbours."""
    settle_masks(bank, way, chunk)
    with torch.no_grad(), bank.training():
        before = way.logits(chunk)
    for name in bank.params.names():
        bank.params.trained(name).data[1:] *= -2
    with torch.no_grad(), bank.training():
        after = way.logits(chunk)
    off, scale = _distance(before[0], after[0])
    if off <= _limit(loaded.model) * scale:
        return None
    return f"logits in training that move by {off:.1e} with another trial's weights"


@contextmanager
def _as_trial(plain: PreTrainedModel, bank: Bank, k: int) -> Iterator[None]:
    """Let the plain model compute with trial k's weights while inside: parameters in place, adapters by hooks."""
    own = dict(plain.named_parameters(remove_duplicate=False))
    named = (*bank.params.names(), *bank.params.frozen)  # under head_policy "paper" a part of the head is not trained
    # BitFit's change of a bias has the name of that bias: the hook adds it, it takes no place.
    added = {bank.slot(shape, name) for shape in bank.shapes for name in roles_of(bank.method, shape, bank.trials[0])}
    kept = {name: own[name].detach().clone() for name in named if name in own and name not in added}
    hooks = [_hook(plain, bank, shape, k) for shape in bank.shapes]
    try:
        with torch.no_grad():
            for name in kept:
                own[name].copy_(bank.params[name][k])
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                own[name].copy_(value)
        for hook in hooks:
            hook.remove()


def _hook(plain: PreTrainedModel, bank: Bank, shape: LayerShape, k: int) -> Any:
    """Add the method's map of trial k's parameters to what a layer returns, whatever the layout of its input."""
    method, layer, adapted = bank.method, plain.get_submodule(shape.path), bank.model.get_submodule(shape.path)
    weights: dict[str, Tensor] = {name: weight[k : k + 1] for name, weight in adapted.weights.items()}
    start = {name: value[:1] for name, value in adapted.constants.get("start", {}).items()}
    own = fixed(method, bank.trials[:1], shape, frozen_layer(layer, shape), start)  # the trials are all alike
    constants = converted(own, next(iter(weights.values())), {})

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        flat = x.reshape(1, -1) if shape.kind == "embedding" else x.reshape(1, -1, x.shape[-1])
        h = output.reshape(1, -1, output.shape[-1])
        if shape.kind == "embedding":
            return output + scaled_as(module, method.delta(weights, constants, flat)).reshape(output.shape)
        return method.output(weights, constants, h, flat).reshape(output.shape).to(output.dtype)

    return layer.register_forward_hook(add)


def _plain_logits(model: PreTrainedModel, chunk: Chunk, kind: twin.Kind) -> Tensor:
    inputs = BankPath.inputs_of(model.config, chunk)
    return _seen(model(**inputs).logits, chunk, kind)


def _seen(logits: Tensor, chunk: Chunk, kind: twin.Kind) -> Tensor:
    """Return the logits that mean something: [b, C], or those of the tokens, [N, V]."""
    return logits if kind == "classification" else logits[chunk.row_N, chunk.position_N]


def _distance(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    return float((found - wanted).abs().max()), float(wanted.abs().max())


def _chunks(model: PreTrainedModel, kind: twin.Kind) -> list[Chunk]:
    """Return a ragged and an even batch of random tokens in a chunk each."""
    return [_texts(model, kind, lengths).chunk(np.arange(len(lengths))) for lengths in (RAGGED, EVEN)]


def _examples(model: PreTrainedModel, kind: twin.Kind) -> list[Chunk]:
    """Return each example of the ragged batch in a chunk of its own."""
    texts = _texts(model, kind, RAGGED)
    return [texts.chunk(np.arange(i, i + 1)) for i in range(len(RAGGED))]


def _texts(
    model: PreTrainedModel, kind: twin.Kind, lengths: Sequence[int], *, prompts: Sequence[int] | None = None
) -> Batches:
    """Return texts of these lengths: random tokens, none of them special but the end token, which is last."""
    config = model.config
    vocab = int(config.get_text_config().vocab_size)
    special = {int(i) for key, value in config.to_dict().items() if key.endswith("token_id") and value is not None
               for i in (value if isinstance(value, list) else [value])}  # fmt: skip
    usual = np.array([i for i in range(4, min(vocab, twin.VOCAB // 2)) if i not in special])
    rng = np.random.default_rng(0)
    n, offsets = sum(lengths), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.choice(usual, n).astype(np.int32)
    ends = getattr(config.get_text_config(), "eos_token_id", None)
    end = next(iter(ends), None) if isinstance(ends, list) else ends
    if end is not None and end < vocab and end != BankPath.pad_id(config):
        ids[offsets[1:] - 1] = end  # BART and its like classify by the end token
    encoded = Encoded(
        ids=ids, offsets=offsets, labels=np.zeros(len(lengths), dtype=np.int64), index=np.arange(len(lengths)),
        type_ids=rng.integers(0, 2, n).astype(np.int8) if BankPath.has_types(config) else None,
        prompt_lengths=np.array(prompts or [1] * len(lengths)) if kind == "causal" else None,
    )  # fmt: skip
    return Batches(encoded, device=CPU)


def _in_words(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}" if not isinstance(error, BadInput) else str(error))[:300]


def _pattern(path: str) -> str:
    """Return a path with every number in it as {}: the same for all layers."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", path)


def _key(small: PretrainedConfig, kind: twin.Kind, trial: Trial, shown: set[str], head: set[str], path: str) -> str:
    own: Mapping[str, Any] = {
        "config": small.to_dict(), "kind": kind, "arm": methods.identity(trial).arm,
        "adapted": sorted(shown), "head": sorted(head), "path": path,
        "transformers": metadata.version("transformers"), "torch": metadata.version("torch"),
        "source": _source_hash(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:32]


@functools.cache
def _source_hash() -> str:
    return provenance.source_hash(FilePath(__file__).parent) + provenance.source_hash(FilePath(methods.__file__).parent)


_KNOWN: dict[str, str | None] = {}


def _recall(key: str, look: Callable[[], str | None]) -> str | None:
    """Return what was found under this key: in this process, in the cache, or by looking now."""
    if key not in _KNOWN:
        path = cache.cache_dir() / "architectures" / f"{key}.json"
        try:
            _KNOWN[key] = json.loads(path.read_text(encoding="utf-8"))["problem"]
        except (OSError, ValueError, KeyError, TypeError):
            _KNOWN[key] = look()
            _keep(path, _KNOWN[key])
    return _KNOWN[key]


def _keep(path: FilePath, problem: str | None) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second look
        cache.write_text(path, json.dumps({"problem": problem}))
