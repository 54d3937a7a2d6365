"""A model whose weights lie in a GGUF file, as a directory of safetensors: converted once, kept in the cache.

transformers reads the file and dequantises it. What it loads still says that it is quantised, and cannot be saved:
the weights go into a model built from the same config without that key, so that whatever reads the directory meets
an ordinary model. The config names no version of transformers: the directory's hash, and the ids of trials with it,
are the same whichever wrote it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.core import cache
from bench.core.errors import BadInput

VERSION = 1  # of what is written: raised when it changes
_LEFT_OUT = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version")


def converted(file: Path, digest: str, *, name: str, way_out: str, where: str) -> Path:
    """Return the directory with config.json, model.safetensors (float32) and tokenizer files that a GGUF file holds.

    `digest` is the file's sha256.

    Raises:
        BadInput: where the package `gguf` is missing, the file cannot be read, or the cache cannot be written.
    """
    directory = cache.cache_dir() / "models" / f"{name}-{digest[:16]}-{VERSION}"
    if (directory / "config.json").is_file():
        return directory
    if importlib.util.find_spec("gguf") is None:
        raise BadInput(where, f"{name} must be read by the package gguf", got="no package gguf", way_out=way_out)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".writing-"))
    except OSError as error:
        rule, out = "must be writable: the model is converted into it once", "set LORASWEEP_CACHE to another directory"
        raise BadInput(str(directory.parent), rule, got=error.strerror, way_out=out) from None
    try:
        _write(file, made, where)
        os.rename(made, directory)
    except OSError:
        if not (directory / "config.json").is_file():  # else another process was first
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return directory


def _write(file: Path, directory: Path, where: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench.models._load import quiet

    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # a bar of tqdm's own, which quiet() does not reach
        try:
            options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
            loaded = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(where, "must be a GGUF file", got=str(error)[:200], way_out="install it again") from None
        settings = {key: value for key, value in loaded.config.to_dict().items() if key not in _LEFT_OUT}
        plain = type(loaded)(type(loaded.config)(**settings))
        plain.load_state_dict(loaded.state_dict())
        tokenizer.save_pretrained(directory)
        plain.to(torch.float32).save_pretrained(directory)
    path = directory / "config.json"
    config = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key not in _LEFT_OUT}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
