"""What is recommended wins by the rule, repeats as a study, pastes into PEFT, and leaves with equal logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForSequenceClassification, GPT2Config

from bench import cli, methods, models, study, tasks
from bench.core.cells import Score
from bench.core.clock import Clock
from bench.core.record import to_table
from bench.core.spec import Meaning, Pack, Trial
from bench.data.splits import EncodedData
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.run import EngineOptions, choose_path, run_pack
from bench.export import as_code, recommend, takeaway
from bench.methods._base import Role, rate_of
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, clone, load_random, random_data, tiny_model, trial
from tests.support.oracle import padded
from tests.support.plot_rows import lora_grid, record
from tests.support.plot_rows import trial as planned

CPU = torch.device("cpu")


# --- which one ----------------------------------------------------------------------------------------------------


def score(t: Trial, select: float | None, metric: float | None, status: str = "ok") -> Score:
    return Score(trial_id=t.trial_id, status=status, metric_value=metric, metric_stderr=0.01, select_metric=select,
                 train_seconds=1.0, source_hash="s")  # fmt: skip


def chosen(
    scores: Sequence[Score], trials: Sequence[Trial], *, higher_is_better: bool = True
) -> recommend.Winner | None:
    return recommend.choose(trials, {s.trial_id: s for s in scores}, higher_is_better=higher_is_better)


def test_the_winner_is_chosen_on_select_and_reported_on_metric() -> None:
    lora, plus = lora_grid((1e-3,), (1,), (0, 1)), lora_grid((1e-3,), (4,), (0, 1))
    scores = [score(t, 0.9, 0.7) for t in lora] + [score(t, 0.8, 0.95) for t in plus]
    winner = chosen(scores, (*lora, *plus))
    assert winner is not None
    assert (winner.cell.method, winner.cell.mean, winner.cell.n, winner.n_cells) == ("lora", 0.7, 2, 2)
    assert winner.objective == pytest.approx(0.9)
    lower = chosen(scores, (*lora, *plus), higher_is_better=False)
    assert lower is not None
    assert lower.cell.method == "lora+"


def test_a_diverged_seed_counts_as_the_worst_and_nothing_finished_gives_none() -> None:
    lora, plus = lora_grid((1e-3,), (1,), (0, 1)), lora_grid((1e-3,), (4,), (0, 1))
    scores = [score(lora[0], 0.9, 0.9), score(lora[1], None, None, "diverged"), *(score(t, 0.6, 0.6) for t in plus)]
    winner = chosen(scores, (*lora, *plus))
    assert winner is not None
    assert winner.cell.method == "lora+"
    assert chosen([], (*lora, *plus)) is None
    assert chosen([score(lora[0], None, None, "diverged")], lora) is None


@pytest.mark.parametrize("policy", ["eta_A", "peft", 0.003])
def test_a_trial_comes_back_from_its_row(policy: str | float) -> None:
    for t in (*lora_grid((1e-3,), (4,), (3,)), planned("full", 1e-4), planned("mora", 1e-3, mora_type=6)):
        one = replace(t, head_policy=policy)
        (row,) = to_table([record(one, np.random.default_rng(0))]).to_pylist()
        assert recommend.trial_of_row(row, one) == one
        assert recommend.trial_of_row(row, replace(one, budget=replace(one.budget, n_select=7))) is None
        assert recommend.trial_of_row(row, replace(one, meaning=Meaning(metric_name="f1"))) is None


# --- as a study ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "lora+", "mora", "full"])
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_study_expands_to_the_one_cell(tmp_path: Path, method: str, profile: str) -> None:
    loaded = study.load(
        "demo", overrides={"methods": method, "head_policy": "3e-3", "max_grad_norm": "0"}, profile=profile
    )
    hashes: dict[str, Any] = {"data_hash": "d", "model_hash": "m", "default_targets": ("query", "value")}
    for one in study.expand(loaded, **hashes)[:: 7 if method == "lora+" else 3]:
        path = tmp_path / f"{one.trial_id}.toml"
        text = recommend.study_toml(one, (0, 5), task="demo", model="tiny-roberta", comment="two\nlines")
        path.write_text(text, encoding="utf-8")
        back = study.expand(study.load(path), **hashes)
        assert back == (replace(one, seed=0), replace(one, seed=5))


def test_lists_and_regular_expressions_survive(tmp_path: Path) -> None:
    for changes in (
        {"target_modules": r".*\.(query|key)", "layers_to_transform": None},
        {"target_modules": ("query", "value", "dense"), "layers_to_transform": (0, 2)},
        {"target_modules": "all-linear", "layers_to_transform": None},
    ):
        one = replace(lora_grid((1e-3,), (4,), (0,))[0], task="demo", model="tiny-roberta", **changes)  # type: ignore[arg-type]
        path = tmp_path / "one.toml"
        path.write_text(
            recommend.study_toml(one, (0,), task="demo", model="tiny-roberta", comment="c"), encoding="utf-8"
        )
        assert study.expand(study.load(path), data_hash="d0", model_hash="m0", default_targets=()) == (one,)


# --- as PEFT code -------------------------------------------------------------------------------------------------


def pasted(one: Trial, loaded: LoadedModel) -> dict[str, Any]:
    """Return the names that the printed code defines, run on a copy of the model."""
    names: dict[str, Any] = {"model": clone(loaded.model)}
    exec(as_code.peft_code(one, modules_to_save=takeaway.modules_to_save(loaded)), names)
    return names


def role_of(name: str, parameter: torch.Tensor) -> Role:
    if "lora_embedding_" in name:
        return Role.EMBEDDING_A if "_A" in name else Role.EMBEDDING_B
    if "lora_" in name:
        return Role.A if "lora_A" in name else Role.B
    return Role.HEAD_WEIGHT if parameter.ndim > 1 else Role.HEAD_BIAS


@pytest.mark.parametrize("ratio", [1, 16])
def test_code_of_a_language_model_says_nothing_of_a_head(ratio: int) -> None:
    one = trial(method="lora+" if ratio > 1 else "lora", eta_A=1e-3, eta_B=1e-3 * ratio, head_policy="eta_A")
    assert "head" not in as_code.peft_code(one, modules_to_save=())
    assert "head" in as_code.peft_code(replace(one, eta_B=2.0), modules_to_save=("classifier",))


@pytest.mark.parametrize("policy", ["eta_A", "peft", 0.007])
@pytest.mark.parametrize("ratio", [1, 16])
def test_pasted_code_trains_every_parameter_at_the_cells_rate(policy: str | float, ratio: int) -> None:
    loaded = tiny_model("roberta", dtype=torch.float32)
    method = "lora+" if ratio > 1 else "lora"
    one = trial(method=method, eta_A=6.4e-4, eta_B=6.4e-4 * ratio, head_policy=policy, use_rslora=True,
                target_modules=("query", "word_embeddings"), loraplus_lr_embedding=2e-5 if ratio > 1 else None,
                budget=budget(weight_decay=0.1))  # fmt: skip
    names = pasted(one, loaded)
    assert ("create_loraplus_optimizer" in names) is (method == "lora+")
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in names["optimizer"].param_groups for p in g["params"]}
    trained = {n: p for n, p in names["model"].named_parameters() if p.requires_grad}
    assert len(rates) == len(trained) == sum(len(g["params"]) for g in names["optimizer"].param_groups)
    for name, parameter in trained.items():
        rate, decay = rates[id(parameter)]
        assert rate == rate_of(role_of(name, parameter), one), name
        assert decay == (0.1 if parameter.ndim > 1 else 0.0), name
    assert names["scheduler"].get_last_lr()
    adapter = names["model"].base_model.model.roberta.encoder.layer[0].attention.self.query
    assert adapter.scaling["default"] == pytest.approx(8.0 / 4**0.5)


@pytest.mark.parametrize(
    ("kind", "targets", "layers"),
    [
        ("roberta", "all-linear", None), ("bert", "all-linear", (1,)), ("bert", ("query", "dense"), (0,)),
        ("gpt2", "all-linear", None), ("modernbert", "all-linear", None), ("deberta-v2", "all-linear", (0,)),
        ("roberta", r".*\.(query|word_embeddings)", None),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_pasted_code_trains_as_many_numbers_as_the_cell(kind: str, targets: Any, layers: Any) -> None:
    if kind in ("roberta", "bert"):
        loaded = tiny_model(kind, dtype=torch.float32)
    elif kind == "gpt2":
        loaded = gpt2()
    else:
        sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 2,
                 "intermediate_size": 24, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
                 "sep_token_id": 3, "relative_attention": True, "pos_att_type": ["c2p"]}  # fmt: skip
        loaded = load_random(AutoConfig.for_model(kind, **sizes), torch.float32)
    one = trial(target_modules=targets, layers_to_transform=layers, rank=3)
    bank = Bank(loaded, [one], methods.get("lora"), device=CPU, dtype=torch.float32)
    names: dict[str, Any] = {"model": clone(loaded.model)}
    paths = [shape.path for shape in bank.shapes]
    exec(as_code.peft_code(one, modules_to_save=takeaway.modules_to_save(loaded), paths=paths), names)
    assert names["model"].get_nb_trainable_parameters()[0] == bank.n_trainable(one)
    adapted = {n.removeprefix("base_model.model.") for n, m in names["model"].named_modules() if hasattr(m, "lora_A")}
    assert adapted == set(paths)


def test_fresh_seeds_are_what_is_quoted() -> None:
    tuned, other = lora_grid((1e-3,), (4,), (0,))[0], lora_grid((2e-3,), (4,), (5, 6, 7))
    fresh = [replace(tuned, seed=seed) for seed in (5, 6, 7, 8)]
    winner = chosen([score(tuned, 0.9, 0.7)], (tuned,))
    assert winner is not None
    rng = np.random.default_rng(0)
    rows = to_table([record(t, rng) for t in (*fresh, *other)]).to_pylist()
    again = recommend.with_fresh(winner, rows, higher_is_better=True)
    assert again.fresh is not None
    mine = [row["metric_value"] for row in rows[:4] if row["metric_value"] is not None]
    assert (again.fresh.n, again.fresh.mean) == (4, pytest.approx(np.mean(mine)))
    assert again.cell == winner.cell
    assert recommend.with_fresh(winner, rows[4:], higher_is_better=True) == winner
    assert recommend.with_fresh(winner, [], higher_is_better=True) == winner


def test_pasted_code_begins_as_the_cell_does() -> None:
    loaded = tiny_model("roberta", dtype=torch.float32)
    names = pasted(trial(init="zero_A", target_modules=("query", "word_embeddings"), head_policy="paper"), loaded)
    own = dict(names["model"].named_parameters())
    for name, parameter in own.items():
        if "lora_" in name:
            drawn = ("lora_B" in name and "embedding" not in name) or "lora_embedding_A" in name
            assert bool(parameter.any()) is drawn, name
    frozen = [n for n, p in own.items() if "modules_to_save.default.dense" in n and not p.requires_grad]
    assert len(frozen) == 2
    assert names["config"].r == 4


# --- saved --------------------------------------------------------------------------------------------------------


def gpt2() -> LoadedModel:
    config = GPT2Config(vocab_size=60, n_positions=40, n_embd=16, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, pad_token_id=1, num_labels=2)  # fmt: skip
    return load_random(config, torch.float32)


def trained(one: Trial, loaded: LoadedModel, data: EncodedData) -> Bank:
    banks: list[Bank] = []
    options = EngineOptions(device=CPU)
    (outcome,) = run_pack(Pack(trials=(one,)), data, loaded, options, clock=Clock(), on_trained=banks.append)
    assert outcome.metric_value is not None
    return banks[0]


def logits_of_bank(bank: Bank, data: EncodedData) -> torch.Tensor:
    with torch.no_grad():
        return choose_path(bank, "bank").logits(Batches(data.eval, device=CPU).chunk(np.arange(20)))[0]


def logits_of(model: Any, data: EncodedData) -> torch.Tensor:
    batch = padded(data.eval, np.arange(20))
    batch.pop("labels")
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch).logits
    return found


def assert_same_logits(bank: Bank, model: Any, base: LoadedModel, data: EncodedData) -> None:
    mine = logits_of_bank(bank, data)
    torch.testing.assert_close(logits_of(model, data), mine, rtol=0, atol=1e-5)
    assert (logits_of(clone(base.model), data) - mine).abs().max() > 1e-2, "training moved nothing"


FEW: dict[str, Any] = {"max_steps": 12, "eval_steps": 12, "precision": "fp32"}
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("roberta", {"eta_A": 1e-2, "rank": 3}),
    "lora+": ("bert", {"method": "lora+", "eta_A": 3e-3, "eta_B": 3e-2, "use_rslora": True}),
    "embedding": ("roberta", {"eta_A": 1e-2, "target_modules": ("word_embeddings", "query", "dense")}),
    "layers": ("roberta", {"eta_A": 1e-2, "target_modules": "all-linear", "layers_to_transform": (1,)}),
    "conv1d": ("gpt2", {"eta_A": 1e-2, "target_modules": ("c_attn", "c_proj"), "init": "zero_A"}),
    "olora": ("roberta", {"eta_A": 1e-2, "init": "olora", "use_rslora": True}),
    "dora": ("gpt2", {"method": "dora", "eta_A": 1e-2, "init": "pissa", "target_modules": ("c_attn", "c_proj")}),
    "vera": ("roberta", {"method": "vera", "eta_A": 0.1, "rank": 20, "target_modules": ("query", "dense")}),
    "hira": ("roberta", {"method": "hira", "eta_A": 3e-2}),
    "lora-fa": ("roberta", {"method": "lora-fa", "eta_A": 1e-2}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_saved_adapter_gives_peft_the_same_logits(tmp_path: Path, name: str) -> None:
    kind, changes = ADAPTERS[name]
    loaded = gpt2() if kind == "gpt2" else tiny_model(kind, dtype=torch.float32)
    data = random_data(types=kind == "bert")
    bank = trained(of_method({"method": "lora", **changes}), loaded, data)
    takeaway.save_adapter(bank, loaded, tmp_path, base_model="some/base")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    model = PeftModel.from_pretrained(clone(loaded.model), tmp_path)
    assert_same_logits(bank, model, loaded, data)
    own = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    config = model.peft_config["default"]
    assert all(getattr(config, key) == own[key] for key in ("r", "lora_alpha", "use_rslora") if key in own)
    adapted = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    assert len(adapted) == len(bank.shapes)


MERGED: dict[str, tuple[str, dict[str, Any]]] = {
    "mora-1": ("roberta", {"method": "mora", "mora_type": 1, "target_modules": ("query", "dense")}),
    "mora-6": ("roberta", {"method": "mora", "mora_type": 6}),
    "mora-conv1d": ("gpt2", {"method": "mora", "mora_type": 6, "target_modules": ("c_attn", "c_fc")}),
    "full": ("bert", {"method": "full"}),
    "bitfit": ("roberta", {"method": "bitfit"}),
    "head": ("roberta", {"method": "head"}),
    "subspace": ("roberta", {"method": "subspace", "rank": 20, "target_modules": "all-linear"}),
    "subspace-conv1d": ("gpt2", {"method": "subspace", "rank": 20, "target_modules": ("c_attn", "c_fc")}),
    "lora": ("roberta", {"method": "lora", "target_modules": ("word_embeddings", "value")}),
    "pissa": ("roberta", {"method": "lora", "init": "pissa", "target_modules": ("query", "dense")}),
    "dora": ("roberta", {"method": "dora", "target_modules": ("query", "dense")}),
    "dora-conv1d": ("gpt2", {"method": "dora", "init": "pissa", "target_modules": ("c_attn", "c_fc")}),
    "hira-conv1d": ("gpt2", {"method": "hira", "target_modules": ("c_attn", "c_fc")}),
    "vera": ("roberta", {"method": "vera", "rank": 20, "eta_A": 0.1, "target_modules": "all-linear"}),
}


def of_method(changes: dict[str, Any]) -> Trial:
    """Return a trial whose fields are those that its method reads."""
    reads = methods.get(changes["method"]).reads
    one = trial(**{"budget": budget(**FEW), "eta_A": 1e-2, "mora_rounding": "floor", **changes})
    names = ("eta_B", "rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "mora_type")
    return replace(one, **{name: None for name in (*names, "mora_rounding") if name not in reads})


@pytest.mark.parametrize("name", [name for name in MERGED if MERGED[name][1]["method"] in methods.names()])
def test_a_merged_model_gives_transformers_the_same_logits(tmp_path: Path, name: str) -> None:
    kind, changes = MERGED[name]
    loaded = gpt2() if kind == "gpt2" else tiny_model(kind, dtype=torch.float32)
    data = random_data(types=kind == "bert")
    before = {n: p.clone() for n, p in loaded.model.named_parameters()}
    bank = trained(of_method(changes), loaded, data)
    target = tmp_path / "merged"
    takeaway.save_merged(bank, loaded, target)
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}
    model = AutoModelForSequenceClassification.from_pretrained(target)
    assert_same_logits(bank, model, loaded, data)
    assert all(torch.equal(p, before[n]) for n, p in loaded.model.named_parameters()), "the base was changed"


def test_a_new_pooler_leaves_with_the_head(tmp_path: Path) -> None:
    plain = tiny_model("bert", dtype=torch.float32)
    pooler = tuple(n for n, _ in plain.model.named_parameters() if ".pooler." in n)
    loaded = LoadedModel(model=plain.model, head_names=(*pooler, *plain.head_names))
    assert takeaway.modules_to_save(loaded) == ("pooler", "classifier")
    data = random_data(types=True)
    bank = trained(trial(eta_A=1e-2, budget=budget(**FEW)), loaded, data)
    takeaway.save_adapter(bank, loaded, tmp_path, base_model="some/base")
    assert_same_logits(bank, PeftModel.from_pretrained(clone(plain.model), tmp_path), loaded, data)


def test_a_pack_of_several_does_not_leave(tmp_path: Path) -> None:
    loaded = tiny_model("roberta")
    bank = Bank(loaded, [trial(), trial(eta_A=1e-4)], methods.get("lora"), device=CPU, dtype=torch.float64)
    with pytest.raises(ValueError, match="a bank of one trial"):
        takeaway.save_adapter(bank, loaded, tmp_path, base_model="m")


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora+", "mora"])
def test_from_a_sweep_to_a_model_that_scores_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    options = ["--methods", method, "--eta-A", "1e-3,1e-2", "--seeds", "1,0", "--steps", "12", "--eval-steps", "12",
               "--n-select", "100", "--results-dir", str(tmp_path / "results"), "--device", "cpu"]  # fmt: skip
    options += ["--lambda", "4"] if method == "lora+" else ["--mora-types", "6"]
    assert cli.main(["recommend", *options]) == 2
    assert "there must be a trial with a score" in capsys.readouterr().err
    assert cli.main(["sweep", *options]) == 0
    capsys.readouterr()
    target = tmp_path / "taken" / "away"
    assert cli.main(["recommend", *options, "--save", str(target)]) == 0
    out = capsys.readouterr().out
    assert "chosen on held-out training examples" in out
    assert ("LoraConfig(" in out) is (method == "lora+")
    facts = json.loads((target / "lorasweep.json").read_text(encoding="utf-8"))
    assert facts["trial"]["seed"] == 0
    assert f"accuracy {facts['metric_value']:.4f}" in out
    assert measured(target, method) == pytest.approx(facts["metric_value"], abs=1e-9)
    assert study.load(target / "study.toml").grids[0].method == method
    assert not list(target.parent.glob(".writing-*"))
    assert cli.main(["recommend", *options, "--save", str(target)]) == 2
    assert "--save: must be a new or empty directory" in capsys.readouterr().err


def measured(directory: Path, method: str) -> float:
    """Return the accuracy of a saved model on the demo's evaluation split, by plain transformers."""
    located = models.locate("tiny-roberta")
    tokenizer = models.load_tokenizer(located)
    split = tasks.load(tasks.get("demo"), None).eval
    if method == "mora":
        model: Any = AutoModelForSequenceClassification.from_pretrained(directory)
    else:
        model = PeftModel.from_pretrained(models.load_model(located, 2).model, directory)
    batch = tokenizer(list(split.texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        predicted = torch.cat([
            model.eval()(input_ids=ids, attention_mask=mask).logits.argmax(-1)
            for ids, mask in zip(batch["input_ids"].split(250), batch["attention_mask"].split(250), strict=True)
        ])  # fmt: skip
    return float((predicted.numpy() == np.asarray(split.labels)).mean())
