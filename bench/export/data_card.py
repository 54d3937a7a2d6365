"""The README.md of a study's rows as a data set: what they are of, how to read them, how to repeat them. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

ROWS = "trials.parquet"
CONFIG = "trials"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCard:
    """What a card is made of."""

    title: str
    task: str
    model: str
    n_rows: int
    methods: Sequence[str]
    metric: str
    best: str  # the table of the best cells, as text
    command: str  # that runs the study
    toml: str  # the study in full
    figures: Sequence[str]  # paths of images from the card's directory
    files: Sequence[tuple[str, str]]  # beside them: path, what it is


def write(card: DataCard) -> str:
    """Return the card as Markdown; its metadata tell `datasets` and the Hub which file holds the rows."""
    size = next(name for most, name in _SIZES if card.n_rows < most)
    head = "\n".join([
        f"pretty_name: {json.dumps(card.title)}",
        'tags: ["lorasweep", "hyperparameters", "lora"]',
        f"size_categories: [{json.dumps(size)}]",
        "configs:",
        f"- config_name: {CONFIG}",
        "  default: true",
        "  data_files:",
        "  - split: train",
        f"    path: {ROWS}",
    ])  # fmt: skip
    images = [f"![{path.rpartition('/')[2].rpartition('.')[0]}]({path})\n" for path in card.figures]
    files = [f"- `{path}`: {what}" for path, what in card.files]
    return "\n".join([
        "---", head, "---", "", f"# {card.title}", "",
        f"Finished trials of {', '.join(card.methods)} on {card.task} with {card.model}, one row each; metric: "
        f"{card.metric}. Missing is null.", "",
        "```python", "from datasets import load_dataset", "",
        'rows = load_dataset("path/or/repository", split="train")', "```", "", *files, "",
        "## Best cells", "", "```text", card.best, "```", "", *images, "## Run it again", "",
        "```", card.command, "```", "", "```toml", card.toml.strip(), "```", "",
    ])  # fmt: skip


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**12, "n>1M"))
