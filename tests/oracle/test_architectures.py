"""Each text architecture of transformers trains as under PEFT or is refused in one line, and the page says which."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import architectures

FAST = [
    ("bloom", "classifier", "equal"), ("falcon", "causal", "equal"), ("modernbert", "classifier", "equal"),
    ("mpnet", "classifier", "equal"), ("megatron-bert", "classifier", "equal"), ("deberta", "classifier", "equal"),
    ("gemma2", "causal", "equal"), ("gpt_oss", "classifier", "equal"), ("gptj", "causal", "equal"),
    ("xlnet", "classifier", "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "head", "outcome"), FAST)
def test_important_architectures_train_as_under_peft(name: str, head: Any, outcome: str) -> None:
    found = architectures.look(name, head)
    assert found.outcome == outcome, found
    assert found.adapted == ("all-linear" if outcome == "equal" else "")


def test_the_page_knows_every_architecture() -> None:
    rows = architectures.read_page(architectures.PAGE.read_text(encoding="utf-8"))
    heads: tuple[architectures.Head, ...] = ("classifier", "causal")
    assert set(rows) == {(head, name) for head in heads for name in architectures.known(head)}
    assert {(head, name): rows[head, name][0] for name, head, _ in FAST} == {(h, n): o for n, h, o in FAST}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classifier", "causal"])
def test_every_architecture_trains_as_under_peft_or_is_refused(head: Any) -> None:
    rows = architectures.read_page(architectures.PAGE.read_text(encoding="utf-8"))
    found = [architectures.look(name, head) for name in architectures.known(head)]
    page = architectures.read_page(architectures.page(found))
    assert {k: v for k, v in rows.items() if k[0] == head} == page
