"""The first lines of plan and sweep, where they depend on the task's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import cli
from bench.data.splits import Split


def csv(path: Path, texts: list[str]) -> None:
    path.write_text("text,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(texts)), encoding="utf-8")


def split(texts: list[str], pairs: list[str] | None = None) -> Split:
    labels = np.zeros(len(texts), dtype=np.int64)
    return Split(texts=tuple(texts), pairs=None if pairs is None else tuple(pairs), labels=labels)


@pytest.mark.parametrize(
    ("evaluated", "tested", "expected"),
    [
        (0, 0, []),
        (1, 40, ["40 of 40 test examples stand in train, too"]),
        (2, 1, ["2 of 40 evaluation examples stand in train, too: on these the score tells what was learnt by heart"]),
        (40, 2, ["40 of 40 evaluation examples stand in train, too", "2 of 40 test examples stand in train, too"]),
    ],
)
def test_examples_that_are_trained_on_and_scored_are_told(
    evaluated: int, tested: int, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [f"the film {i} is good" for i in range(60)]
    for name, n in (("eval", evaluated), ("test", tested)):
        csv(tmp_path / f"{name}.csv", train[:n] + [f"a {name} book {i} is bad" for i in range(40 - n)])
    csv(tmp_path / "train.csv", train)
    (tmp_path / "mine.toml").write_text(
        'labels = ["0", "1"]\n[columns]\ntext = "text"\nlabel = "label"\n'
        '[files]\ntrain = "train.csv"\neval = "eval.csv"\ntest = "test.csv"\n'
    )
    options = ["--task", str(tmp_path / "mine.toml"), "--model", "tiny-roberta", "--methods", "lora"]
    assert cli.main(["plan", *options, "--eta-A", "1e-3", "--results-dir", str(tmp_path / "r"), "--steps", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if "stand in train" in line]
    assert len(told) == len(expected)
    assert all(line.startswith(begin) for line, begin in zip(told, expected, strict=True))
    assert any(line.startswith("1 step of ") for line in lines)


def test_pairs_are_the_same_where_both_texts_are() -> None:
    train = split(["a", "b"], ["c", "d"])
    assert split(["a", "b", "a", "a"], ["d", "d", "c", "c"]).n_in(train) == 3
    assert split(["a", "x", "a"]).n_in(split(["a", "b"])) == 2
