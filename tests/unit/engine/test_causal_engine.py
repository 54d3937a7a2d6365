"""Causal language models in packs: against PEFT and transformers one at a time, and what they write."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from bench.core.clock import Clock
from bench.core.record import Status
from bench.core.spec import Pack, Trial
from bench.data import causal
from bench.engine.batching import Batches
from bench.engine.causal import NextTokens, Texts, Written
from bench.engine.generate import equal_prompts
from bench.engine.paths import BankPath
from bench.engine.run import EngineOptions, run_pack
from bench.export import takeaway
from bench.models._targets import ALL_LINEAR
from tests.support.causal_helpers import (
    END,
    batch_of,
    causal_data,
    decode,
    language_model,
    peft_language_model,
    train_alone,
    train_pack,
    written_alone,
)
from tests.support.decoders import DECODERS, MEMBERS, PACK
from tests.support.engine_helpers import budget, clone, trial
from tests.support.oracle import CPU, assert_hard, assert_same_course, make_bank, start_values


def members(**changes: Any) -> list[Trial]:
    return [trial(budget=budget(**PACK), target_modules=ALL_LINEAR, **{**m, **changes}) for m in MEMBERS]


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_pack_trains_as_peft_alone(model_type: str) -> None:
    loaded, data, trials = language_model(model_type), causal_data(), members()
    starts = start_values(loaded, trials)
    alone = {
        k: train_alone(loaded, data.train, t, peft_language_model(loaded, t, starts[k])) for k, t in enumerate(trials)
    }
    packed = train_pack(loaded, data, trials)
    assert not any("lm_head" in shape.path for shape in packed.bank.shapes)
    assert_hard(packed, PACK["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)


@pytest.mark.parametrize(("model_type", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_full_fine_tuning_is_plain_transformers_tied_embeddings_and_all(model_type: str, tied: bool) -> None:
    loaded, data = language_model(model_type, tie_word_embeddings=tied), causal_data()
    settings = {"method": "full", "eta_A": 3e-3, "eta_B": None, "rank": None, "lora_alpha": None, "use_rslora": None,
                "lora_dropout": None, "init": None, "target_modules": None}  # fmt: skip
    one = trial(budget=budget(**PACK), **settings)
    packed = train_pack(loaded, data, [one])
    model = clone(loaded.model)
    alone = train_alone(loaded, data.train, one, model)
    assert_same_course(packed, {0: alone}, atol=1e-10)
    mine = packed.bank.model
    assert (mine.get_input_embeddings().weight is mine.get_output_embeddings().weight) == tied
    torch.testing.assert_close(
        mine.get_output_embeddings().weight, model.get_output_embeddings().weight, rtol=0, atol=1e-9
    )


def test_mora_trains_alone_as_in_a_pack_whatever_the_chunks() -> None:
    loaded, data = language_model("llama"), causal_data()
    settings = {"method": "mora", "eta_B": None, "lora_alpha": None, "use_rslora": None, "init": None, "rank": 4,
                "mora_type": 6, "mora_rounding": "floor", "target_modules": ALL_LINEAR}  # fmt: skip
    trials = [trial(budget=budget(**PACK), **{**settings, "eta_A": eta}) for eta in (1e-3, 3e-2)]
    together = train_pack(loaded, data, trials, n_chunks=3)
    for k, one in enumerate(trials):
        alone = train_pack(loaded, data, [one], n_chunks=1)
        np.testing.assert_allclose(together.losses_SxK[:, k], alone.losses_SxK[:, 0], rtol=0, atol=1e-11)


def test_the_loss_is_the_mean_over_target_tokens() -> None:
    loaded, data = language_model("llama"), causal_data()
    bank, split = make_bank(loaded, members()), Batches(data.train, device=CPU)
    places = np.arange(12)
    nothing_trained = batch_of(data.train, places)
    labels = nothing_trained.pop("labels")
    with torch.no_grad():
        logits = loaded.model(**nothing_trained).logits[:, :-1].log_softmax(-1)
    shifted = labels[:, 1:]
    chosen = [(i, t) for i in range(12) for t in range(shifted.shape[1]) if shifted[i, t] != -100]
    expected = -sum(float(logits[i, t, shifted[i, t]]) for i, t in chosen)
    assert data.reading is not None
    objective = NextTokens(bank, data.metric, data.reading)
    assert objective.count(split, places) == len(chosen)
    with torch.no_grad():
        summed_K = objective.summed_loss(BankPath(bank), split.chunk(places))
    np.testing.assert_allclose(summed_K.numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("model_type", DECODERS)
def test_what_a_pack_writes_is_what_each_model_writes_alone(model_type: str) -> None:
    """Without knowing the target: every example alone, without padding and without kept keys, writes the same."""
    loaded, data = language_model(model_type), causal_data()
    trials = members()
    starts = start_values(loaded, trials)
    models = [peft_language_model(loaded, t, starts[k]) for k, t in enumerate(trials)]
    for k, one in enumerate(trials):
        train_alone(loaded, data.train, one, models[k])
    bank = train_pack(loaded, data, trials).bank
    assert data.reading is not None
    dev = Batches(data.eval, device=CPU)
    written = NextTokens(bank, data.metric, data.reading).evaluate(BankPath(bank), dev, n_trials=3)
    assert written.texts is not None
    limit = int((data.eval.lengths - data.eval.prompt_lengths).max())
    for k, model in enumerate(models):
        assert list(written.texts.generated[k]) == decode(written_alone(model, data.eval, limit)), f"trial {k}"
    assert len(set(written.texts.generated)) == 3, "the trials write the same: the comparison says little"


def test_writing_stops_at_the_end_token_or_the_limit() -> None:
    loaded = language_model("llama")
    loaded.model.lm_head.weight.data[END] = 0.0
    data = causal_data(max_new_tokens=3)
    assert data.reading is not None
    bank, dev = make_bank(loaded, members()), Batches(data.eval, device=CPU)
    way = BankPath(bank)
    free = NextTokens(bank, data.metric, data.reading).evaluate(way, dev, n_trials=3).texts
    assert free is not None
    assert {len(text) for text in free.generated[0]} <= {0, 1, 2, 3}
    assert max(len(text) for text in free.generated[0]) == 3
    first = written_alone(loaded.model, data.eval, 1)[0][0]
    ends_first = replace(data.reading, end_id=first)
    texts = NextTokens(bank, data.metric, ends_first).evaluate(way, dev, n_trials=3).texts
    assert texts is not None
    assert texts.generated[0][0] == ""


def test_prompts_of_one_length_go_together_and_all_go() -> None:
    split = Batches(causal_data().eval, device=CPU)
    assert split.prompt_lengths is not None
    parts = list(equal_prompts(split, 60, 12))
    assert sorted(np.concatenate(parts)) == list(range(split.n))
    for part in parts:
        (length,) = set(split.prompt_lengths[part])
        assert len(part) <= max(1, 60 // (length + 12))
        assert split.prompts(part, 0)[0].shape == (len(part), length)


def written(texts: list[str], targets: list[str], answer: str | None = None) -> Written:
    return Written(
        losses_KxN=np.array([[2.0, 6.0]]), counts_N=np.array([2, 3]), answer=answer,
        texts=Texts(targets=tuple(targets), generated=(tuple(texts),)),
    )  # fmt: skip


def test_scores_by_hand() -> None:
    found = written(["abcd", "abxx"], ["abcd", "abcdef"])
    value, stderr = found.score("char_accuracy")
    assert value[0] == pytest.approx((1 + 2 / 6) / 2)
    assert stderr[0] == pytest.approx(np.std([1, 2 / 6]) / math.sqrt(2))
    assert found.score("exact_match")[0][0] == 0.5
    assert found.accuracy(0) == 0.5
    assert found.loss_K[0] == pytest.approx(8 / 5)
    value, stderr = found.score("perplexity")
    assert value[0] == pytest.approx(math.exp(8 / 5))
    residuals = np.array([2 - 1.6 * 2, 6 - 1.6 * 3])
    assert stderr[0] == pytest.approx(math.exp(1.6) * math.sqrt((residuals**2).mean() / 2) / 2.5)
    assert written(["a", "a"], ["b", "c"]).says_one_thing(0)
    assert not written(["a", "b"], ["b", "c"]).says_one_thing(0)
    assert not written(["a", "a"], ["a", "a"]).says_one_thing(0)


@pytest.mark.parametrize(
    ("text", "target", "pattern", "right"),
    [
        ("so 3 + 4 = 7. The answer is: 7", "The answer is: 7", r"The answer is: (\S+)", True),
        ("The answer is: 5. No. The answer is: 7", "The answer is: 7", r"The answer is: (\S+)", True),
        ("The answer is: 70", "The answer is: 7", r"The answer is: (\S+)", False),
        ("7", "The answer is: 7", r"The answer is: (\S+)", False),
        ("7", "no answer either", r"The answer is: (\S+)", False),
        ("a 12 b", "12", r"\d+", True),
        ("7 ", "7", None, False),
    ],
)
def test_exact_match_compares_the_last_answer(text: str, target: str, pattern: str | None, right: bool) -> None:
    assert causal.is_match(text, target, pattern) is right


@pytest.mark.parametrize(
    ("text", "target", "share"), [("abc", "abd", 2 / 3), ("abcdef", "abc", 1.0), ("", "ab", 0.0), ("", "", 1.0)]
)
def test_char_accuracy_is_over_the_target(text: str, target: str, share: float) -> None:
    assert causal.char_accuracy(text, target) == pytest.approx(share)


def test_scores_of_the_loss_and_their_standard_errors_are_ratios_over_examples() -> None:
    """Against a bootstrap over the examples."""
    rng = np.random.default_rng(0)
    counts, sizes = rng.integers(1, 30, 400), rng.integers(5, 120, 400)
    losses = counts * rng.gamma(4.0, 0.5, (2, 400))
    written = Written(losses_KxN=losses, counts_N=counts, texts=None, answer=None, bytes_N=sizes)
    drawn = rng.integers(0, 400, (4000, 400))
    for metric, per, unit in (("eval_loss", counts, 1.0), ("bits_per_byte", sizes, math.log(2))):
        value, stderr = written.score(metric)
        np.testing.assert_allclose(value, losses.sum(axis=1) / per.sum() / unit, rtol=1e-12)
        again = losses[:, drawn].sum(axis=-1) / per[drawn].sum(axis=-1) / unit
        np.testing.assert_allclose(stderr, again.std(axis=1), rtol=0.08)
    np.testing.assert_allclose(written.score("perplexity")[0], np.exp(written.score("eval_loss")[0]), rtol=1e-12)
    unknown = replace(written, bytes_N=None).score("bits_per_byte")
    assert np.isnan(unknown).all(), "of targets that were cut nobody knows the bytes"


def test_generated_texts_are_scored_beside_a_loss_once() -> None:
    loaded, data = language_model("llama"), causal_data("eval_loss")
    data = replace(data, other_metrics=("exact_match", "char_accuracy", "perplexity"))
    one = trial(budget=budget(**PACK, n_select=4), target_modules=ALL_LINEAR, eta_A=1e-3)
    (row,) = run_pack(Pack(trials=(one,)), data, loaded, EngineOptions(device=CPU), clock=Clock())
    (alike,) = run_pack(
        Pack(trials=(one,)), replace(data, metric="char_accuracy", other_metrics=("exact_match",)), loaded,
        EngineOptions(device=CPU), clock=Clock(),
    )  # fmt: skip
    assert row.metric_value == row.eval_loss
    assert row.other_metrics is not None
    assert row.other_metrics["char_accuracy"] == alike.metric_value
    assert row.eval_correct == alike.eval_correct


@pytest.mark.parametrize("metric", causal.METRICS)
def test_a_pack_s_rows(metric: str) -> None:
    loaded, data = language_model("llama"), causal_data(metric)
    trials = [trial(budget=budget(**PACK, n_select=4), target_modules=ALL_LINEAR, eta_A=eta) for eta in (1e-3, 1e300)]
    fine, broken = run_pack(Pack(trials=tuple(trials)), data, loaded, EngineOptions(device=CPU), clock=Clock())
    assert (fine.status, broken.status) == (Status.OK, Status.DIVERGED)
    assert fine.metric_value is not None
    assert fine.eval_loss is not None
    assert fine.select_metric is not None
    assert fine.engine_path == "packed"
    assert (fine.n_eval, broken.n_eval, broken.metric_value) == (24, 24, None)
    if metric == "perplexity":
        assert fine.metric_value == pytest.approx(math.exp(fine.eval_loss))
        assert fine.best_metric == min(p.metric_value for p in fine.curve if p.metric_value is not None)
    if metric == "eval_loss":
        assert fine.metric_value == fine.eval_loss
    if metric == "bits_per_byte":
        assert fine.metric_value == pytest.approx(fine.eval_loss / math.log(2) / 3), "3 bytes a token"
    if metric not in causal.GENERATED:
        assert (fine.accuracy, fine.eval_correct) == (None, None)
    else:
        assert fine.eval_correct is not None
        right = np.unpackbits(np.frombuffer(fine.eval_correct, dtype=np.uint8), count=24)
        assert fine.accuracy == right.mean()


def test_what_leaves_is_a_peft_adapter_for_causal_models_and_a_merged_model(tmp_path: Path) -> None:
    loaded, data = language_model("llama"), causal_data()
    bank = train_pack(loaded, data, members()[1:2]).bank
    places = np.arange(4)
    with torch.no_grad():
        mine = BankPath(bank).logits(Batches(data.eval, device=CPU).chunk(places))[0]
    takeaway.save_adapter(bank, loaded, tmp_path, base_model="here")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    inputs = batch_of(data.eval, places)
    inputs.pop("labels")
    real = inputs["attention_mask"].bool()
    for model in (PeftModel.from_pretrained(clone(loaded.model), tmp_path), takeaway.merged_model(bank, loaded)):
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).logits[real], mine[real], rtol=0, atol=1e-10)
    with torch.no_grad():
        assert float((loaded.model(**inputs).logits[real] - mine[real]).abs().max()) > 1e-2


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_pack_trains_as_peft_alone_on_several_turns_of_each_text(model_type: str) -> None:
    """The loss is on tokens anywhere in a text, as labels of -100 elsewhere ask for."""
    loaded, data, trials = language_model(model_type), causal_data(), members()
    rng = np.random.default_rng(5)
    mask = rng.random(len(data.train.ids)) < 0.4
    mask[data.train.offsets[:-1]], mask[data.train.offsets[1:] - 1] = False, True
    data = replace(data, train=replace(data.train, target_mask=mask))
    starts = start_values(loaded, trials)
    alone = {
        k: train_alone(loaded, data.train, t, peft_language_model(loaded, t, starts[k])) for k, t in enumerate(trials)
    }
    packed = train_pack(loaded, data, trials)
    assert_hard(packed, PACK["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)
    places = np.array([3, 1, 7])
    split = Batches(data.train, device=CPU)
    chosen = sum(int(mask[data.train.offsets[i] : data.train.offsets[i + 1]].sum()) for i in places)
    objective = NextTokens(packed.bank, data.metric, data.reading)  # type: ignore[arg-type]
    assert objective.count(split, places) == chosen
