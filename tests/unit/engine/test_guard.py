"""An architecture trains as itself or not at all: attention's arguments, the guard, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    ConvBertConfig,
    Gemma2Config,
    GPTJConfig,
    GptOssConfig,
    LlamaConfig,
    LongformerConfig,
    MambaConfig,
    Qwen3MoeConfig,
    XLNetConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss

from bench.core.errors import BadInput
from bench.core.spec import Pack
from bench.engine import attention, guard, twin
from bench.engine.dropout import MaskKeys
from bench.engine.run import EngineOptions, prepare
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, random_data, tiny_model, trial

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 40, "num_labels": 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "gemma2": lambda: Gemma2Config(**GROUPED, sliding_window=5),
    "gpt_oss": lambda: GptOssConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=5),
    "gptj": lambda: GPTJConfig(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=40, rotary_dim=4,
                               pad_token_id=1, eos_token_id=2),
    "xlnet": lambda: XLNetConfig(vocab_size=60, d_model=16, n_layer=2, n_head=2, d_inner=24),
    "longformer": lambda: LongformerConfig(**SIZES, attention_window=[4, 4]),
    "convbert": lambda: ConvBertConfig(**SIZES, embedding_size=16),
    "qwen3_moe": lambda: Qwen3MoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
                                         mlp_only_layers=[1]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(guard, "_KNOWN", {})


def built(name: str, target_modules: Any = "all-linear", path: Any = "auto") -> None:
    """Prepare a pack of two trials of a tiny random model, which is what a sweep does before it trains."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name]()).eval()
    model.config.use_cache = False
    inside = {id(p) for p in model.base_model.parameters()}
    head = tuple(n for n, p in model.named_parameters() if id(p) not in inside)
    single = trial(target_modules=target_modules, budget=budget(precision="fp32"))
    pack = Pack(trials=(single, single))
    options = EngineOptions(device=torch.device("cpu"), path=path)
    prepare(pack, random_data(), LoadedModel(model=model, head_names=head), options)


class Module(nn.Module):
    """What attention functions read of an attention module."""

    num_key_value_groups, is_causal, head_dim = 2, True, 8

    def __init__(self) -> None:
        super().__init__()
        self.sinks = torch.randn(4, dtype=torch.float64)
        self._mask_keys, self._keyed_path = MaskKeys(0), "here"
        self.eval()


@pytest.fixture
def heads() -> dict[str, Tensor]:
    torch.manual_seed(0)
    q, k, v = (3 * torch.randn(2, n, 7, 8, dtype=torch.float64) for n in (4, 2, 2))
    return {"query": q, "key": k, "value": v}


def mask(dtype: torch.dtype) -> Tensor:
    """A causal mask, with padding at the end of the second text: bool, or added to the scores."""
    seen = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 1, 7, 7).clone()
    seen[1, :, :, 5:] = False
    return seen if dtype == torch.bool else torch.zeros(2, 1, 7, 7, dtype=dtype).masked_fill(~seen, -1e9)


def test_soft_caps_are_those_of_gemma(heads: dict[str, Tensor]) -> None:
    settings = {"scaling": 0.3, "softcap": 2.0}
    wanted, _ = modeling_gemma2.eager_attention_forward(
        Module(), **heads, attention_mask=mask(torch.float64), **settings
    )
    found, _ = attention.keyed_attention(Module(), **heads, attention_mask=mask(torch.bool), **settings)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # theirs has its softmax in float32
    without, _ = attention.keyed_attention(Module(), **heads, attention_mask=mask(torch.bool), scaling=0.3)
    assert float((without - found).abs().max()) > 1e-2


def test_sinks_are_those_of_gpt_oss(heads: dict[str, Tensor]) -> None:
    module = Module()
    wanted, _ = modeling_gpt_oss.eager_attention_forward(
        module, **heads, attention_mask=mask(torch.float64), scaling=0.3
    )
    for name, sinks in (("s_aux", module.sinks), ("sinks", module.sinks.view(1, 4, 1, 1).expand(2, 4, 7, 1))):
        found, _ = attention.keyed_attention(
            module, **heads, attention_mask=mask(torch.bool), scaling=0.3, **{name: sinks}
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", [None, torch.bool, torch.float64])
def test_position_biases_and_causal_defaults_are_those_of_transformers(
    heads: dict[str, Tensor], given: torch.dtype | None
) -> None:
    bias = torch.randn(1, 4, 7, 7, dtype=torch.float64)
    seen = None if given is None else mask(given)
    for position_bias in (None, bias):
        wanted, _ = sdpa_attention_forward(Module(), **heads, attention_mask=seen, position_bias=position_bias)
        found, _ = attention.keyed_attention(Module(), **heads, attention_mask=seen, position_bias=position_bias)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_arguments_that_are_not_known_are_refused(heads: dict[str, Tensor]) -> None:
    idle: dict[str, Any] = {
        "sliding_window": 3,
        "position_ids": torch.arange(7),
        "block_indices": None,
        "indices": False,
    }
    attention.keyed_attention(Module(), **heads, attention_mask=None, **idle)
    with pytest.raises(BadInput, match="must take no argument that is not known here, but got block_indices;"):
        attention.keyed_attention(Module(), **heads, attention_mask=None, block_indices=torch.arange(7))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "gptj"])
