"""metamath: MetaMathQA's 395,000 solved problems, scored on the 1,319 of GSM8K (MoRA, arXiv:2405.12130, Table 1).

MetaMathQA: Yu et al. 2023, arXiv:2309.12284. GSM8K: Cobbe et al. 2021, arXiv:2110.14168. Right is a text whose last
"The answer is" gives GSM8K's number, whatever its separators and decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.data import causal
from bench.data.causal import Layout
from bench.data.splits import TextData
from bench.tasks._base import Task
from bench.tasks._parts import Part, Row, checked, rows, texts

METRIC = "exact_match"
LAYOUT = Layout(
    prompt="prompt",
    # The instruction format that MetaMathQA's authors train and evaluate with (Stanford Alpaca's).
    template=(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{prompt}\n\n### Response: "
    ),
    answer=r"(?:The answer is:?|####)\s*(-?\$?\s?-?[\d,]*\.?\d+)",
    numeric=True,
    max_new_tokens=512,
)
TRAIN = Part(stem="train", columns=("query", "response"), hub_id="meta-math/MetaMathQA", hub_split="train")
EVAL = Part(stem="eval", columns=("question", "answer"), hub_id="openai/gsm8k", hub_config="main", hub_split="test")


def _read(data_dir: Path | None) -> TextData:
    """Read MetaMathQA and GSM8K from the data directory or the Hub."""
    train, evaluation = rows(TRAIN, "metamath", data_dir), rows(EVAL, "metamath", data_dir)
    splits = [causal.split_of(found, LAYOUT) for found in (_pairs(train), _solved(evaluation))]
    return causal.data_of(splits[0], splits[1], LAYOUT, METRIC)


def _pairs(found: Iterable[Row]) -> Iterator[tuple[str, str]]:
    for row in found:
        prompt, target = texts(row, row.values)
        yield prompt, checked(row, target, bool, "a target must not be empty")


def _solved(found: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Yield pairs whose target has a number to compare with: a row without one could never be right."""
    for row in found:
        prompt, target = texts(row, row.values)
        rule = "an answer must end in #### and a number"
        yield prompt, checked(row, target, lambda t: causal.is_match(t, t, LAYOUT.answer, numeric=True), rule)


TASK = Task(name="metamath", kind=causal.KIND, metric=METRIC, default_model="llama2-7b", causal=LAYOUT, read=_read)
