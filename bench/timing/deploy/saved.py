"""LoRA adapters as `recommend --save` writes them, read back for the engine: weights, rank, scaling, base."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bench import methods, study
from bench.core.errors import BadInput
from bench.core.spec import BasePrecision, TrainBudget, Trial

WEIGHTS, CONFIG, FACTS = "adapter_model.safetensors", "adapter_config.json", "lorasweep.json"
PREFIX = "base_model.model."
REWRITE = "save it anew by recommend --save"
FACTORS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_embedding_A": "A", "lora_embedding_B": "B"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """One adapter: its PEFT config, and the factors of each adapted layer by path and name (A [r, I], B [O, r])."""

    name: str
    directory: Path
    config: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, Tensor]]
    model_hash: str
    base_precision: BasePrecision
    n_bytes: int  # of the file of weights

    @property
    def rank(self) -> int:
        """The rank of its factors."""
        return int(self.config["r"])


def read(directories: Sequence[Path]) -> tuple[Saved, ...]:
    """Return the adapters in these directories, which stand on one base in one precision.

    Raises:
        BadInput: for a directory that holds no LoRA adapter of this project, and for two different bases.
    """
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise BadInput("--adapters", "must be different directories", got=", ".join(map(str, directories)),
                       way_out="name each once")  # fmt: skip
    found = tuple(_read(directory, _name(directory, directories)) for directory in directories)
    for key, what in (("model_hash", "base model"), ("base_precision", "precision of the base")):
        first, other = found[0], next((one for one in found if getattr(one, key) != getattr(found[0], key)), None)
        if other is not None:
            got = f"{first.directory} and {other.directory}"
            raise BadInput("--adapters", f"must have one {what}", got=got, way_out="run the command once for each")
    return found


def _name(directory: Path, directories: Sequence[Path]) -> str:
    """Return the directory's last part, or as much of it as tells it from the others."""
    same = sum(one.resolve().name == directory.resolve().name for one in directories) > 1
    name = "-".join(directory.resolve().parts[-2:]) if same else directory.resolve().name
    return name.replace(".", "-")  # PEFT makes a module of this name


def _read(directory: Path, name: str) -> Saved:
    config, facts = (_json(directory, file) for file in (CONFIG, FACTS))
    kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
    if kind != "LORA" or config.get("task_type") != "CAUSAL_LM" or config.get("modules_to_save"):
        rule, got = "must hold LoRA adapters of a language model", f"{kind}, {config.get('task_type')}"
        raise BadInput(f"--adapters {directory}", rule, got=got, way_out="leave it out")
    path = directory / WEIGHTS
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(str(path), "must be a file of safetensors", got=str(error), way_out=REWRITE) from error
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        leaf = next((leaf for leaf in FACTORS if key.endswith(f".{leaf}")), None)
        if leaf is None or not key.startswith(PREFIX):
            raise BadInput(str(path), "must hold LoRA's factors and nothing else", got=key, way_out=REWRITE)
        layers.setdefault(key.removeprefix(PREFIX).removesuffix(f".{leaf}"), {})[FACTORS[leaf]] = value
    trial = facts["trial"]
    return Saved(
        name=name, directory=directory, config=config, layers=layers, model_hash=trial["model_hash"],
        base_precision=trial["budget"].get("base_precision", "same"), n_bytes=path.stat().st_size,
    )  # fmt: skip


def _json(directory: Path, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        rule, way_out = f"must hold a readable {name}", "give directories that recommend --save wrote: LoRA or LoRA+"
        raise BadInput(f"--adapters {directory}", rule, got=type(error).__name__, way_out=way_out) from error
    return found


def trials_of(adapters: Sequence[Saved], budget: TrainBudget) -> tuple[Trial, ...]:
    """Return what the engine builds a pack of these adapters by: LoRA on every layer that any of them adapts."""
    paths = tuple(dict.fromkeys(path for one in adapters for path in one.layers))
    shared = {"task": "", "model": "", "data_hash": "", "model_hash": "", "budget": budget}
    return tuple(
        study.make_trial(
            methods.BASELINE,
            {
                "seed": 0, "eta_A": 1e-3, "rank": one.rank, "lora_alpha": float(one.config["lora_alpha"]),
                "use_rslora": bool(one.config.get("use_rslora")), "lora_dropout": 0.0, "target_modules": paths,
            },
            shared=shared, default_targets=paths,
        )
        for one in adapters
    )  # fmt: skip
