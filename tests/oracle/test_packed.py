"""Packs of decoders on the packed path: every family against PEFT, one trial at a time, and against the bank path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.spec import Trial
from bench.engine import cross_entropy, packed
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.checkpointing import checkpoint_layers
from bench.engine.chunking import filling
from bench.engine.joined import _Products
from bench.engine.paths import settle_masks
from bench.engine.run import choose_path
from bench.models._base import LoadedModel
from bench.models._targets import ALL_LINEAR
from bench.timing.peers.made_up import data_of
from tests.support.causal_helpers import causal_data, language_model, peft_language_model, train_alone, train_pack
from tests.support.decoders import FAMILIES, MEMBERS
from tests.support.doubles import Doubles
from tests.support.engine_helpers import budget, clone, trial
from tests.support.mora_oracle import mora_model
from tests.support.oracle import CPU, assert_hard, assert_same_course, make_bank, start_values

HARD: dict[str, Any] = {  # 8 does not divide the 20 examples
    "max_steps": 6, "batch_size": 8, "max_grad_norm": 0.3, "warmup_steps": 2, "weight_decay": 0.1, "eval_steps": 6,
}  # fmt: skip
FOUR = [*MEMBERS, {"rank": 1, "eta_A": 8e-3, "eta_B": 2e-3, "method": "lora+"}]
UNREAD = {"eta_B": None, "lora_alpha": None, "use_rslora": None, "init": None}
USUAL = ("llama", "gemma2", "gpt2", "phi3")  # of the families, those whose MoRA and float32 are tested each time
usual_families = pytest.mark.parametrize(
    "model_type", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
NO_ADAPTER = {**UNREAD, "method": "full", "rank": None, "lora_dropout": None, "target_modules": None}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_pack_trains_as_peft_alone(model_type: str) -> None:
    loaded, data = language_model(model_type), causal_data(n_train=20)
    trials = [trial(budget=budget(**HARD), target_modules=ALL_LINEAR, **member) for member in FOUR]
    starts = start_values(loaded, trials)
    with Doubles():
        alone = {
            k: train_alone(loaded, data.train, t, peft_language_model(loaded, t, starts[k]))
            for k, t in enumerate(trials)
        }
        packed = train_pack(loaded, data, trials, path="packed")
    assert_hard(packed, HARD["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)


@pytest.mark.parametrize("mora_type", [1, 6])
@usual_families
def test_a_mora_pack_trains_as_mora_alone(model_type: str, mora_type: int) -> None:
    loaded, data = language_model(model_type), causal_data(n_train=20)
    settings = {**UNREAD, "method": "mora", "rank": 3, "mora_type": mora_type, "mora_rounding": "floor"}
    etas = (1e-3, 3e-2, 5e-3, 1e-2)
    trials = [trial(budget=budget(**HARD), target_modules=ALL_LINEAR, **{**settings, "eta_A": eta}) for eta in etas]
    starts = start_values(loaded, trials)
    with Doubles():
        alone = {k: train_alone(loaded, data.train, t, mora_model(loaded, t, starts[k])) for k, t in enumerate(trials)}
        packed = train_pack(loaded, data, trials, path="packed")
    assert_hard(packed, HARD["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_full_fine_tuning_is_plain_transformers(model_type: str) -> None:
    """Gemma, GPT-2, OPT and Cohere tie the output layer to the embedding."""
    loaded, data = language_model(model_type), causal_data(n_train=20)
    one = trial(budget=budget(**HARD), **{**NO_ADAPTER, "eta_A": 3e-3})
    with Doubles():
        packed = train_pack(loaded, data, [one], path="packed")
        alone = train_alone(loaded, data.train, one, clone(loaded.model))
    assert_same_course(packed, {0: alone}, atol=1e-10)


@usual_families
def test_in_float32_a_pack_trains_as_peft_alone(model_type: str) -> None:
    loaded, data = language_model(model_type), causal_data(n_train=20)
    loaded = LoadedModel(model=loaded.model.float(), head_names=())
    trials = [trial(budget=budget(**HARD, precision="fp32"), target_modules=ALL_LINEAR, **m) for m in FOUR]
    starts = start_values(loaded, trials)
    alone = {
        k: train_alone(loaded, data.train, t, peft_language_model(loaded, t, starts[k])) for k, t in enumerate(trials)
    }
    packed = train_pack(loaded, data, trials, path="packed")
    for k, run in alone.items():
        np.testing.assert_allclose(packed.losses_SxK[:, k], run.losses_S, rtol=0, atol=1e-5)


@contextmanager
def kept_numbers() -> Iterator[list[int]]:
    """Collect how many numbers each tensor has that autograd keeps for backward while inside."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def losses_and_gradients(
    loaded: LoadedModel, trials: list[Trial], path: str, *, parts: int = 1, checkpointed: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """What one batch gives with every dropout on, in chunks, at weights that make every adapter count."""
    bank, split = make_bank(loaded, trials), Batches(causal_data(n_train=20).train, device=CPU)
    generator = torch.Generator().manual_seed(0)
    for name in bank.params.names():
        values = bank.params.trained(name)
        values.data.add_(0.1 * torch.randn(values.shape, generator=generator, dtype=values.dtype))
    way = choose_path(bank, path)
    if checkpointed:
        checkpoint_layers(bank)
    settle_masks(bank, way, split.chunk(np.arange(2)))
    assert not bank.only_keyed_masks
    found = []
    bank.params.zero_grad()
    with bank.training():
        for chunk in split.chunks(np.arange(8), parts):
            at = chunk.target_places()
            losses = way.losses(chunk, at - 1, chunk.ids_N[at])
            losses.sum().backward()
            found.append(losses.detach())
    return torch.cat(found, dim=1), {name: bank.params.trained(name).grad.clone() for name in bank.params.names()}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_with_dropout_the_packed_path_is_the_bank_path(model_type: str) -> None:
    loaded = language_model(model_type, dropout=0.2)
    trials = [trial(target_modules=ALL_LINEAR, lora_dropout=0.3, **member) for member in MEMBERS]
    with Doubles():
        losses, grads = losses_and_gradients(loaded, trials, "bank", parts=2)
        mine, my_grads = losses_and_gradients(loaded, trials, "packed", parts=2)
        torch.testing.assert_close(mine, losses, rtol=0, atol=1e-10)
        for name, grad in grads.items():
            torch.testing.assert_close(my_grads[name], grad, rtol=1e-8, atol=1e-10, msg=name)
        without, _ = losses_and_gradients(language_model(model_type), trials, "packed", parts=2)
    assert float((without - mine).abs().max()) > 1e-3, "the masks do nothing"


