"""The modules of a base model read off its safetensors headers: enough to check targets and ranks without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from bench import methods
from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.methods._base import LayerShape, require_fit
from bench.models._base import Located
from bench.models._locate import weight_files
from bench.models._targets import Candidate, Kind, match_targets

# The key of config.json that bounds the length, where the table is not among the weights or the weights are not here.
_POSITIONS = {
    **dict.fromkeys(("albert", "bert", "distilbert", "electra", "roberta", "xlm-roberta"), "max_position_embeddings"),
    **dict.fromkeys(("gpt2", "gptj", "codegen"), "n_positions"),
    "opt": "max_position_embeddings",
}
_OFFSET_BY_PADDING = frozenset((
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
))  # fmt: skip
_SPARE_ROWS = dict.fromkeys(
    ("bart", "biogpt", "mbart", "mra", "mvp", "nystromformer", "opt", "plbart", "yoso"), 2
)  # rows before the first position

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
_POSITION_TABLES = (".position_embeddings.weight", "wpe.weight", "embed_positions.weight")
_INPUTS, _OUTPUT = ("embed_tokens", "wte"), "lm_head"  # of the language models among them
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


def outline(located: Located, *, causal: bool = False) -> tuple[Candidate, ...] | None:
    """Return the modules that can be adapted, named and shaped as in the classifier or language model; None: not known.

    Raises:
        BadInput: where a weight file is cut short.
    """
    prefix = PREFIXES.get(located.model_type)
    if prefix is None:
        return None
    shapes = tensors(located)
    inside = {name for name in shapes if name.startswith(f"{prefix}.")}
    named = {name if inside else f"{prefix}.{name}": shapes[name] for name in inside or shapes}
    found = tuple(_candidates(named, f"{prefix}.", located.model_type))
    table = next((m for m in found if causal and m.name.rpartition(".")[2] in _INPUTS), None)
    if table is None:
        return found
    # Tied to the table of the input embeddings or not, it is a layer of its own that can be adapted, as in PEFT.
    output = Candidate(
        name=_OUTPUT, kind="Linear", output=True, in_features=table.out_features, out_features=table.in_features
    )
    return (*found, output)


def tensors(located: Located) -> dict[str, list[int]]:
    """Return name -> shape of every tensor of the checkpoint."""
    shapes: dict[str, list[int]] = {}
    for path in weight_files(located.directory):
        shapes |= _shapes(path, f"model {located.name}")
    return shapes


def max_tokens(located: Located) -> int | None:
    """The longest input that a table of absolute positions allows; None where there is none.

    Read off the checkpoint: config.json says of many architectures what they were trained with, table or not.
    """
    key = _POSITIONS.get(located.model_type)
    rows = position_rows(located)
    if rows is not None:
        rows -= _SPARE_ROWS.get(located.model_type, 0)
    elif key is not None and key in located.config:
        rows = int(located.config[key])
    if rows is None:
        return None
    # RoBERTa counts positions from pad_token_id + 1.
    pad = located.config.get("pad_token_id")
    used = (1 if pad is None else int(pad)) + 1 if located.model_type in _OFFSET_BY_PADDING else 0
    return rows - used


def position_rows(located: Located) -> int | None:
    """Return how many rows the checkpoint's table of absolute positions has; None where it has none, or is not here."""
    if not located.directory.is_dir():
        return None
    for name, shape in tensors(located).items():
        if len(shape) == 2 and name.endswith(_POSITION_TABLES):
            return shape[0]
    return None


def check_targets(
    located: Located, trials: Iterable[Trial], *, where: str = "target_modules", causal: bool = False
) -> None:
    """Refuse modules, layers and ranks that do not fit the model, before anything is built.

    `causal` says that it is trained as a language model, whose output layer can be adapted too. Of an architecture
    that is not known here nothing is said: `check_shapes` builds it.

    Raises:
        BadInput: as `targets.match_targets` and `methods.require_fit` do.
    """
    modules = outline(located, causal=causal)
    if modules is None:
        return
    by_name = {module.name: module for module in modules}
    for trial in distinct(trials):
        if trial.target_modules is None:
            continue
        chosen = match_targets(modules, trial.target_modules, trial.layers_to_transform, where=where)
        require_fit(methods.get(trial.method), trial, (_layer_shape(by_name[name]) for name in chosen))


# The settings of a trial that say which layers are adapted and with what, and what of the head is new.
LAYER_SETTINGS = (
    "method", "target_modules", "layers_to_transform", "rank", "init", "mora_type", "mora_rounding", "reinit_head",
)  # fmt: skip


def distinct(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Return one trial for each set of LAYER_SETTINGS."""
    found: dict[tuple[object, ...], Trial] = {}
    for trial in trials:
        found.setdefault(tuple(getattr(trial, name) for name in LAYER_SETTINGS), trial)
    return tuple(found.values())


def _layer_shape(module: Candidate) -> LayerShape:
    kinds: dict[Kind, Literal["linear", "conv1d", "embedding"]] = {
        "Linear": "linear", "Conv1D": "conv1d", "Embedding": "embedding",
    }  # fmt: skip
    return LayerShape(
        path=module.name, in_features=module.in_features, out_features=module.out_features, kind=kinds[module.kind]
    )


def _candidates(shapes: dict[str, list[int]], prefix: str, model_type: str) -> Iterable[Candidate]:
    for name in shapes:
        module, _, kind_of_parameter = name.rpartition(".")
        if kind_of_parameter != "weight" or len(shapes[name]) != 2:
            continue
        # Among these only BERT's classifier has the pooler of the pretraining checkpoint.
        if module.startswith(f"{prefix}pooler.") and model_type != "bert":
            continue
        kind, (first, second) = _kind(module, model_type), shapes[name]
        n_in, n_out = (second, first) if kind == "Linear" else (first, second)
        yield Candidate(name=module, kind=kind, in_features=n_in, out_features=n_out)


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
