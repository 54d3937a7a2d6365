"""Which modules are adapted: PEFT's `target_modules` and `layers_to_transform`, without importing PEFT or torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import BadInput, one_of

if TYPE_CHECKING:
    from torch import nn

ALL_LINEAR = "all-linear"
Kind = Literal["Linear", "Conv1D", "Embedding"]

# PEFT 0.21's table for LoRA, for the architectures that have a sequence classifier in transformers. DistilBERT, which
# PEFT's table lacks, gets the same two projections under its own names.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "albert": ("query", "value"),
    "bert": ("query", "value"),
    "bloom": ("query_key_value",),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    "electra": ("query", "value"),
    "falcon": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "opt": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "stablelm": ("q_proj", "v_proj"),
    "xlm-roberta": ("query", "value"),
}

# What PEFT trains in full for SEQ_CLS, and therefore never adapts (modules_to_save).
_HEAD = re.compile(r"(?:^|.*\.)(?:classifier|score)(?:$|\..*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A module that can carry an adapter, and what it is."""

    name: str  # as in model.named_modules()
    kind: Kind
    head: bool = False  # newly initialised and trained in full: never adapted
    output: bool = False  # the output embedding of a language model: adapted only where it is named
    in_features: int = 0  # rows of the table, for an embedding; 0: not known
    out_features: int = 0

    @property
    def layer(self) -> int | None:
        """The first number in the path, which is what layers_to_transform counts; None where there is none."""
        return next((int(part) for part in self.name.split(".") if part.isdecimal()), None)


def default_targets(model_type: str, *, where: str = "target_modules") -> tuple[str, ...]:
    """Return the modules that are adapted where a study names none: PEFT's default for the architecture."""
    if model_type not in DEFAULT_TARGETS:
        rule = f"must be given for the architecture {model_type!r}, which has no default"
        raise BadInput(where, rule, way_out=f'name the modules or use "{ALL_LINEAR}"')
    return DEFAULT_TARGETS[model_type]


def candidates(model: nn.Module, head_names: Iterable[str] = ()) -> list[Candidate]:
    """Return every module of `model` that can carry an adapter, in the model's order.

    `head_names` are the parameters trained in full (`LoadedModel.head_names`); their modules are marked as head.
    """
    owners = {name.rpartition(".")[0] for name in head_names}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    return [
        Candidate(
            name=name, kind=kind, head=name in owners, output=module is output,
            in_features=_sizes(module, kind)[0], out_features=_sizes(module, kind)[1],
        )
        for name, module in model.named_modules()
        if (kind := _kind(module)) is not None
    ]  # fmt: skip


def match_targets(
    modules: Sequence[Candidate],
    target_modules: str | Sequence[str],
    layers_to_transform: Sequence[int] | None = None,
    *,
    where: str = "target_modules",
) -> list[str]:
    """Return the names of the modules that are adapted, in the model's order, by PEFT's rules.

    A list names modules whole or by their ending after a dot; a string is a regular expression that the whole name
    must match; "all-linear" is every Linear and Conv1D. The head (`classifier`, `score`, whatever is newly
    initialised) is never adapted. `layers_to_transform` keeps the modules whose first number in the path it lists,
    but not those a list names whole; PEFT allows it with a list only, here it also narrows "all-linear".

    Raises:
        BadInput: for a name or pattern that matches nothing, and for a layer that the model does not have.
    """
    open_modules = [m for m in modules if not m.head and not _HEAD.match(m.name)]
    _check_layers(open_modules, layers_to_transform, where)
    if isinstance(target_modules, str):
        found = _match_string(open_modules, target_modules, layers_to_transform, where)
    else:
        found = _match_list(open_modules, tuple(target_modules), layers_to_transform, where)
    if not found:
        raise BadInput(where, "must select a module", got=repr(target_modules), way_out=_known(open_modules))
    return found


def _match_string(modules: list[Candidate], pattern: str, layers: Sequence[int] | None, where: str) -> list[str]:
    if pattern.lower() == ALL_LINEAR:
        linear = (m for m in modules if m.kind != "Embedding" and not m.output)
        return [m.name for m in linear if layers is None or m.layer in layers]
    if layers is not None:
        rule = "must be a list of names where layers_to_transform is given"
        raise BadInput(where, rule, got=repr(pattern), way_out="put the layer numbers into the regular expression")
    try:
        matches = re.compile(pattern).fullmatch
    except re.error as error:
        raise BadInput(where, "must be a regular expression", got=f"{pattern!r} ({error})", way_out="mend it") from None
    return [m.name for m in modules if matches(m.name)]


def _match_list(
    modules: list[Candidate], targets: tuple[str, ...], layers: Sequence[int] | None, where: str
) -> list[str]:
    for target in targets:
        if not any(_named(m.name, target) for m in modules):
            raise BadInput(where, "must name modules of the model", got=repr(target), way_out=_known(modules))
    chosen = [m for m in modules if layers is None or m.layer in layers or m.name in targets]
    return [m.name for m in chosen if any(_named(m.name, target) for target in targets)]


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _check_layers(modules: list[Candidate], layers: Sequence[int] | None, where: str) -> None:
    if layers is None:
        return
    known = {m.layer for m in modules if m.layer is not None}
    rule = f"layers_to_transform must be in 0 .. {max(known)}" if known else "the model has no numbered layers"
    wrong = [layer for layer in layers if layer not in known]
    if wrong or not layers:
        got = ", ".join(str(layer) for layer in wrong) or "an empty list"
        raise BadInput(where, rule, got=got, way_out="leave it out to adapt every layer")


def _known(modules: list[Candidate]) -> str:
    return f"known: {one_of({m.name.rpartition('.')[2] for m in modules})}"


def _sizes(module: Any, kind: Kind) -> tuple[int, int]:
    """Return the in and out features: of a Linear its own, since its weight may be held otherwise (4 bits)."""
    if kind == "Linear":
        return int(module.in_features), int(module.out_features)
    rows, columns = module.weight.shape
    return int(rows), int(columns)


def _kind(module: nn.Module) -> Kind | None:
    # By class name through the bases, so that this file needs no torch and subclasses of Linear count as in PEFT.
    names = {(base.__name__, base.__module__.partition(".")[0]) for base in type(module).__mro__}
    if ("Linear", "torch") in names:
        return "Linear"
    if ("Conv1D", "transformers") in names:
        return "Conv1D"
    return "Embedding" if ("Embedding", "torch") in names else None
