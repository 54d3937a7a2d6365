"""demo-hex: going on with pretraining on the demo's texts as hex digits of their bytes; other texts are scored.

A stand-in, at the size of tiny-decoder, for continued pretraining in MoRA (arXiv:2405.12130), Table 1: English is a
domain that tiny-decoder, pretrained on UUIDs, has not seen, and hex digits are what it can write. A text is cut to its
first characters, two digits each, so that it fits into the model's 128 tokens.
"""

from __future__ import annotations

from pathlib import Path

from bench.data import causal
from bench.data.causal import Layout
from bench.data.splits import Split, TextData
from bench.embedded.demo import grammar
from bench.tasks._base import Task

CHARACTERS = 40  # of a text
LAYOUT = Layout(target="text")
METRIC = "eval_loss"


def _read(data_dir: Path | None) -> TextData:
    """Return the generated texts, whatever the data directory: `data_dir` is not read."""
    train, evaluation = (_hex(split) for split in grammar.generate_splits())
    return causal.data_of(train, evaluation, LAYOUT, METRIC)


def _hex(split: Split) -> Split:
    return causal.split_of((("", text[:CHARACTERS].encode().hex()) for text in split.texts), LAYOUT)


TASK = Task(
    name="demo-hex", kind=causal.KIND, metric=METRIC, other_metrics=("perplexity",), default_model="tiny-decoder",
    causal=LAYOUT, read=_read,
)  # fmt: skip
