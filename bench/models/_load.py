"""From a located model to a transformers classifier and tokenizer: nothing but files on disk, no code of theirs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from bench.errors import BadInput, one_line
from bench.models._base import LoadedModel, Located

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_model(located: Located, n_labels: int, dtype: Any) -> LoadedModel:
    """Return the classifier and the names of its newly initialised parameters (see `models.load_model`)."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with _quiet(), _one_error(located, "must load as a sequence classifier"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            located.directory,
            num_labels=n_labels,
            dtype=torch.float32 if dtype is None else dtype,
            use_safetensors=True,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **_LOCAL,
        )
    _set_padding(located, model.config)
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # keys and values kept for generation are memory for nothing here
    return LoadedModel(model=model, head_names=_head_names(located, model, info))


def load_causal_lm(located: Located, dtype: Any) -> LoadedModel:
    """Return the language model, which has nothing new (see `models.load_causal_lm`)."""
    import torch
    from transformers import AutoModelForCausalLM

    rule = "must load as a causal language model"
    with _quiet(), _one_error(located, rule):
        model, info = AutoModelForCausalLM.from_pretrained(
            located.directory,
            dtype=torch.float32 if dtype is None else dtype,
            use_safetensors=True,
            weights_only=True,
            output_loading_info=True,
            **_LOCAL,
        )
    lacking = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if lacking:
        got = f"{len(lacking)} parameters missing or of another shape, such as {lacking[0]}"
        way_out = "use a checkpoint that was saved with its output layer"
        rule = "the checkpoint must hold the whole language model"
        raise BadInput(f"model {located.name}", rule, got=got, way_out=way_out)
    _set_padding(located, model.config)
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # kept keys and values are asked for where texts are generated
    if _sees_ahead(model):
        way_out = "use a decoder such as tiny-decoder or gpt2"
        raise BadInput(f"model {located.name}", rule, got="one whose logits depend on later tokens", way_out=way_out)
    return LoadedModel(model=model.eval(), head_names=())


def _sees_ahead(model: Any) -> bool:
    """Return whether the logits of the first token change with the second one, as they do in an encoder."""
    import torch

    with torch.no_grad():
        first = model.eval()(input_ids=torch.tensor([[1, 0], [1, 2]])).logits[:, 0]
    return not torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-3 * float(first.abs().max()))


def _set_padding(located: Located, config: Any) -> None:
    """Give a model without a padding token its end-of-text token for it, as the GLUE runs of GPT-2 do.

    A decoder classifies by the last token that is not padding; without a padding token transformers refuses batches.
    """
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    known = [token for token in (config.pad_token_id, *ends) if token is not None and 0 <= token < config.vocab_size]
    if not known:
        rule, got = "config.json must name a padding or an end token", "neither pad_token_id nor eos_token_id"
        raise BadInput(f"model {located.name}", rule, got=got, way_out="add pad_token_id to its config.json")
    config.pad_token_id = known[0]


def load_tokenizer(located: Located) -> Any:
    """Return the fast tokenizer (see `models.load_tokenizer`)."""
    from transformers import AutoTokenizer

    with _quiet(), _one_error(located, "must have a fast tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(located.directory, use_fast=True, **_LOCAL)
    if not tokenizer.is_fast:
        rule = "must have a fast tokenizer"
        raise BadInput(
            f"model {located.name}", rule, got=type(tokenizer).__name__, way_out="save a tokenizer.json with it"
        )
    return tokenizer


def _head_names(located: Located, model: Any, info: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameters outside the base model, and a pooler inside it that the checkpoint lacks.

    Anything else of the base model must be in the checkpoint, in the right shape: a base that is random in part would
    make every result of it meaningless.
    """
    lacking = set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}
    base = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    broken = [n for n in names if n in lacking and n.startswith(base) and not n.startswith(f"{base}pooler.")]
    if broken:
        rule, way_out = "the checkpoint must hold the base model", "check that config.json and weights belong together"
        got = f"{len(broken)} parameters missing or of another shape, such as {broken[0]}"
        raise BadInput(f"model {located.name}", rule, got=got, way_out=way_out)
    return tuple(name for name in names if not name.startswith(base) or name in lacking)


@contextlib.contextmanager
def _one_error(located: Located, rule: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        got = one_line(f"{type(error).__name__}: {error}")[:300]
        way_out = "use a model that this version of transformers knows, saved with save_pretrained"
        raise BadInput(f"model {located.name}", rule, got=got, way_out=way_out) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' loading report and progress bar: new head weights are the point here, not a mishap."""
    from transformers.utils import logging as chatter

    level, bar = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity(logging.ERROR)
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bar:
            chatter.enable_progress_bar()
