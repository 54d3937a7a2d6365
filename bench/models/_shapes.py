"""The model built without its weights, on torch's meta device: whether each method and target fits its real layers.

`_outline.py` reads the same off the checkpoint for the architectures that it knows, without torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench import methods
from bench.errors import BadInput
from bench.methods._base import require_fit
from bench.models._base import Located
from bench.models._outline import distinct, tensors
from bench.spec import Trial

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_shapes(located: Located, trials: Iterable[Trial], *, n_labels: int) -> str:
    """Return what was found in words; `n_labels` 0: it is trained as a language model.

    Raises:
        BadInput: where transformers has no such model for the architecture, or a trial does not fit its layers.
    """
    from bench.engine.bank import adapted_layers

    model = _on_meta(located, n_labels)
    if model is None:
        return "not known before the model is loaded"
    head = _head(located, model) if n_labels else []
    n_layers = 0
    for trial in distinct(trials):
        method = methods.get(trial.method)
        shapes = () if method.trains_base else adapted_layers(model, method, trial, head)
        require_fit(method, trial, shapes)
        n_layers = max(n_layers, len(shapes))
    return f"up to {n_layers:,} layers adapted"


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


def _head(located: Located, model: PreTrainedModel) -> list[str]:
    """Return the parameters trained in full: outside the base model, and a pooler that the checkpoint lacks."""
    base, stored = f"{model.base_model_prefix}.", set(tensors(located))
    return [
        name
        for name, _ in model.named_parameters()
        if not name.startswith(base)
        or (name.startswith(f"{base}pooler.") and not {name, name.removeprefix(base)} & stored)
    ]
