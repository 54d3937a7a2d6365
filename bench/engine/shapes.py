"""The model built without its weights, on torch's meta device: whether each method and target fits its real layers.

`_outline.py` reads the same off the checkpoint for the architectures that it knows, without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from bench import methods
from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.engine.layers import adapted_layers
from bench.methods._base import require_fit
from bench.models._base import Located
from bench.models._outline import distinct, tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_shapes(located: Located, trials: Iterable[Trial], *, labels: Sequence[str]) -> str:
    """Return in words how many layers are adapted and what of the head is new; no `labels`: a language model.

    Raises:
        BadInput: where transformers has no such model for the architecture, or a trial does not fit its layers.
    """
    model = _on_meta(located, len(labels))
    if model is None:
        return "layers not known before the model is loaded"
    stored = tensors(located)
    head = _head(model, stored) if labels else []
    n_layers, some = 0, distinct(trials)
    for trial in some:
        method = methods.get(trial.method)
        shapes = () if method.trains_base else adapted_layers(model, method, trial, head)
        require_fit(method, trial, shapes)
        n_layers = max(n_layers, len(shapes))
    found = f"up to {n_layers:,} layers adapted"
    if not labels:
        return found
    again = sorted({trial.reinit_head for trial in some})
    return f"{found}; {_head_in_words(model, head, _kept(located, model, head, stored, labels), again)}"


def _head_in_words(model: PreTrainedModel, head: Sequence[str], kept: Set[str], again: Sequence[bool]) -> str:
    new = [name for name in head if name not in kept]
    if not kept or again == [True]:
        return f"head new: {', '.join(head)}"
    words = f"head new: {', '.join(new) or 'nothing'}; kept: {', '.join(name for name in head if name in kept)}"
    return words if again != [False, True] else f"{words} (with reinit_head all is new)"


def _kept(
    located: Located,
    model: PreTrainedModel,
    head: Sequence[str],
    stored: Mapping[str, list[int]],
    labels: Sequence[str],
) -> Set[str]:
    """Return the parameters of the head that the checkpoint gives, as `_load.load_model` keeps them."""
    from bench.models import _load

    kept = {name for name in head if stored.get(name) == list(model.get_parameter(name).shape)}
    return kept if not kept or _load.names_agree(located.config, labels) else kept - _load.sized_by_labels(model)


def _on_meta(located: Located, n_labels: int) -> PreTrainedModel | None:
    """Return the model; None where it cannot be built without numbers, as a few architectures cannot."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if n_labels else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(located.directory, local_files_only=True, trust_remote_code=False)
    except Exception:  # the load names what is wrong
        return None
    if type(config) not in kind._model_mapping:
        rule = f"must load as a {'sequence classifier' if n_labels else 'causal language model'}"
        way_out = "use an architecture for which transformers has one"
        raise BadInput(f"model {located.name}", rule, got=located.model_type, way_out=way_out)
    if n_labels:
        config.num_labels = n_labels
    try:
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config, trust_remote_code=False)
    except Exception:  # an architecture that computes with its weights when it is built
        return None
    return model


def _head(model: PreTrainedModel, stored: Mapping[str, list[int]]) -> list[str]:
    """Return the parameters trained in full: outside the base model, and a pooler that the checkpoint lacks."""
    base = f"{model.base_model_prefix}."
    return [
        name
        for name, _ in model.named_parameters()
        if not name.startswith(base)
        or (name.startswith(f"{base}pooler.") and not {name, name.removeprefix(base)} & stored.keys())
    ]
