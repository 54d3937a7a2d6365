"""A frozen base in 4 bits: bitsandbytes' weights, PEFT's training on them, and what it costs a pack."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from bench import cli, models
from bench.core.clock import Clock
from bench.core.errors import BadInput
from bench.core.spec import Pack, Trial
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.paths import settle_masks
from bench.engine.run import EngineOptions, choose_path, objective_of, run_pack
from bench.executors import runtime
from bench.models import _nf4
from bench.models._base import Located
from bench.models._nf4 import NF4Linear
from bench.models._targets import ALL_LINEAR
from tests.support.causal_helpers import causal_data, language_model, train_alone, train_pack
from tests.support.decoders import MEMBERS, PACK, SIZES
from tests.support.engine_helpers import budget, trial
from tests.support.oracle import CPU, assert_hard, make_bank, start_values

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra nf4 is not installed")


def members(n_steps: int = 10, **changes: Any) -> list[Trial]:
    plan = budget(**{**PACK, "max_steps": n_steps, "eval_steps": n_steps}, base_precision="nf4", **changes)
    return [trial(budget=plan, target_modules=ALL_LINEAR, **m) for m in MEMBERS]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama in float32 whose weights are no multiple of a block."""
    torch.manual_seed(0)
    sizes = {**SIZES, "hidden_size": 48, "num_key_value_heads": 2, "intermediate_size": 80}
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(path)
    return path


def located(directory: Path) -> Located:
    config = LlamaConfig.from_pretrained(directory).to_dict()
    return Located(name="llama", directory=directory, model_hash="0", tokenizer_hash="0", config=config)


