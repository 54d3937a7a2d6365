"""The README.md of a model that leaves: what it stands on, what it was trained for, its score, how to load it. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a card is made of."""

    title: str
    base_model: str  # Hub id or name
    is_hub_id: bool  # only a Hub id may stand in the card's metadata
    is_adapter: bool
    is_causal: bool
    task: str
    labels: Sequence[str]  # in index order; empty for a language model
    cell: str  # method, rank and rates in words
    score: str  # of the cell: metric, mean, spread, number of seeds
    trained: str  # of this very model: seed and score
    code: str  # the cell as Python
    data_hash: str = ""
    four_bits: bool = False  # trained on a base in 4 bits: it belongs onto that one


def write(card: Card) -> str:
    """Return the card as Markdown, with the metadata that the Hub reads at its head."""
    library = "peft" if card.is_adapter else "transformers"
    metadata = {
        **({"base_model": card.base_model} if card.is_hub_id else {}),
        "library_name": library,
        "pipeline_tag": "text-generation" if card.is_causal else "text-classification",
        "tags": ["lorasweep"],
    }
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in metadata.items())
    kind = "PEFT adapter" if card.is_adapter else "whole model, updates merged in"
    facts = [
        f"- base model: {card.base_model}",
        f"- task: {card.task}{f', data {card.data_hash}' if card.data_hash else ''}",
        *([f"- labels: {', '.join(f'{i} {name}' for i, name in enumerate(card.labels))}"] if card.labels else []),
        f"- kind: {kind}",
        f"- cell: {card.cell}",
        f"- score of the cell: {card.score}",
        f"- this model: {card.trained}",
        *(["- trained on the base in 4 bits (NF4, double quantisation): load it as below"] if card.four_bits else []),
        "- made with: lorasweep; all settings in `lorasweep.json`, the cell as a study in `study.toml`",
        "- again, from where it was made: `python -m bench sweep --study path/to/study.toml`",
    ]
    loading = f"```python\n{_loading(card)}\n```"
    return "\n".join([
        "---", head, "---", "", f"# {card.title}", "", *facts, "", "## Load it", "", loading, "",
        "## Train it again", "", f"```python\n{card.code}\n```", "",
    ])  # fmt: skip


def _loading(card: Card) -> str:
    kind = "CausalLM" if card.is_causal else "SequenceClassification"
    name = f"{'AutoPeftModelFor' if card.is_adapter else 'AutoModelFor'}{kind}"
    package = "peft" if card.is_adapter else "transformers"
    imports = [f"from {package} import {name}", "from transformers import AutoTokenizer"]
    if not card.is_adapter:
        imports = [f"from transformers import {name}, AutoTokenizer"]
    given = ""
    if card.four_bits:
        imports = ["import torch", *imports[:1], "from transformers import AutoTokenizer, BitsAndBytesConfig"]
        given = ", quantization_config=four_bits, dtype=torch.float32"
    lines = ['directory = "."  # where this file lies', f"model = {name}.from_pretrained(directory{given})"]
    if card.four_bits:
        settings = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
        lines.insert(1, f"four_bits = BitsAndBytesConfig({settings})")
    lines += ["tokenizer = AutoTokenizer.from_pretrained(directory)"]
    if card.is_adapter and not card.is_causal:
        lines.append("# moved elsewhere: set base_model_name_or_path in adapter_config.json to its directory `base`")
    return "\n".join([*imports, "", *lines])