EVERYWHERE = {
    "llama": ("q_proj", "embed_tokens", "lm_head"), "gemma2": ("v_proj", "embed_tokens", "lm_head"),
    "gpt2": ("wte", "wpe"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_adapters_on_embeddings_and_on_the_head_train_as_in_peft(model_type: str) -> None:
    """Gemma and GPT-2 tie the two: under PEFT, too, each of them has an adapter of its own."""
    loaded, data = language_model(model_type), causal_data(n_train=20)
    modules = EVERYWHERE[model_type]
    trials = [trial(budget=budget(**HARD), target_modules=modules, **m) for m in FOUR if m.get("init") != "zero_A"]
    starts = start_values(loaded, trials)
    with Doubles():
        alone = {
            k: train_alone(loaded, data.train, t, peft_language_model(loaded, t, starts[k]))
            for k, t in enumerate(trials)
        }
        packed = train_pack(loaded, data, trials, path="packed")
    assert_same_course(packed, alone, atol=1e-10)


@pytest.mark.parametrize("head", [(), ("lm_head",)])
def test_however_few_logits_exist_at_once_losses_and_gradients_stay(
    head: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = language_model("llama", dropout=0.2)
    trials = [trial(target_modules=("q_proj", "down_proj", *head), lora_dropout=0.3, **m) for m in MEMBERS]
    losses, grads = losses_and_gradients(loaded, trials, "packed")
    bound = 5 * 3 * 60 * 8  # bytes: 5 targets of 3 trials, 60 ids
    monkeypatch.setattr(cross_entropy, "AT_ONCE", bound)
    seen: list[int] = []
    loaded.model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.nbytes))
    fewer, same = losses_and_gradients(loaded, trials, "packed")
    assert len(seen) > 5
    assert max(seen) <= bound
    torch.testing.assert_close(fewer, losses, rtol=0, atol=1e-12)
    for name, grad in grads.items():
        torch.testing.assert_close(same[name], grad, rtol=1e-9, atol=1e-11, msg=name)


class Products(TorchDispatchMode):
    """Collects how many rows go through each matrix product that is the same for all trials."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default:
            self.rows.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))


def test_nothing_is_padded_and_what_all_trials_share_is_computed_once() -> None:
    """Rows through the 14 frozen products: N in the first adapted layer's q, k, v and their A, K * N from there on."""
    bank = make_bank(language_model("llama"), [trial(target_modules=ALL_LINEAR, **member) for member in MEMBERS])
    chunk = Batches(causal_data(n_train=20).train, device=CPU).chunk(np.arange(20))
    at = chunk.target_places()
    way = choose_path(bank, "packed")
    with Products() as seen, torch.no_grad():
        way.losses(chunk, at - 1, chunk.ids_N[at])
    n, n_trials = chunk.n_tokens, bank.n_trials
    assert n == sum(chunk.lengths) < chunk.longest * chunk.n_examples
    in_body = [rows for rows in seen.rows if rows in (n, n_trials * n)]
    assert sorted(in_body) == sorted([n] * 4 + [n_trials * n] * 11)
    assert set(seen.rows) - set(in_body) <= {n_trials * len(at), n_trials}, (
        "the head's, and the pass that sees its width"
    )


def test_a_chunk_that_is_filled_up_gives_the_same_numbers() -> None:
    """In half precision on a CPU."""
    loaded = language_model("gpt2", dropout=0.2)
    trials = [trial(target_modules=ALL_LINEAR, lora_dropout=0.3, **member) for member in MEMBERS]
    usual, grads = losses_and_gradients(loaded, trials, "packed")
    seen = list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bank, "is_half", property(lambda bank: True))
        patch.setattr(Bank, "precision", lambda bank: nullcontext())
        patch.setattr(packed, "filling", lambda tokens: 5)
        patch.setattr(_Products, "forward", _watched(_Products.forward, seen))
        filled, my_grads = losses_and_gradients(loaded, trials, "packed")
    n = int(Batches(causal_data(n_train=20).train, device=CPU).lengths[:8].sum())
    assert n % 5
    assert max(seen) == n + -n % 5
    assert not any(size % 5 for size in seen)
    torch.testing.assert_close(filled, usual, rtol=1e-12, atol=1e-14)
    for name, grad in grads.items():
        torch.testing.assert_close(my_grads[name], grad, rtol=1e-10, atol=1e-13, msg=name)


