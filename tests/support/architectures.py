"""Every text architecture that transformers classifies or continues texts with, as a tiny model: how it trains here.

An architecture trains as PEFT trains it, or it is refused in one line. `python -m tests.support.architectures` looks at
all of them and writes docs/architectures.md; oracle/test_architectures.py holds the page to be what is found.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from bench import models
from bench.core.clock import Clock
from bench.core.errors import BadInput, one_line
from bench.core.spec import Pack, Trial
from bench.data.splits import Encoded, EncodedData, Reading
from bench.engine.batching import Batches
from bench.engine.loop import Loop
from bench.engine.paths import path_name
from bench.engine.run import EngineOptions, Ready, prepare
from bench.models import _targets as targets
from bench.models._base import LoadedModel, Located
from bench.models._targets import ALL_LINEAR
from tests.support.engine_helpers import budget, trial

Head = Literal["classifier", "causal"]
Outcome = Literal["equal", "refused", "not built"]
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
STEPS, BATCH, TOLERANCE = 6, 6, 1e-5
CPU = torch.device("cpu")
MEMBERS: list[dict[str, Any]] = [
    {"rank": 2, "eta_A": 4e-3}, {"rank": 4, "eta_A": 2e-2}, {"rank": 1, "eta_A": 1e-3, "eta_B": 8e-3},
]  # fmt: skip
_TOKENS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What became of one architecture with one head: `difference` is the largest of a step's losses, in nats."""

    architecture: str
    head: Head
    outcome: Outcome
    reason: str = ""
    adapted: str = ""
    engine_path: str = ""
    difference: float | None = None


