"""From a located model to a transformers classifier and tokenizer: nothing but files on disk, no code of theirs."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from bench.core.errors import BadInput, one_line
from bench.models._base import LoadedModel, Located

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_model(located: Located, n_labels: int, dtype: Any, labels: Sequence[str] = ()) -> LoadedModel:
    """Return the classifier, and which parameters of its head are new (see `models.load_model`)."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with quiet(), _one_error(located, "must load as a sequence classifier"):
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
    _settle(located, model.config)
    lacking = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    head = _head(located, model, lacking)
    new = lacking if names_agree(located.config, labels) else lacking | sized_by_labels(model)
    _name_labels(model.config, labels)
    return LoadedModel(
        model=model,
        head_names=tuple(name for name in head if name in new),
        kept_names=tuple(name for name in head if name not in new),
        fits_checkpoint=not info["mismatched_keys"],
    )


def load_causal_lm(located: Located, dtype: Any, base_precision: str) -> LoadedModel:
    """Return the language model, which has nothing new (see `models.load_causal_lm`)."""
    import torch
    from transformers import AutoModelForCausalLM

    rule = "must load as a causal language model"
    with quiet(), _one_error(located, rule):
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
    _settle(located, model.config)
    if _sees_ahead(model):
        way_out = "use a decoder such as tiny-decoder or gpt2"
        raise BadInput(f"model {located.name}", rule, got="one whose logits depend on later tokens", way_out=way_out)
    if base_precision == "nf4":
        from bench.models import _nf4

        _nf4.quantise(model)
    return LoadedModel(model=model.eval(), head_names=())


def _sees_ahead(model: Any) -> bool:
    """Return whether the logits of the first token change with the second one, as they do in an encoder."""
    import torch

    with torch.no_grad():
        first = model.eval()(input_ids=torch.tensor([[1, 0], [1, 2]])).logits[:, 0]
    return not torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-3 * float(first.abs().max()))


def _settle(located: Located, config: Any) -> None:
    """Name a padding token, and keep no keys and values: they are asked for where texts are generated."""
    pad = _padding(located, config)
    for part in (config, config.get_text_config()):
        part.pad_token_id = pad
        if getattr(part, "use_cache", False):
            part.use_cache = False


def _padding(located: Located, config: Any) -> int:
    """Return the padding token, or what stands in for it: the end-of-text token, as in the GLUE runs of GPT-2.

    A decoder classifies by the last token that is not padding; without a padding token transformers refuses batches.
    Not every config has these attributes, multimodal ones keep them with their text part, and where none names a token
    the tokenizer does.
    """
    parts = (config, config.get_text_config())
    n_rows = int(getattr(parts[1], "vocab_size", 0) or getattr(config, "vocab_size", 0))

    def known(key: str) -> Iterator[int]:
        for part in parts:
            found = getattr(part, key, None)
            for token in found if isinstance(found, list) else [found]:
                if type(token) is int and 0 <= token < n_rows:
                    yield token

    pad = next((t for key in ("pad_token_id", "eos_token_id") for t in known(key)), None)
    if pad is None:
        tokenizer = load_tokenizer(located)
        own = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        pad = next((int(token) for token in own if token is not None and 0 <= token < n_rows), None)
    if pad is None:
        rule, got = "config.json or tokenizer must name a padding or an end token", "neither pad nor end token"
        raise BadInput(f"model {located.name}", rule, got=got, way_out="add pad_token_id to its config.json")
    return pad


def load_tokenizer(located: Located) -> Any:
    """Return the fast tokenizer (see `models.load_tokenizer`)."""
    from transformers import AutoTokenizer

    with quiet(), _one_error(located, "must have a fast tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(located.directory, use_fast=True, **_LOCAL)
    # Texts are cut by this project, after their tokens are counted: transformers' word on long ones is idle.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    if not tokenizer.is_fast:
        rule = "must have a fast tokenizer"
        raise BadInput(
            f"model {located.name}", rule, got=type(tokenizer).__name__, way_out="save a tokenizer.json with it"
        )
    return tokenizer


def _head(located: Located, model: Any, lacking: Set[str]) -> tuple[str, ...]:
    """Return the parameters outside the base model, and a pooler inside it that the checkpoint lacks.

    Anything else of the base model must be in the checkpoint, in the right shape: a base that is random in part would
    make every result of it meaningless.
    """
    base = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    broken = [n for n in names if n in lacking and n.startswith(base) and not n.startswith(f"{base}pooler.")]
    if broken:
        rule, way_out = "the checkpoint must hold the base model", "check that config.json and weights belong together"
        got = f"{len(broken)} parameters missing or of another shape, such as {broken[0]}"
        raise BadInput(f"model {located.name}", rule, got=got, way_out=way_out)
    return tuple(name for name in names if not name.startswith(base) or name in lacking)


def names_agree(config: Mapping[str, Any], labels: Sequence[str]) -> bool:
    """Return whether the classes of a checkpoint may be those of a task: one side says nothing, or both say the same.

    LABEL_0, LABEL_1, ... say nothing, nor do numbers that are their own place; case, blanks, - and _ do not count.
    """
    given = config.get("id2label")
    if not isinstance(given, Mapping) or not labels:
        return True
    try:
        theirs = [str(given[key]) for key in sorted(given, key=int)]
    except ValueError:
        return False
    if _says_nothing(theirs) or _says_nothing(labels):
        return True
    return [_plain(name) for name in theirs] == [_plain(name) for name in labels]


def _says_nothing(names: Sequence[str]) -> bool:
    return all(name in (f"LABEL_{i}", str(i)) for i, name in enumerate(names))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def sized_by_labels(model: Any) -> set[str]:
    """Return the parameters whose shape follows the number of classes: transformers is asked for one class more."""
    import torch

    config = copy.deepcopy(model.config)
    config.num_labels += 1
    with torch.device("meta"):
        larger = type(model)(config)
    shapes = {name: parameter.shape for name, parameter in larger.named_parameters()}
    return {name for name, parameter in model.named_parameters() if shapes.get(name) != parameter.shape}


def _name_labels(config: Any, labels: Sequence[str]) -> None:
    """Give the model the task's names of its classes, with which it is saved; the former kind of problem goes."""
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
    config.problem_type = None


@contextlib.contextmanager
def _one_error(located: Located, rule: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        got = one_line(f"{type(error).__name__}: {error}")[:300]
        way_out = "use a model that this version of transformers knows, saved with save_pretrained"
        raise BadInput(f"model {located.name}", rule, got=got, way_out=way_out) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