def test_what_transformers_computes_may_train(name: str) -> None:
    built(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_policy": "paper"},
        {"method": "full", "target_modules": None},
        {"method": "bitfit", "target_modules": None},
        {"method": "head", "target_modules": None},
    ],
)
def test_whatever_is_trained_of_roberta_may_train(changes: dict[str, Any]) -> None:
    """A head that is frozen in part, every weight of several trials on the unpadded path, biases, the head alone."""
    unread = dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "eta_B"))
    settings = {**unread, **changes} if "method" in changes else {**changes, "target_modules": ("query", "value")}
    single = trial(budget=budget(precision="fp32"), **settings)
    pack, options = Pack(trials=(single, single)), EngineOptions(device=torch.device("cpu"))
    assert prepare(pack, random_data(), tiny_model(dtype=torch.float32), options).path.name == "unpadded"


@pytest.fixture
def put_back() -> Iterator[None]:
    yield
    ALL_ATTENTION_FUNCTIONS.register(attention.ATTENTION, attention.keyed_attention)


@pytest.mark.parametrize(("name", "dropped"), [("gemma2", "softcap"), ("gpt_oss", "s_aux")])
def test_an_argument_that_is_dropped_is_found(name: str, dropped: str, put_back: None) -> None:
    """The caps and sinks that a random model of usual size would not feel are felt by the guard."""

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        return attention.keyed_attention(*args, **{k: v for k, v in kwargs.items() if k != dropped})

    ALL_ATTENTION_FUNCTIONS.register(attention.ATTENTION, forgetful)
    with pytest.raises(BadInput, match="must compute what transformers computes, but got logits that differ by"):
        built(name, path="bank")


def test_a_mask_that_the_model_does_not_read_so_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "asks_interface", lambda model: True)
    with pytest.raises(BadInput, match="gptj: a pack must compute what transformers computes, but got logits"):
        built("gptj")


@pytest.mark.parametrize(
    ("name", "target_modules"),
    [("xlnet", "all-linear"), ("longformer", ("query", "value")), ("convbert", "all-linear")],
)
def test_trials_that_would_see_each_other_or_their_pack_are_refused(name: str, target_modules: Any) -> None:
    """Time before the batch, global attention, and convolutions over padding."""
    with pytest.raises(BadInput, match=f"{name}: a pack must compute what transformers computes") as caught:
        built(name, target_modules)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target_modules", ["all-linear", ("q_proj", "gate_proj"), r".*layers\.0.*q_proj"])
def test_targets_that_peft_takes_for_experts_are_refused(target_modules: Any) -> None:
    with pytest.raises(BadInput, match=r"target_modules: .*PEFT"):
        built("qwen3_moe", target_modules)
    built("qwen3_moe", ("q_proj", "v_proj"))


def test_an_out_proj_of_mamba_is_refused_as_by_peft() -> None:
    config = MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, state_size=4).to_dict()
    with pytest.raises(BadInput, match="target_modules: PEFT adapts no out_proj of mamba"):
        guard.require_config(config, trial(target_modules="all-linear"), "causal")
    guard.require_config(config, trial(target_modules=("in_proj",)), "causal")


def test_what_was_found_is_kept_for_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    build = twin.build

    def counting(*args: Any) -> Any:
        looked.append("")
        return build(*args)

    monkeypatch.setattr(twin, "build", counting)
    built("llama")
    first = len(looked)
    built("llama")
    assert len(looked) == first > 0, "once in a process"
    guard._KNOWN.clear()
    built("llama")
    assert len(looked) == first, "and once for all processes"
    monkeypatch.setitem(CONFIGS, "llama", lambda: LlamaConfig(**{**GROUPED, "rope_theta": 7.0, "attention_bias": True}))
    built("llama")
    assert len(looked) > first, "another config is looked at"


def test_a_config_says_what_its_model_will(tmp_path: Path) -> None:
    single = trial(target_modules="all-linear")
    guard.require_config(CONFIGS["llama"]().to_dict(), single, "causal")
    with pytest.raises(BadInput, match="xlnet: a pack must compute what transformers computes"):
        guard.require_config(CONFIGS["xlnet"]().to_dict(), single, "classification")
    with pytest.raises(BadInput, match="transformers must know the architecture"):
        guard.require_config({"model_type": "no-such"}, single, "causal")


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "gptj"])
def test_what_is_kept_while_generating_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    single = trial(target_modules="all-linear")
    guard.require_config(CONFIGS[name]().to_dict(), single, "causal", writes=True)
    monkeypatch.setattr(guard, "DynamicCache", lambda config: None)  # a model that keeps nothing
    guard._KNOWN.clear()
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "another"))
    with pytest.raises(BadInput, match="keys and values kept that generating takes"):
        guard.require_config(CONFIGS[name]().to_dict(), single, "causal", writes=True)


def test_large_models_have_small_twins() -> None:
    large = LlamaConfig(num_hidden_layers=80, hidden_size=8192, num_attention_heads=64, intermediate_size=28672)
    (small, *_) = twin.configs(large)
    assert (small.num_hidden_layers, small.hidden_size, small.intermediate_size) == (2, 512, 1792)
    large_windows = Gemma2Config(num_hidden_layers=42)
    (small, *_) = twin.configs(large_windows)
    assert (small.layer_types, small.sliding_window) == (["sliding_attention", "full_attention"], twin.WINDOW)
    assert small.attn_logit_softcapping == large_windows.attn_logit_softcapping
