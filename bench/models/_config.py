"""A model's config.json without its weights, and nothing downloaded: enough to count parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import models
from bench.core.errors import BadInput, one_of
from bench.models._locate import _in_package, _read_config


def read_config(name: str, *, where: str = "model") -> tuple[str, dict[str, Any]]:
    """Return the name of a model and its config, which need no weights beside it.

    `name` is a registered name, a directory that holds a config.json, or a Hub id in the Hugging Face cache. A
    registered model that is not on this disk has the sizes that its file here gives.

    Raises:
        BadInput: for an unknown name, a model without a config and a config that cannot be read.
    """
    if name in models.names():
        return name, _registered(name, where)
    directory = Path(name).expanduser()
    if name and (directory / "config.json").is_file():
        return directory.resolve().name, _read_config(directory, where)
    found = None if directory.exists() else _cached(name, where)
    if found is None:
        rule = "must be a registered name, a directory with config.json or a Hub id in the cache"
        raise BadInput(where, rule, got=repr(name), way_out=f"known: {one_of(models.names())}")
    return name, found


def _registered(name: str, where: str) -> dict[str, Any]:
    model = models.get(name, where=where)
    if model.config is not None:
        rule = "must be a transformers model"
        raise BadInput(where, rule, got=repr(name), way_out="its size is that of its task's own network")
    if model.package is not None and model.gguf is None:
        return _read_config(_in_package(model, where), where)
    found = None if model.hub_id is None else _cached(model.hub_id, where)
    if found is None and model.sizes is None:
        raise BadInput(where, "its config.json must be on this disk", got=repr(name), way_out="give its directory")
    return found if found is not None else dict(model.sizes or {})


def _cached(repo: str, where: str) -> dict[str, Any] | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repo, "config.json")
    except HFValidationError:
        return None
    return _read_config(Path(path).parent, where) if isinstance(path, str) else None
