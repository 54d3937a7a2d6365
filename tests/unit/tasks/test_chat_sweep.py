"""From a file of conversations to rows, by command."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, BitsAndBytesConfig

from bench import cli, models, tasks
from bench.data import causal, chat
from bench.data.splits import TextData
from bench.store.rows import load
from tests.support.causal_helpers import batch_of
from tests.support.chat_helpers import CHATML, MARKED, messages, save_chatty, tokenizer, write_jsonl


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def sweep(*options: str) -> int:
    rates = ("--methods", "lora", "--eta-A", "1e-3,1e-2", "--rank", "2", "--steps", "4", "--eval-steps", "2")
    return cli.main(["sweep", "--model", "chatty", "--batch", "4", *rates, *options])


def chats(path: Path) -> Path:
    turns = ([f"question {i}", f"answer {i}", "more?", "no"] for i in range(40))
    return write_jsonl(path, *({"messages": messages(*said[: 2 + 2 * (i % 2)])} for i, said in enumerate(turns)))


def test_a_file_alone_is_swept_and_chosen_by_its_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_chatty(tmp_path / "chatty")
    chats(tmp_path / "mine.jsonl")
    assert sweep("--task", "mine.jsonl", "--max-length", "200") == 0
    shown = capsys.readouterr().out
    assert "mine.jsonl alone is taken for conversations" in shown
    assert "mine (36 / 4 examples, eval_loss) on chatty" in shown
    rows = load(tmp_path / "results" / "mine-chatty").to_pylist()
    assert {row["task"] for row in rows} == {"mine"}
    for row in rows:
        others = json.loads(row["other_metrics"])
        assert set(others) == {"perplexity", "bits_per_byte"}
        assert row["metric_value"] == row["eval_loss"]
        assert row["select_metric"] is not None
        assert row["metric_stderr"] > 0
        assert row["template"].startswith("chat template ")
        assert row["collapsed"] is not None


def test_another_chat_template_is_another_trial(tmp_path: Path) -> None:
    save_chatty(tmp_path / "chatty")
    chats(tmp_path / "mine.jsonl")
    (tmp_path / "own.jinja").write_text(MARKED, encoding="utf-8")
    (tmp_path / "mine.toml").write_text('kind = "chat"\n[files]\ntrain = "mine.jsonl"\n', encoding="utf-8")
    assert sweep("--task", "mine.toml", "--max-length", "200") == 0
    (tmp_path / "mine.toml").write_text(
        'kind = "chat"\nchat_template = "own.jinja"\n[files]\ntrain = "mine.jsonl"\n', encoding="utf-8"
    )
    assert sweep("--task", "mine.toml", "--max-length", "200") == 0
    rows = load(tmp_path / "results" / "mine-chatty").to_pylist()
    assert len({row["trial_id"] for row in rows}) == 4
    assert len({row["template"] for row in rows}) == 2
    losses = {row["template"]: row["eval_loss"] for row in rows if row["eta_A"] == 1e-3}
    assert len(set(losses.values())) == 1, "the two templates write the same tokens and mark the same turns"


def test_what_is_cut_is_told_and_nothing_left_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_chatty(tmp_path / "chatty")
    chats(tmp_path / "mine.jsonl")
    assert cli.main(["doctor", "--task", "mine.jsonl", "--model", "chatty", "--max-length", "40"]) == 0
    shown = capsys.readouterr().out
    assert "train conversations cut from the front by whole turns" in shown
    assert sweep("--task", "mine.jsonl", "--max-length", "8") == cli.BAD_INPUT
    assert "max_length: must hold a whole conversation, but got 8: none of 36 train conv" in capsys.readouterr().err


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (save_chatty(tmp_path / "chatty") / "chat_template.jinja").unlink()
    chats(tmp_path / "mine.jsonl")
    assert sweep("--task", "mine.jsonl") == cli.BAD_INPUT
    assert "tokenizer of chatty: must have a chat template to write conversations by" in capsys.readouterr().err


def test_the_template_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    directory = save_chatty(tmp_path / "chatty")
    own = directory / "chat_template.jinja"

    def both() -> tuple[str | None, str | None]:
        located = models.locate(str(directory))
        return models.chat_template(located), models.load_tokenizer(located).chat_template

    assert both() == (CHATML, CHATML)
    own.unlink()
    assert both() == (None, None)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "chat_template": MARKED}), encoding="utf-8")
    assert both() == (MARKED, MARKED)
    named = [{"name": "default", "template": CHATML}, {"name": "tools", "template": MARKED}]
    path.write_text(json.dumps({**config, "chat_template": named}), encoding="utf-8")
    located = models.locate(str(directory))
    loaded = models.load_tokenizer(located)
    assert models.chat_template(located) == loaded.get_chat_template() == CHATML
    assert tokenizer().chat_template is None


@pytest.mark.parametrize("base_precision", ["same", "nf4"])
def test_the_saved_adapter_gives_plain_peft_the_loss_that_was_reported(tmp_path: Path, base_precision: str) -> None:
    """Loaded by PEFT alone, on the plain base or on that in 4 bits, with the tokenizer and chat template beside it."""
    if base_precision == "nf4" and find_spec("bitsandbytes") is None:
        pytest.skip("the extra nf4 is not installed")
    save_chatty(tmp_path / "chatty")
    chats(tmp_path / "mine.jsonl")
    options = ("--task", "mine.jsonl", "--max-length", "200", "--base-precision", base_precision)
    assert sweep(*options) == 0
    rates = ("--methods", "lora", "--eta-A", "1e-3,1e-2", "--rank", "2", "--steps", "4", "--eval-steps", "2")
    again = ["recommend", "--model", "chatty", "--batch", "4", *rates, *options, "--save", "saved"]
    assert cli.main(again) == 0
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text("utf-8"))
    assert (config["task_type"], config["base_model_name_or_path"]) == ("CAUSAL_LM", str(tmp_path / "chatty"))
    own = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert own.chat_template == CHATML
    card = (tmp_path / "saved" / "README.md").read_text("utf-8")
    assert ("BitsAndBytesConfig" in card) == (base_precision == "nf4")
    facts = json.loads((tmp_path / "saved" / "lorasweep.json").read_text("utf-8"))
    assert f"data {facts['trial']['data_hash']}" in card
    given: dict[str, Any] = {}
    if base_precision == "nf4":
        given = {"quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)}  # fmt: skip
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32, **given)
    model.train()  # nothing drops; in eval mode bitsandbytes has a CPU kernel for wider layers only
    data, layout = tasks.load(tasks.get("mine.jsonl")), causal.Layout(chat=chat.Format())
    assert isinstance(data, TextData)
    scored = causal.encode(
        data, models.locate("chatty"), layout, metric="eval_loss", max_length=200, n_select=0
    ).eval  # fmt: skip
    batch = batch_of(scored, np.arange(len(scored)))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert float(loss) == pytest.approx(facts["metric_value"], abs=1e-5)
    with torch.no_grad(), model.disable_adapter():
        plain = model(**batch).logits[:, :-1]
    assert float((plain - logits).abs().max()) > 1e-4, "the adapter does something"


def test_no_robots_is_read_from_files_and_trained_on_the_last_turn(tmp_path: Path) -> None:
    (tmp_path / "no-robots").mkdir()
    said = messages("hello", "fine", "how are you", "thanks")
    for name, n in (("train", 3), ("eval", 2)):
        write_jsonl(tmp_path / "no-robots" / f"{name}.jsonl", *[{"messages": said}] * n)
    task = tasks.get("no-robots")
    data = tasks.load(task, tmp_path)
    assert isinstance(data, TextData)
    assert (len(data.train), len(data.eval)) == (3, 2)
    assert task.causal is not None
    save_chatty(tmp_path / "chatty")
    found = causal.encode(
        data, models.locate(str(tmp_path / "chatty")), task.causal, metric="eval_loss", max_length=200, n_select=0
    )  # fmt: skip
    targets = found.eval.ids[found.eval.is_target()]
    own = tokenizer()
    assert own.decode(targets[: len(targets) // 2]) == "thanks<|im_end|>"