def theirs(directory: Path, dtype: torch.dtype) -> Any:
    """The same model as transformers loads it in 4 bits, by bitsandbytes' layers."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=settings, dtype=dtype, device_map="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_and_weights_are_those_of_transformers_with_bitsandbytes(directory: Path, dtype: torch.dtype) -> None:
    from bitsandbytes.functional import dequantize_4bit

    mine, other = models.load_causal_lm(located(directory), dtype, "nf4").model, theirs(directory, dtype)
    layers = {path for path, m in other.named_modules() if type(m).__name__ == "Linear4bit"}
    assert {path for path, m in mine.named_modules() if isinstance(m, NF4Linear)} == layers
    assert len(layers) == 14
    for path in layers:
        wanted = dequantize_4bit(other.get_submodule(path).weight.data, other.get_submodule(path).weight.quant_state)
        got = mine.get_submodule(path).weight
        assert got.dtype == dtype
        assert torch.equal(got, wanted.to(dtype)), path
    plain = AutoModelForCausalLM.from_pretrained(directory)
    assert _nf4.n_parameters(mine) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("path", ["bank", "packed"])
def test_a_pack_trains_as_peft_on_bitsandbytes_for_50_steps(directory: Path, path: str) -> None:
    trials, data = members(50, precision="fp32"), causal_data()
    loaded = models.load_causal_lm(located(directory), torch.float32, "nf4")
    starts = start_values(loaded, trials)
    alone = {}
    for k, member in enumerate(trials):
        config = LoraConfig(
            r=member.rank, lora_alpha=member.lora_alpha, use_rslora=bool(member.use_rslora), task_type="CAUSAL_LM",
            target_modules=str(member.target_modules),
        )  # fmt: skip
        model = get_peft_model(theirs(directory, torch.float32), config)
        own = dict(model.named_parameters())
        for layer, weights in starts[k].adapters.items():
            for leaf, value in weights.items():
                own[f"base_model.model.{layer}.lora_{leaf}.default.weight"].data.copy_(value)
        model.train()
        alone[k] = train_alone(loaded, data.train, member, model)
    packed = train_pack(loaded, data, trials, path=path)
    assert_hard(packed, PACK["max_grad_norm"])
    for k, run in alone.items():
        np.testing.assert_allclose(packed.losses_SxK[:, k], run.losses_S, rtol=0, atol=1e-3, err_msg=f"trial {k}")


@pytest.mark.parametrize("path", ["bank", "packed"])
def test_it_is_the_run_on_the_dequantised_weights_in_float64(path: str) -> None:
    quantised, data = language_model("llama"), causal_data()
    _nf4.quantise(quantised.model)
    plain = language_model("llama")
    with torch.no_grad():
        for layer, module in quantised.model.named_modules():
            if isinstance(module, NF4Linear):
                plain.model.get_submodule(layer).weight.copy_(module.weight)
    trials = members()
    packed, wanted = (train_pack(one, data, trials, path=path) for one in (quantised, plain))
    assert_hard(packed, PACK["max_grad_norm"])
    np.testing.assert_allclose(packed.losses_SxK, wanted.losses_SxK, rtol=0, atol=1e-8)
    np.testing.assert_allclose(packed.norms_SxK, wanted.norms_SxK, rtol=1e-8)
    for name in packed.bank.params.names():
        torch.testing.assert_close(packed.bank.params[name], wanted.bank.params[name], rtol=0, atol=1e-8)
    again = train_pack(language_model("llama"), data, trials)
    assert np.abs(again.losses_SxK - packed.losses_SxK).max() > 1e-3, "4 bits are not the checkpoint's weights"


@pytest.mark.parametrize("path", ["bank", "packed"])
@pytest.mark.parametrize("n_trials", [1, 3])
def test_a_weight_is_dequantised_once_each_way_for_a_chunk_whatever_the_trials(
    n_trials: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, data = language_model("llama"), causal_data()
    _nf4.quantise(loaded.model)
    made: list[int] = []
    real = _nf4.dequantise

    def counted(layer: NF4Linear) -> torch.Tensor:
        made.append(id(layer))
        return real(layer)

    trials = members(2)[:n_trials]
    bank = make_bank(loaded, trials)
    monkeypatch.setattr(_nf4, "dequantise", counted)
    split, way = Batches(data.train, device=CPU), choose_path(bank, path)  # type: ignore[arg-type]
    settle_masks(bank, way, split.chunk(np.arange(2)))
    made.clear()
    chunks = split.chunks(np.arange(12), 3)
    for chunk in chunks:
        objective_of(data, bank).summed_loss(way, chunk).sum().backward()
    n_layers = sum(isinstance(m, NF4Linear) for m in bank.model.modules())
    # the first layer's inputs are embeddings, which nothing is trained in front of: its q, k, v need no way back
    assert len(made) == len(chunks) * (2 * n_layers - 3)


def test_a_pack_shares_the_4_bits_and_its_rows_say_it() -> None:
    loaded, data = language_model("llama"), causal_data("perplexity")
    _nf4.quantise(loaded.model)
    trials = members(4)
    bank = make_bank(loaded, trials)
    pairs = [(loaded.model.get_submodule(s.path), bank.model.get_submodule(s.path).layer) for s in bank.shapes]
    assert all(a.packed.data_ptr() == b.packed.data_ptr() for a, b in pairs)
    assert not any(isinstance(m, nn.Linear) and not isinstance(m, NF4Linear) for m in loaded.model.model.modules())
    done = run_pack(Pack(trials=tuple(trials)), data, loaded, EngineOptions(device=CPU), clock=Clock())
    plain = Bank(language_model("llama"), trials, bank.method, device=CPU, dtype=torch.float64)
    assert [o.n_total for o in done] == [plain.n_total(t) for t in trials]
    assert trials[0].budget.base_precision == "nf4"
    same = trial(budget=budget(), target_modules=ALL_LINEAR, **MEMBERS[0])
    assert (
        same.trial_id == trial(budget=budget(base_precision="same"), target_modules=ALL_LINEAR, **MEMBERS[0]).trial_id
    )


def test_what_cannot_be_in_4_bits_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {"method": "full", "eta_B": None, "rank": None, "lora_alpha": None, "use_rslora": None,
                           "lora_dropout": None, "init": None, "target_modules": None}  # fmt: skip
    full = trial(budget=budget(base_precision="nf4"), **own)
    with pytest.raises(
        BadInput, match="base_precision: a base in 4 bits cannot be trained itself, but got method full"
    ):
        runtime.check_base((*members(), full), is_causal=True, device="cpu")
    with pytest.raises(BadInput, match="nf4 is for language models"):
        runtime.check_base(members(), is_causal=False, device="cpu")
    runtime.check_base(members(), is_causal=True, device="cpu")
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"no package bitsandbytes; pip install 'lorasweep\[nf4\]'"):
        runtime.check_base(members(), is_causal=True, device="cpu")


def test_the_plan_says_it_and_refuses_full_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    options = ["--task", "uuid", "--eta-A", "1e-3", "--base-precision", "nf4"]
    assert cli.main(["plan", *options, "--methods", "lora"]) == 0
    assert "fp32, base nf4" in capsys.readouterr().out
    assert cli.main(["plan", *options, "--methods", "full"]) == cli.BAD_INPUT
    assert "a base in 4 bits cannot be trained itself, but got method full" in capsys.readouterr().err
