"""chat-demo: short questions with one right answer, as conversations of one turn or two; ships with the package."""

from __future__ import annotations

from pathlib import Path

from bench.data import causal, chat
from bench.data.causal import Layout
from bench.data.splits import TextData
from bench.embedded import prose
from bench.embedded.chats import questions
from bench.tasks._base import Task
from bench.tasks._chat import split_of

LAYOUT = Layout(chat=chat.Format(), max_new_tokens=12)
METRIC = "eval_loss"


def _read(data_dir: Path | None) -> TextData:
    """Return the generated conversations, whatever the data directory: `data_dir` is not read."""
    train, evaluation = (split_of(map(chat.text_of, part)) for part in questions.conversations())
    return causal.data_of(train, evaluation, LAYOUT, METRIC)


TASK = Task(
    name="chat-demo", kind=causal.KIND, metric=METRIC, other_metrics=("exact_match", "perplexity", "bits_per_byte"),
    default_model="smollm2", default_study="_chat", causal=LAYOUT, read=_read,
    fixed_text=prose.text(),
)  # fmt: skip
