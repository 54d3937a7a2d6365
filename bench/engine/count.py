"""Which parameters of a model a method trains, counted on the meta device: from a config, without weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import methods
from bench.core.errors import BadInput, one_line
from bench.core.spec import Trial
from bench.methods._base import Role, require_fit

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bench.methods import LayerShape, Method

LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")  # how transformers' classes of causal language models end
PEFT_HEAD = ("classifier", "score")  # modules whose name ends so are what PEFT trains in full, unless told of more


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One parameter, or `times` alike ones of different layers."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    times: int = 1

    @property
    def n(self) -> int:
        """How many numbers."""
        return math.prod(self.shape) * self.times


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftCount:
    """What PEFT's print_trainable_parameters says of the same model and settings, and why it differs."""

    n_trainable: int
    n_total: int
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """The parameters of one model under one method, in the model's order."""

    architecture: str  # transformers' class
    rows: tuple[Row, ...]
    n_model: int  # without adapters
    n_adapters: int  # numbers that the method adds
    n_head: int  # of the newly initialised modules
    peft: PeftCount | None  # None: PEFT has no such method

    @property
    def n_trainable(self) -> int:
        """How many numbers are trained."""
        return sum(row.n for row in self.rows if row.trainable)

    @property
    def n_total(self) -> int:
        """How many numbers the model holds, each counted once."""
        return sum(row.n for row in self.rows)


def is_language_model(config: Mapping[str, Any]) -> bool:
    """Return whether a config is that of a checkpoint of a causal language model, by the class it names."""
    return any(str(name).endswith(LANGUAGE_MODELS) for name in config.get("architectures") or ())


def count(config: Mapping[str, Any], trial: Trial, *, n_labels: int | None = None) -> Parameters:
    """Return what `trial` trains of the model that transformers builds from `config`.

    That is a sequence classifier of `n_labels`; where they are None, the language model itself if the config is one's,
    else a classifier of 2. A classifier's head is everything outside the base model; a pooler inside it counts as
    pretrained, as in BERT's checkpoints. A language model has no new head.

    Raises:
        BadInput: where transformers has no such model for the config, and for settings that do not fit the model.
    """
    from bench.engine.layers import adapted_layers

    as_is = n_labels is None and is_language_model(config)
    model, method = _on_meta(config, None if as_is else n_labels or 2), methods.get(trial.method)
    base = f"{model.base_model_prefix}."
    own = {} if as_is else dict(model.named_parameters())
    head = {name: p.numel() for name, p in own.items() if not name.startswith(base)}
    shapes = () if method.trains_base else adapted_layers(model, method, trial, tuple(head))
    rows = tuple(_rows(model, method, trial, {shape.path: shape for shape in shapes}, set(head)))
    n_model = sum(p.numel() for p in model.parameters())
    n_adapters = sum(method.n_added(trial, shape) for shape in shapes) + (method.n_shared(trial) if shapes else 0)
    found = Parameters(
        architecture=type(model).__name__,
        rows=rows,
        n_model=n_model,
        n_adapters=n_adapters,
        n_head=sum(head.values()),
        peft=_peft(head, n_model, n_adapters) if method.peft_type is not None else None,
    )
    if found.n_total != n_model + n_adapters:
        raise ValueError(f"each parameter is a row, but {found.n_total} were listed of {n_model} + {n_adapters}")
    return found


