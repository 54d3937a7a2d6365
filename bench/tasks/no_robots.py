"""no-robots: 9,500 conversations that people wrote, and 500 to be scored on; licence CC BY-NC 4.0.

HuggingFaceH4/no_robots on the Hub, made after the instructions of InstructGPT (Ouyang et al. 2022, arXiv:2203.02155).
The loss is on the last turn: Qwen3's chat template writes earlier turns otherwise once more follow.
"""

from __future__ import annotations

from pathlib import Path

from bench.data import causal, chat
from bench.data.causal import Layout
from bench.data.splits import TextData
from bench.embedded import prose
from bench.tasks import _chat, _load
from bench.tasks._base import Task

NAME = "no-robots"


def _read(data_dir: Path | None) -> TextData:
    """Read train and eval from the data directory, or train and test from the Hub."""
    directory = _load.directory((NAME,), data_dir)
    if directory is None:
        return _chat.data_of(TASK, "train", "test", None, column="messages")
    train, evaluation = (_load.find_file(directory, name) for name in ("train", "eval"))
    return _chat.data_of(TASK, train, evaluation, None, column=None)


TASK = Task(
    name=NAME, kind=causal.KIND, metric="eval_loss", other_metrics=("perplexity", "bits_per_byte"),
    default_model="qwen3-0-6b", default_study="_chat", causal=Layout(chat=chat.Format(train_on="last")), read=_read,
    hub_id="HuggingFaceH4/no_robots", fixed_text=prose.text(),
)  # fmt: skip
