"""What a task is: its name, labels and metric, where its data lies, and how it is read.

A file in this directory defines `TASK`, a `Task`. Everything here is data; reading is in `_load.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.data.causal import Layout
from bench.data.splits import TextData
from bench.data.toy import ToyData

TEXT_CLASSIFICATION = "text_classification"
REGRESSION = "regression"
CHAT = "chat"  # in a task's TOML: causal language modelling of conversations
CONVERSATIONS = (".jsonl", ".parquet")  # files that are a task of conversations by themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class TsvLayout:
    """How a task's TSV files lie: which columns hold the texts and the label. Quotes never quote."""

    texts: tuple[str, ...]  # one or two columns
    label: str = "label"
    header: tuple[str, ...] | None = None  # the columns of a file without a header line; None: line 1 names them
    train: str = "train"  # file name without its ending
    eval: str = "dev"
    max_broken_rows: int = 0  # rows with too few columns that are known in the published file, and left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task. `kind` is one of TEXT_CLASSIFICATION, REGRESSION, `bench.data.causal.KIND` and `bench.data.toy.KIND`.

    `text_columns`, `label_column` and the split names are those of the Hub data set, and of parquet, CSV and JSONL
    files; `tsv` gives GLUE's own layout where it differs. A label is one of `labels` or its index, or a number
    (REGRESSION).
    """

    name: str
    kind: str = TEXT_CLASSIFICATION
    labels: tuple[str, ...] = ()  # in index order; () where the task has none
    metric: str  # a name in bench/core/metrics.py: the score
    other_metrics: tuple[str, ...] = ()  # usually quoted beside it: scored at the last step
    default_model: str
    hub_id: str | None = None
    hub_config: str | None = None
    text_columns: tuple[str, ...] = ()  # one or two
    label_column: str = "label"
    train_split: str = "train"
    eval_split: str = "validation"
    test_split: str | None = None  # scored once, by chosen cells
    empty_texts: bool = False  # whether a text may be empty
    tsv: TsvLayout | None = None  # None: a header line with text_columns and label_column
    directories: tuple[str, ...] = ()  # names looked for under the data directory, after `name`
    causal: Layout | None = None  # of causal language models only
    read: Callable[[Path | None], TextData | ToyData] | None = None  # reads the data itself: embedded and custom tasks
    fixed_text: str | None = None  # whose loss before and after training tells what a language model forgets
    default_study: str = "_default"  # the file in studies/ that a task without one of its own is swept by
    assumed: str = ""  # what was taken for granted where a file of data alone was given

    @property
    def n_labels(self) -> int:
        """How many classes there are: how many outputs the head has, which is 1 for a number."""
        return 1 if self.kind == REGRESSION else len(self.labels)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        from bench.core import metrics

        return metrics.higher_is_better(self.metric)