def test_a_chunk_is_filled_up_to_few_sizes_by_a_sixteenth_at_the_most() -> None:
    sizes = {n: n + -n % filling(n) for n in range(1, 5000)}
    assert max(size / n for n, size in sizes.items()) <= 17 / 16
    assert len({size for n, size in sizes.items() if 300 <= n < 1200}) <= 42


def _watched(forward: Any, seen: list[int]) -> Any:
    """Return the function, noting how many tokens come in."""

    def watched(ctx: Any, x: Tensor, *args: Any) -> Any:
        seen.append(x.shape[1])
        return forward(ctx, x, *args)

    return staticmethod(watched)


def test_frozen_products_keep_no_input() -> None:
    linear = torch.nn.Linear(5, 3, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    with kept_numbers() as kept:
        (out,) = _Products.apply(x, [linear.weight], [linear.bias], [], [])
    assert sum(kept) == 0
    out.sum().backward()
    torch.testing.assert_close(x.grad, linear.weight.sum(0).expand_as(x))


def computed_over_real(path: str) -> float:
    """Return how many tokens the second layer computes over those that are real: batches of 16 in 4 chunks."""
    bank = make_bank(language_model("llama"), [trial(target_modules=ALL_LINEAR, **member) for member in MEMBERS])
    split = Batches(data_of(64, 60).train, device=CPU)
    assert (round(float(split.lengths.mean())), int(split.lengths.max())) == (58, 188)
    way, seen = choose_path(bank, path), list[int]()
    bank.model.model.layers[1].register_forward_hook(lambda layer, args, out: seen.append(out.shape[:-1].numel()))
    with torch.no_grad():
        for places in split.order(seed=0, batch_size=16, max_steps=4):
            for chunk in split.chunks(places, 4):
                at = chunk.target_places()
                way.losses(chunk, at - 1, chunk.ids_N[at])
    return sum(seen) / (bank.n_trials * int(split.lengths.sum()))


def test_of_ragged_lengths_real_tokens_alone_are_computed() -> None:
    assert computed_over_real("packed") <= 1.05
    assert computed_over_real("bank") > 1.05, "sorted chunks that are padded: what is counted does count padding"


@pytest.mark.parametrize("path", ["packed", "bank"])
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "opt"])
def test_gradient_checkpointing_is_exact_with_every_dropout_on(model_type: str, path: str) -> None:
    loaded = language_model(model_type, dropout=0.2)
    trials = [trial(target_modules=ALL_LINEAR, lora_dropout=0.3, **member) for member in MEMBERS]
    losses, grads = losses_and_gradients(loaded, trials, path, parts=2)
    with kept_numbers() as kept:
        same, my_grads = losses_and_gradients(loaded, trials, path, parts=2, checkpointed=True)
    with kept_numbers() as usual:
        losses_and_gradients(loaded, trials, path, parts=2)
    torch.testing.assert_close(same, losses, rtol=0, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(my_grads[name], grad, rtol=1e-12, atol=1e-14, msg=name)
    assert sum(kept) < sum(usual) / 2
