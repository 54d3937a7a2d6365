"""What a model is: a registered name and where its files come from; a located one is a directory on this disk.

A file in this directory defines `MODEL`, a `Model`. No torch here: `bench plan` locates and hashes models without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A registered model: a Hub id, a directory inside an installed package, or a config of a model without files."""

    name: str
    hub_id: str | None = None
    package: str | None = None  # import name; never imported, only looked up
    directory: str = ""  # below the package, with /
    gguf: str | None = None  # a file in there that is converted once into a directory of safetensors (`_gguf.py`)
    extra: str | None = None  # the optional extra of this project that installs `package`
    config: Mapping[str, object] | None = None  # its weights are drawn from each trial's seed
    sizes: Mapping[str, object] | None = None  # of config.json what counts parameters, where its files are not here


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """A base model on disk: a directory with config.json, safetensors and tokenizer files."""

    name: str  # registered name, Hub id or last part of a local directory: the `model` of a row
    directory: Path
    model_hash: str  # 16 hex digits over config.json and the weights
    revision: str | None = None  # the commit of a Hub model
    tokenizer_hash: str  # 16 hex digits over the tokenizer files: part of the key of cached token ids
    config: dict[str, Any] = field(hash=False)  # config.json as read

    @property
    def model_type(self) -> str:
        """transformers' name of the architecture, such as "roberta"."""
        return str(self.config["model_type"])

    @property
    def n_token_types(self) -> int:
        """How many token types the model embeds; 0 where it has none."""
        usual = 2 if self.model_type in ("albert", "bert", "electra") else 0  # transformers' defaults
        return int(self.config.get("type_vocab_size", usual))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A transformers sequence classifier with its base weights, and which of its parameters are its head.

    Trained in full, as PEFT's modules_to_save, are the parameters outside the base model, and those inside it that the
    checkpoint lacks (a pooler, say). `head_names` are the new ones among them, those that transformers itself draws
    anew: their values are its random ones, to be drawn for each seed. `kept_names` are those that the checkpoint
    gives (a classifier of the task's size, ModernBERT's head.dense): training starts from the checkpoint's values.
    """

    model: PreTrainedModel
    head_names: tuple[str, ...]
    kept_names: tuple[str, ...] = ()
    fits_checkpoint: bool = True  # the checkpoint holds nothing in another shape than the model's

    @property
    def full_names(self) -> tuple[str, ...]:
        """All parameters that are trained in full, new and kept, in the model's order."""
        own = {*self.head_names, *self.kept_names}
        return tuple(name for name, _ in self.model.named_parameters() if name in own)

    def new_names(self, *, reinit_head: bool = False) -> tuple[str, ...]:
        """Return the parameters that are drawn for each seed: with `reinit_head` the kept ones too."""
        return self.full_names if reinit_head else self.head_names