def fold(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return the rows with those put together that differ by the number of their layer only: layer.{0-11}.query.A."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((_layer(row)[0], row.shape, row.trainable), []).append(row)
    return tuple(_folded(group) for group in groups.values())


def _folded(group: list[Row]) -> Row:
    if len(group) == 1:
        return group[0]
    numbers = [_layer(row)[1] for row in group]
    known = [number for number in numbers if number is not None]
    together = known == list(range(known[0], known[-1] + 1))
    shown = f"{known[0]}-{known[-1]}" if together else ",".join(str(number) for number in known)
    name = _layer(group[0])[0].replace("{}", f"{{{shown}}}")
    return Row(name=name, shape=group[0].shape, trainable=group[0].trainable, times=len(group))


def _layer(row: Row) -> tuple[str, int | None]:
    """Return a parameter's name with {} for the first number in its path, and that number."""
    found = re.search(r"(?<=\.)\d+(?=\.)", row.name)
    if found is None:
        return row.name, None
    return f"{row.name[: found.start()]}{{}}{row.name[found.end() :]}", int(found[0])


def _on_meta(config: Mapping[str, Any], n_labels: int | None) -> PreTrainedModel:
    """Return a classifier of `n_labels`, or where they are None a causal language model, without numbers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    replaced = ("model_type", "num_labels", "id2label", "label2id")
    values = {key: value for key, value in config.items() if key not in replaced}
    try:
        labels = {} if n_labels is None else {"num_labels": n_labels}
        built = AutoConfig.for_model(str(config["model_type"]), **values, **labels)
        kind = AutoModelForCausalLM if n_labels is None else AutoModelForSequenceClassification
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(built, trust_remote_code=False)
    except Exception as error:
        got = one_line(f"{type(error).__name__}: {error}")[:300]
        way_out = "use a model that this version of transformers knows"
        what = "causal language model" if n_labels is None else "sequence classifier"
        raise BadInput("--model", f"must be a {what} of transformers", got=got, way_out=way_out) from error
    return model


def _rows(
    model: PreTrainedModel, method: Method, trial: Trial, shapes: Mapping[str, LayerShape], head: set[str]
) -> Iterator[Row]:
    """Yield every parameter; an adapter's stand behind those of the layer they belong to, shared ones at the end."""
    from bench.engine import depths
    from bench.engine.layers import frozen_weight

    own = dict(model.named_parameters())
    base = set(depths.trained_base(own, trial.layers_to_transform)) if method.trains_base else set()
    last = {name.rpartition(".")[0]: name for name in own}  # of each module
    sizes: dict[tuple[object, ...], list[tuple[str, tuple[int, ...]]]] = {}
    for name, parameter in own.items():
        path, _, leaf = name.rpartition(".")
        shape = shapes.get(path)
        is_own = shape is not None and leaf in method.in_place
        yield Row(name=name, shape=tuple(parameter.shape), trainable=name in base or name in head or is_own)
        if shape is None or method.in_place or last[path] != name:
            continue
        key = (shape.in_features, shape.out_features, shape.kind)
        if key not in sizes:
            sizes[key] = _adapter(method, trial, shape, frozen_weight(model.get_submodule(path), shape))
        yield from (
            Row(name=f"{path}.{leaf}", shape=size, trainable=method.roles(shape)[leaf] is not Role.FROZEN)
            for leaf, size in sizes[key]
            if leaf not in method.shared
        )
    together = {leaf: size for found in sizes.values() for leaf, size in found if leaf in method.shared}
    yield from (Row(name=f"{method.name}.{leaf}", shape=size, trainable=True) for leaf, size in together.items())


def _adapter(
    method: Method, trial: Trial, shape: LayerShape, weight: Tensor | None
) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of each parameter that the method adds to one layer."""
    import torch

    require_fit(method, trial, (shape,))
    made = method.init(trial, shape, torch.Generator().manual_seed(0), weight)
    return [(name, tuple(value.shape)) for name, value in made.items()]


def _peft(head: Mapping[str, int], n_model: int, n_adapters: int) -> PeftCount:
    """Return PEFT's numbers: it keeps the untrained head beside a trained copy of it and counts both."""
    known = {name: n for name, n in head.items() if name.partition(".")[0].endswith(PEFT_HEAD)}
    copied = sum(known.values())
    why = [f"it counts the frozen copy that it keeps of the head ({copied:,})" if head else "there is no new head"]
    if len(known) < len(head):
        others = ", ".join(sorted({name.partition(".")[0] for name in head if name not in known}))
        left = sum(head.values()) - copied
        why.append(f"it leaves {others} ({left:,}) at its random values, unless modules_to_save names it")
    return PeftCount(n_trainable=n_adapters + copied, n_total=n_model + n_adapters + copied, why=tuple(why))
