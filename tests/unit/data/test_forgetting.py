"""The fixed text: windows of it, what it may cost, and the columns that it gives rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import cli
from bench.core.errors import BadInput
from bench.data import forgetting
from bench.embedded import prose
from bench.store.rows import load
from bench.tasks._custom import read_task
from plots.figures import forgetting as figure
from tests.support.chat_helpers import messages, save_chatty, tokenizer, write_jsonl
from tests.support.plot_helpers import info
from tests.support.plot_rows import frame, trial


def test_a_larger_allowance_reads_the_same_windows_and_more() -> None:
    few = forgetting.encode(prose.text(), tokenizer(), most=200, max_length=512)
    many = forgetting.encode(prose.text(), tokenizer(), most=1000, max_length=512)
    assert few is not None
    assert many is not None
    assert few.lengths.tolist() == [64, 64, 64]
    assert len(many.ids) == 15 * 64
    np.testing.assert_array_equal(many.ids[: len(few.ids)], few.ids)
    assert tokenizer().decode(many.ids) == prose.text()[: len(tokenizer().decode(many.ids))]
    assert int(few.is_target().sum()) == 3 * 63  # type: ignore[union-attr]
    assert forgetting.hash_of(few) != forgetting.hash_of(many)


def test_an_allowance_below_a_window_reads_a_part_of_it_and_below_16_tokens_nothing() -> None:
    part = forgetting.encode(prose.text(), tokenizer(), most=20, max_length=512)
    assert part is not None
    assert part.lengths.tolist() == [20]
    assert forgetting.encode(prose.text(), tokenizer(), most=15, max_length=512) is None


def test_the_allowance_is_3_percent_of_the_training_s_tokens() -> None:
    """A step computes each token three times over (forward, twice that backward), the text is read twice."""
    for train_tokens in (1_000, 123_456):
        most = forgetting.most_tokens(train_tokens)
        assert 0.03 - 2 / train_tokens < most * 2 / (3 * train_tokens) <= 0.03


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    save_chatty(tmp_path / "chatty")
    turns = ([f"question {i}", f"answer {i}"] for i in range(40))
    write_jsonl(tmp_path / "mine.jsonl", *({"messages": messages(*said)} for said in turns))

    def run(task: str, *more: str) -> list[dict[str, Any]]:
        given = ["--methods", "lora", "--eta-A", "1e-2,1e-1", "--rank", "2", "--steps", "12", "--eval-steps", "12"]
        options = ["--task", task, "--model", "chatty", "--batch", "8", "--max-length", "200", *given, *more]
        assert cli.main(["sweep", *options]) == 0
        return list(load(tmp_path / "results" / "mine-chatty").to_pylist())

    return run


def test_the_row_tells_the_loss_that_transformers_computes_on_the_text(swept: Any, tmp_path: Path) -> None:
    """Before: the plain model's. After: another one, the same for a trial alone as in a pack."""
    rows = swept("mine.jsonl")
    text = forgetting.encode(prose.text(), tokenizer(), most=10**6, max_length=200)
    assert text is not None
    n = rows[0]["forgetting_tokens"]
    assert n <= 0.03 * 3 * 12 * 8 * 60 / 2
    assert n >= 64
    own = AutoTokenizer.from_pretrained(tmp_path / "chatty")
    ids = torch.tensor(own(prose.text(), add_special_tokens=False)["input_ids"][:n]).view(-1, 64)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "chatty")
    with torch.no_grad():
        wanted = float(model(input_ids=ids, labels=ids).loss)
    for row in rows:
        assert row["forgetting_before"] == pytest.approx(wanted, abs=1e-5)
        assert abs(row["forgetting_after"] - wanted) > 1e-4
    assert len({row["forgetting_after"] for row in rows}) == 2
    assert len({row["forgetting_hash"] for row in rows}) == 1
    assert (tmp_path / "results" / "mine-chatty" / "figures" / "forgetting.png").is_file()


def test_a_task_names_its_own_text_or_none_and_ids_stay(swept: Any, tmp_path: Path) -> None:
    toml = 'kind = "chat"\nother_metrics = ["perplexity", "bits_per_byte"]\n{}[files]\ntrain = "mine.jsonl"\n'
    (tmp_path / "own.txt").write_text("thanks how are you " * 200, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(toml.format('forgetting = "none"\n'), encoding="utf-8")
    without = swept("mine.toml")
    assert {row["forgetting_after"] for row in without} == {None}
    (tmp_path / "mine.toml").write_text(toml.format('forgetting = "own.txt"\n'), encoding="utf-8")
    own = swept("mine.toml", "--results-dir", "elsewhere")
    found = list(load(tmp_path / "elsewhere" / "mine-chatty").to_pylist())
    assert own == without
    assert {row["trial_id"] for row in found} == {row["trial_id"] for row in without}
    assert {row["metric_value"] for row in found} == {row["metric_value"] for row in without}
    assert all(row["forgetting_after"] is not None for row in found)
    (tmp_path / "own.txt").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="must hold a text"):
        read_task(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text(toml.format('forgetting = "gone.txt"\n'), encoding="utf-8")
    with pytest.raises(BadInput, match="forgetting: must be a file"):
        read_task(tmp_path / "mine.toml")


def test_the_front_by_hand() -> None:
    """Of (score, forgotten): (0.9, 0.3) and (0.8, 0.1) are on the front; (0.8, 0.2) and (0.7, 0.1) are not."""
    trials = tuple(trial("lora", eta) for eta in (1e-4, 2e-4, 4e-4, 8e-4))
    scores = dict(zip((t.trial_id for t in trials), (0.9, 0.8, 0.8, 0.7), strict=True))
    df = frame(trials, surface=lambda t: scores[t.trial_id])
    df["metric_value"] = df["trial_id"].map(scores)
    lost = dict(zip(scores, (0.3, 0.1, 0.2, 0.1), strict=True))
    df = df.assign(forgetting_before=2.0, forgetting_after=2.0 + df["trial_id"].map(lost), forgetting_hash="t")
    table = figure.tidy(df, info(trials, (0,)))
    assert table.cells.sort_values(["mean", "forgotten"])["on_front"].tolist() == [False, True, False, True]
    np.testing.assert_allclose(sorted(table.cells["forgotten"]), [0.1, 0.1, 0.2, 0.3])
    turned = replace(table, higher_is_better=False)
    by_loss = pd.Series(figure.front(turned), index=table.cells["mean"].round(3))
    assert by_loss[0.7]
    assert not by_loss[0.9]
    some = df.assign(forgetting_hash=["t", "t", "t", "other"])
    assert len(figure.tidy(some, info(trials, (0,))).cells) == 3, "another text is another scale"
