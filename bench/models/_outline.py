"""The modules of a base model read off its safetensors headers: enough to check target_modules without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import BadInput
from bench.models._base import Located
from bench.models._locate import weight_files
from bench.spec import Trial
from bench.targets import Candidate, Kind, match_targets

# model_type -> transformers' base_model_prefix; other architectures are checked when the engine has built them.
PREFIXES = {
    **dict.fromkeys(("roberta", "xlm-roberta"), "roberta"),
    **dict.fromkeys(("deberta", "deberta-v2"), "deberta"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "opt"), "model"),
    "bert": "bert",
    "distilbert": "distilbert",
    "electra": "electra",
    "gpt2": "transformer",
}
_EMBEDDINGS = frozenset(
    (
        "word_embeddings",
        "position_embeddings",
        "token_type_embeddings",
        "rel_embeddings",
        "embed_tokens",
        "embed_positions",
        "wte",
        "wpe",
    )
)


def outline(located: Located) -> tuple[Candidate, ...] | None:
    """Return the modules of the base model that can be adapted, named as in the classifier; None: not known.

    Raises:
        BadInput: where a weight file is cut short.
    """
    prefix = PREFIXES.get(located.model_type)
    if prefix is None:
        return None
    shapes: dict[str, list[int]] = {}
    for path in weight_files(located.directory):
        shapes |= _shapes(path, f"model {located.name}")
    inside = {name for name in shapes if name.startswith(f"{prefix}.")}
    named = {name if inside else f"{prefix}.{name}": shapes[name] for name in inside or shapes}
    return tuple(_candidates(named, f"{prefix}.", located.model_type))


def check_targets(located: Located, trials: Iterable[Trial], *, where: str = "target_modules") -> None:
    """Refuse target_modules and layers_to_transform that the model does not have, before anything is built.

    Raises:
        BadInput: as `targets.match_targets` does.
    """
    modules = outline(located)
    wanted = dict.fromkeys((t.target_modules, t.layers_to_transform) for t in trials if t.target_modules is not None)
    if modules is None:
        return
    for target_modules, layers in wanted:
        if target_modules is not None:
            match_targets(modules, target_modules, layers, where=where)


def _candidates(shapes: dict[str, list[int]], prefix: str, model_type: str) -> Iterable[Candidate]:
    for name in shapes:
        module, _, kind_of_parameter = name.rpartition(".")
        if kind_of_parameter != "weight" or len(shapes[name]) != 2:
            continue
        # Among these only BERT's classifier has the pooler of the pretraining checkpoint.
        if module.startswith(f"{prefix}pooler.") and model_type != "bert":
            continue
        yield Candidate(name=module, kind=_kind(module, model_type))


def _kind(module: str, model_type: str) -> Kind:
    if module.rpartition(".")[2] in _EMBEDDINGS:
        return "Embedding"
    return "Conv1D" if model_type == "gpt2" else "Linear"


def _shapes(path: Path, where: str) -> dict[str, list[int]]:
    """Return name -> shape out of a safetensors header: 8 bytes of length, then JSON."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(length)) if length < size else {}
        header.pop("__metadata__", None)
        end = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
        shapes = {name: list(entry["shape"]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(where, f"{path} must be safetensors", got=str(error), way_out="fetch or save it again") from None
    if end != size:
        raise BadInput(where, f"{path} must be whole: {end} bytes", got=size, way_out="fetch or save it again")
    return shapes