def known(head: Head) -> tuple[str, ...]:
    """Return the architectures that this version of transformers has this head for, sorted."""
    names = (
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        if head == "classifier"
        else modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    return tuple(sorted(names))


def look(architecture: str, head: Head, **changes: Any) -> Found:
    """Return whether a tiny model of the architecture trains as under PEFT over STEPS steps; `changes` to its config.

    All Linears are adapted; where that is refused, those of attention alone are tried.
    """
    found = functools.partial(Found, architecture=architecture, head=head)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            located = _save(tiny_config(architecture, **changes), head, Path(directory))
            dtype, reason = _dtype_of(located, head), ""
        except Exception as error:  # whatever a config or a missing package makes transformers say
            refused = _refusal_of_what_is_never_built(architecture, head, Path(directory))
            if refused:
                return found(outcome="refused", reason=refused)
            return found(outcome="not built", reason=_short(f"{type(error).__name__}: {error}"))
        try:
            loaded = _load(located, head, dtype)
            for target_modules in (ALL_LINEAR, _of_attention(loaded)):
                try:
                    difference, path = _train_both(located, head, dtype, target_modules)
                except BadInput as error:
                    reason = reason or _why(error)
                    continue
                adapted = target_modules if isinstance(target_modules, str) else ", ".join(target_modules)
                masks = _dropout(architecture, head, target_modules, path, **changes)
                return found(outcome="equal", difference=difference, adapted=adapted, engine_path=masks, reason=reason)
        except BadInput as error:
            reason = _why(error)
    return found(outcome="refused", reason=reason)


def _refusal_of_what_is_never_built(architecture: str, head: Head, directory: Path) -> str:
    """Return what loading says of an architecture that transformers cannot build at its usual size either, else "".

    It does not say so of a missing package, which a user may install.
    """
    config = AutoConfig.for_model(architecture, **DATA["usual"].get(architecture, {}))
    try:
        with torch.device("meta"):
            _auto(head).from_config(config)
        return ""
    except ImportError:
        return ""
    except Exception:  # a config that no model of this head can be made of
        config.save_pretrained(directory)
    save_file({"weight": torch.zeros(1)}, directory / "model.safetensors", metadata={"format": "pt"})
    digest = "0" * 16
    located = Located(
        name=architecture, directory=directory, model_hash=digest, tokenizer_hash=digest, config=config.to_dict()
    )
    try:
        _load(located, head, torch.float32)
    except BadInput as error:
        return _why(error)
    return ""


def _auto(head: Head) -> Any:
    return AutoModelForSequenceClassification if head == "classifier" else AutoModelForCausalLM


def _dropout(architecture: str, head: Head, target_modules: Any, path: str, **changes: Any) -> str:
    """Return the engine_path of a row where the config has dropout, or what is refused then."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            config = tiny_config(architecture, dropout=0.1, **changes)
            if config.to_dict() == tiny_config(architecture, **changes).to_dict():
                return path
            located = _save(config, head, Path(directory))
        except Exception:  # an architecture that takes no dropout
            return path
        loaded = _load(located, head, torch.float32)
        single = trial(budget=replace(BUDGET, precision="fp32"), target_modules=target_modules)
        options = EngineOptions(device=CPU, n_chunks=1)
        try:
            ready = prepare(Pack(trials=(single,) * 3), _data(head, config), loaded, options)
        except BadInput as error:
            return f"{path}; with dropout refused: {_why(error)}"
    return path_name(ready.path, ready.bank)


def _why(error: BadInput) -> str:
    """Return what a refusal says: the finding of the guard, or rule and finding of any other check."""
    if error.got is None:
        return _short(error.rule)
    by_guard = "must compute what transformers computes" in error.rule
    return _short(str(error.got) if by_guard else f"{error.rule}, but got {error.got}")


def _short(text: str) -> str:
    return one_line(text)[:150]


def _of_attention(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the last parts of the names of the Linears that make queries, keys and values."""
    found = targets.candidates(loaded.model, loaded.full_names)
    leaves = {m.name.rpartition(".")[2] for m in found if m.kind != "Embedding"}
    return tuple(sorted(leaves & set(DATA["attention"]))) or (ALL_LINEAR,)


def tiny_config(architecture: str, dropout: float = 0.0, **changes: Any) -> PretrainedConfig:
    """Return the architecture's own config with the sizes of architectures.toml and `dropout` everywhere."""
    usual = AutoConfig.for_model(architecture, **DATA["usual"].get(architecture, {})).to_dict()
    own = DATA["own"].get(architecture, {})
    values = {key: value for key, value in _resized(usual, dropout).items() if key != "model_type"}
    for key, value in {**own, **changes}.items():
        *outer, inner = key.split(".")
        place: Any = values
        for name in outer:
            place = place[int(name) if name.isdigit() else name]
        place[inner] = value
    values = {key: value for key, value in values.items() if value != "default"}
    config = AutoConfig.for_model(architecture, **values)
    config.num_labels = 2
    return config


def _resized(values: Mapping[str, Any], dropout: float) -> dict[str, Any]:
    made = {}
    for key, value in values.items():
        if key == "per_layer_config" and value:  # what the layers of the second kind have otherwise
            made[key] = {1: _resized(next(iter(value.values())), dropout)}
        elif isinstance(value, dict):
            made[key] = _resized(value, dropout)
        elif isinstance(value, float) and ("drop" in key or key.endswith("_pdrop")):
            made[key] = 0.0 if "layer" in key or "path" in key else dropout  # whole layers are never left out
        elif isinstance(value, list) and key in (
            "layer_types",
            "mlp_layer_types",
            "layers_block_type",
            "attention_types",
        ):
            made[key] = value  # cut below, where the number of layers is known
        elif key in DATA["sizes"] and isinstance(value, list) and value and not key.endswith("token_id"):
            made[key] = DATA["sizes"][key]  # one for each layer
        elif key in DATA["sizes"] and (value is None or isinstance(value, int)) and not isinstance(value, bool):
            made[key] = DATA["sizes"][key] if value is not None or key.endswith("token_id") else None
        else:
            made[key] = value
    for key in ("layer_types", "mlp_layer_types", "layers_block_type"):
        if isinstance(made.get(key), list):
            made[key] = _two_of(made[key])
    return made


def _two_of(kinds: list[Any]) -> list[Any]:
    """Return the last two different kinds of layer, or two of one kind."""
    different = list(dict.fromkeys(kinds))
    return different[-2:] if len(different) > 1 else (different * 2)[:2]


def _save(config: PretrainedConfig, head: Head, directory: Path) -> Located:
    """Save a random model with weights that are felt; its classifier has other labels: it is new when loaded."""
    torch.manual_seed(0)
    model: PreTrainedModel = _auto(head).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.is_floating_point():
                parameter.mul_(4.0)
    _forward(model)
    model.save_pretrained(directory)
    if type(model.config) is not type(config) and type(model.config) not in _auto(head)._model_mapping:
        config.save_pretrained(directory)  # the text part of a model of more: loaded by the config of the whole
    digest, values = "0" * 16, AutoConfig.from_pretrained(directory).to_dict()
    return Located(
        name=config.model_type, directory=directory, model_hash=digest, tokenizer_hash=digest, config=values
    )  # fmt: skip


def _dtype_of(located: Located, head: Head) -> torch.dtype:
    """Return float64, or float32 where the architecture computes in nothing wider (grouped products of experts)."""
    model = _auto(head).from_pretrained(located.directory, dtype=torch.float64, ignore_mismatched_sizes=True)
    try:
        finite = bool(_forward(model).isfinite().all())
    except RuntimeError:
        return torch.float32
    return torch.float64 if finite else torch.float32  # eager attention's masks of float64 are -inf in its softmax


@torch.no_grad()
def _forward(model: PreTrainedModel) -> Tensor:
    """Compute once as transformers does, for what cannot be computed at all."""
    ids = torch.tensor([[1, 5, 9, 6, 7, 4, 8, 9, 7, 5, 6, 2], [1, 5, 6, 2, *[0] * 8]])
    logits: Tensor = model.eval()(input_ids=ids, attention_mask=(ids > 0).long()).logits
    return logits


def _load(located: Located, head: Head, dtype: torch.dtype) -> LoadedModel:
    if head == "causal":
        return models.load_causal_lm(located, dtype)
    return models.load_model(located, 3, dtype)


def _train_both(located: Located, head: Head, dtype: torch.dtype, target_modules: Any) -> tuple[float, str]:
    """Return the largest difference of the losses of a pack and of PEFT, trial by trial, and the engine's path."""
    loaded = _load(located, head, dtype)
    data = _data(head, loaded.model.config)
    precision = replace(BUDGET, precision="fp64" if dtype == torch.float64 else "fp32")
    trials = [trial(budget=precision, target_modules=target_modules, **member) for member in MEMBERS]
    ready = prepare(Pack(trials=tuple(trials)), data, loaded, EngineOptions(device=CPU, n_chunks=1))
    starts = [_start(ready, k) for k in range(len(trials))]
    loop = Loop(
        ready.bank, ready.path, ready.train, BUDGET, n_chunks=2, clock=Clock(),
        evaluate=lambda: np.zeros(len(trials)), objective=ready.objective,
    )  # fmt: skip
    losses = np.stack(loop.run().losses_SxK)
    if np.ptp(losses, axis=0).min() < 1e-4:
        raise AssertionError(f"{located.name}, {head}: the losses do not move")
    alone = [
        _peft_losses(loaded, data.train, single, ready, start, head)
        for single, start in zip(trials, starts, strict=True)
    ]
    difference = float(np.abs(losses - np.stack(alone, axis=1)).max())
    if not difference <= TOLERANCE:
        raise AssertionError(f"{located.name}, {head}: losses differ from PEFT's by {difference:.1e}")
    return difference, ready.path.name


BUDGET = budget(max_steps=STEPS, eval_steps=STEPS, batch_size=BATCH, max_grad_norm=0.5, weight_decay=0.1)


def _start(ready: Ready, k: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    adapters = {p: {n: w.clone() for n, w in own.items()} for p, own in ready.bank.adapters(k).items()}
    paths = set(adapters)
    rest = [n for n in ready.bank.params.names() if n.rpartition(".")[0] not in paths]
    return adapters, {name: ready.bank.params[name][k].detach().clone() for name in rest}


def _peft_losses(loaded: LoadedModel, split: Encoded, member: Trial, ready: Ready, start: Any, head: Head) -> Any:
    """Return the losses of a trial trained alone: PEFT, AdamW, clip_grad_norm_, padded batches, transformers' loss."""
    adapters, new = start
    config = LoraConfig(
        r=member.rank, lora_alpha=member.lora_alpha, lora_dropout=0.0, target_modules=sorted(adapters),
        fan_in_fan_out=any(shape.kind == "conv1d" for shape in ready.bank.shapes),
    )  # fmt: skip
    model = get_peft_model(copy.deepcopy(loaded.model), config, autocast_adapter_dtype=False)
    own = dict(model.named_parameters())
    for path, weights in adapters.items():
        for leaf, value in weights.items():
            own[f"base_model.model.{path}.lora_{leaf}.default.weight"].data.copy_(value)
    for name, value in new.items():
        own[f"base_model.model.{name}"].requires_grad_(True).data.copy_(value)
    betas = (BUDGET.adam_beta1, BUDGET.adam_beta2)
    optimizer = torch.optim.AdamW(_groups(model, member), betas=betas, eps=BUDGET.adam_eps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / STEPS))
    # No dropout anywhere: the modes differ in nothing else, or the trials would not agree; but where the toml says so.
    model.train(model.config.model_type in DATA["other_in_training"])
    batches, losses = Batches(split, device=CPU), []
    for places in batches.order(seed=member.seed, batch_size=BATCH, max_steps=STEPS):
        inputs, labels = _batch(split, places, model.config, head)
        logits = model(**inputs).logits
        if head == "causal":
            logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        loss = nn.functional.cross_entropy(logits.double(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], BUDGET.max_grad_norm or 0.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return np.array(losses)


def _groups(model: nn.Module, member: Trial) -> list[dict[str, Any]]:
    return [
        {
            "params": [p],
            "lr": member.eta_B if "lora_B" in name else member.eta_A,
            "weight_decay": BUDGET.weight_decay if p.ndim > 1 else 0.0,
        }
        for name, p in model.named_parameters()
        if p.requires_grad
    ]


def _batch(split: Encoded, places: Any, config: PretrainedConfig, head: Head) -> tuple[dict[str, Tensor], Tensor]:
    longest = int(split.lengths[places].max())
    ids = torch.full((len(places), longest), _pad(config))
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, place in enumerate(places):
        part, n = slice(split.offsets[place], split.offsets[place + 1]), int(split.lengths[place])
        ids[row, :n], mask[row, :n] = torch.from_numpy(split.ids[part].astype(np.int64)), 1
        if split.type_ids is not None:
            types[row, :n] = torch.from_numpy(split.type_ids[part].astype(np.int64))
        if split.prompt_lengths is not None:
            labels[row, split.prompt_lengths[place] : n] = ids[row, split.prompt_lengths[place] : n]
    inputs = {"input_ids": ids, "attention_mask": mask}
    if split.type_ids is not None:
        inputs["token_type_ids"] = types
    return inputs, labels if head == "causal" else torch.from_numpy(split.labels[places])


def _pad(config: PretrainedConfig) -> int:
    named = [getattr(part, "pad_token_id", None) for part in (config.get_text_config(), config)]
    return next((int(i) for i in named if i is not None), 0)


def _data(head: Head, config: PretrainedConfig) -> EncodedData:
    has_types = int(getattr(config, "type_vocab_size", 0) or 0) > 1
    parts = [_split(n, seed, head, has_types) for seed, n in ((1, 24), (2, 6))]
    reading = None
    if head == "causal":
        reading = Reading(decode=lambda rows: [str(row) for row in rows], end_id=2, max_new_tokens=2, answer=None)
    return EncodedData(
        train=parts[0], select=None, eval=parts[1], n_labels=3, data_hash="0" * 16, reading=reading,
        metric="perplexity" if head == "causal" else "accuracy",
    )  # fmt: skip


def _split(n: int, seed: int, head: Head, has_types: bool) -> Encoded:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 13, n)
    total = int(lengths.sum())
    ids = rng.integers(4, 60, total).astype(np.int32)
    ids[np.cumsum(lengths) - 1] = 2  # as tokenizers of encoder-decoders end every text: BART classifies by it
    return Encoded(
        ids=ids,
        type_ids=rng.integers(0, 2, total).astype(np.int8) if has_types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=rng.integers(0, 3, n), index=np.arange(n),
        prompt_lengths=rng.integers(1, 3, n) if head == "causal" else None,
    )  # fmt: skip


def page(found: Sequence[Found]) -> str:
    """Return docs/architectures.md: what became of each architecture, as a table for each head."""
    lines = [INTRODUCTION.format(version=transformers.__version__, peft=peft.__version__, steps=STEPS)]
    for head, title in (("classifier", "Sequence classifiers"), ("causal", "Causal language models")):
        mine = [one for one in found if one.head == head]
        counts = ", ".join(f"{sum(o.outcome == name for o in mine)} {name}" for name in get_args(Outcome))
        lines += [
            "",
            f"## {title}",
            "",
            f"{counts}.",
            "",
            "| architecture | outcome | adapted | engine_path | reason |",
        ]
        lines += ["|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_cell, _row(one)))} |" for one in sorted(mine, key=lambda one: one.architecture)]
    return "\n".join(lines) + "\n"


INTRODUCTION = """# Architectures

Every text architecture for which transformers {version} has a sequence classifier or a causal language model, tried as
a tiny random model.

- **equal**: a pack of three LoRA trials has the losses of PEFT {peft} and `torch.optim.AdamW`, trained one by one, over
  {steps} steps, to 1e-5. `adapted` says at which modules: all Linears, or those of attention where the reason says why
  not all.
- **refused**: one line says so before anything trains. The reason is what it gives.
- **not built**: transformers could not build or run the tiny model: a package is missing, or the sizes do not fit the
  architecture. A real model of it is still looked at before it trains.

`engine_path` is what the row of a trial says where the config has dropout: "the model's own dropout left out" where its
masks cannot be keyed by example, so that they would depend on the pack. This page is written by
`python -m tests.support.architectures`."""


def _row(one: Found) -> tuple[str, ...]:
    return one.architecture, one.outcome, one.adapted, one.engine_path, one.reason


def _cell(text: str) -> str:
    """Return a cell's text, without numbers that another machine computes a little differently."""
    return re.sub(r"\d\.\de[+-]\d+", "x", text).replace("|", "/").replace("<", "&lt;")


def read_page(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the cells of each row of the page, by head and architecture."""
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    head = ""
    for line in text.splitlines():
        if line.startswith("## "):
            head = "causal" if "Causal" in line else "classifier"
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if head and line.startswith("| ") and cells[0] != "architecture":
            rows[head, cells[0]] = cells[1:]
    return rows


def main(arguments: Sequence[str]) -> None:
    """Look at all architectures, or at `head architecture ...`, print each, and write the page where all were asked."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    heads: tuple[Head, ...] = ("classifier", "causal")
    asked = [(head, name) for head in heads for name in known(head)]
    if arguments:
        asked = [(head, name) for head in heads if head == arguments[0] for name in arguments[1:] or known(head)]
    found = []
    for head, name in asked:
        found.append(look(name, head))
        print(json.dumps(asdict(found[-1])), flush=True)
    if not arguments:
        PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
