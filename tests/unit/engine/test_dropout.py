"""Keyed dropout: a mask depends on its key (seed, step, module, example, position, feature) and on nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DebertaV2Config

from bench.engine import dropout
from bench.engine.batching import Batches
from bench.engine.dropout import KeyedDropout, MaskKeys, Together, keyed_mask, token_key
from bench.engine.run import choose_path
from tests.support.engine_helpers import budget, load_random, random_data, tiny_model, trial
from tests.support.oracle import CPU, make_bank

DROPPING = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}


def keys(*, seed: int = 0, step: int = 0) -> MaskKeys:
    found = MaskKeys(seed)
    found.step, found.training = step, True
    return found


def mask_of(
    examples: list[int], n_positions: int, *, p: float = 0.1, path: str = "m", d: int = 8, **who: int
) -> Tensor:
    """The mask that a [b, T, d] activation of these examples gets."""
    token = token_key(torch.tensor(examples)[:, None], torch.arange(n_positions)[None])
    own = keys(**who)
    own.start_chunk(token, token[:, 0])
    return KeyedDropout(p, path, own)(torch.ones(len(examples), n_positions, d, dtype=torch.float64))


def test_other_examples_and_padding_do_not_matter() -> None:
    together = mask_of([7, 3, 90, 12], 9, p=0.5)
    alone = mask_of([90], 5, p=0.5)
    assert torch.equal(together[2:3, :5], alone)
    assert 0 < int((alone == 0).sum()) < alone.numel()


def test_more_features_do_not_matter() -> None:
    assert torch.equal(mask_of([4], 6, d=50)[..., :7], mask_of([4], 6, d=7))


def test_trials_of_a_pack_share_the_mask() -> None:
    token = token_key(torch.tensor([5, 6])[:, None], torch.arange(4)[None])
    own = keys()
    own.start_chunk(token, token[:, 0])
    dropped = KeyedDropout(0.5, "m", own)(torch.ones(3 * 2, 4, 8)).unflatten(0, (3, 2))
    assert torch.equal(dropped[0], dropped[1])
    assert torch.equal(dropped[0], dropped[2])


def test_attention_mask_does_not_depend_on_padded_keys() -> None:
    def attention(n: int) -> Tensor:
        token = token_key(torch.tensor([5, 6])[:, None], torch.arange(n)[None])
        own = keys()
        own.start_chunk(token, token[:, 0])
        return KeyedDropout(0.3, "a", own)(torch.ones(2, 4, n, n))

    assert torch.equal(attention(12)[:, :, :5, :5], attention(5))


def test_first_tokens_have_the_first_row_of_the_padded_mask() -> None:
    token = token_key(torch.tensor([5, 6])[:, None], torch.arange(4)[None])
    own = keys()
    own.start_chunk(token, token[:, 0])
    rows = KeyedDropout(0.4, "m", own)(torch.ones(2, 8))
    own.start_chunk(token, token[:, 0])
    assert torch.equal(rows, KeyedDropout(0.4, "m", own)(torch.ones(2, 4, 8))[:, 0])


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}, {"path": "n"}, {"examples": [1]}])
def test_every_part_of_the_key_matters(other: dict[str, Any]) -> None:
    reference: dict[str, Any] = {"examples": [0], "n_positions": 40, "p": 0.5, "d": 64}
    a, b = mask_of(**reference) > 0, mask_of(**{**reference, **other}) > 0
    agreement = float((a == b).double().mean())
    assert abs(agreement - 0.5) < 4 * 0.5 / np.sqrt(a.numel()), "independent fair coins agree half of the time"


def test_positions_and_features_are_independent() -> None:
    kept = (mask_of(list(range(50)), 20, p=0.5, d=32) > 0).double() * 2 - 1
    bound = 4 / np.sqrt(kept[:, 1:].numel())
    for shifted in (kept[1:] * kept[:-1], kept[:, 1:] * kept[:, :-1], kept[..., 1:] * kept[..., :-1]):
        assert abs(float(shifted.mean())) < bound * 1.1
    columns = kept.flatten(0, 1)
    correlation = (columns.T @ columns / len(columns)).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 5 / np.sqrt(len(columns))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_keep_rate_and_mean(p: float) -> None:
    mask = mask_of(list(range(200)), 20, p=p, d=64)
    n = mask.numel()
    assert abs(float((mask == 0).double().mean()) - p) < 4 * np.sqrt(p * (1 - p) / n) + 1 / 65536
    assert abs(float(mask.mean()) - 1) < 4 * np.sqrt(p / (1 - p) / n) + 1e-6
    kept = mask[mask > 0]
    assert torch.equal(kept, torch.full_like(kept, float(kept[0])))
    assert float(kept[0]) == pytest.approx(1 / (1 - p), rel=1e-3)


def test_expectation_is_exact_for_the_rounded_probability() -> None:
    """p is rounded to 1/65536; the scale belongs to the rounded p, so that the expectation is 1 and not nearly 1."""
    p = 0.1
    scale = float(keyed_mask(1, p, torch.arange(50), 8, torch.float64).max())
    assert scale * (1 - round(p * 65536) / 65536) == pytest.approx(1, abs=1e-15)


def test_no_mask_while_evaluating_or_at_p_zero() -> None:
    own = keys()
    x = torch.randn(2, 3, 4)
    assert KeyedDropout(0.0, "m", own)(x) is x
    own.training = False
    assert KeyedDropout(0.5, "m", own)(x) is x


def test_a_module_called_twice_gets_two_masks_and_the_next_chunk_the_first_again() -> None:
    token = token_key(torch.tensor([5])[:, None], torch.arange(30)[None])
    own, x = keys(), torch.ones(1, 30, 16)
    dropout = KeyedDropout(0.5, "m", own)
    own.start_chunk(token, token[:, 0])
    first, second = dropout(x), dropout(x)
    own.start_chunk(token, token[:, 0])
    assert not torch.equal(first, second)
    assert torch.equal(first, dropout(x))


def test_gradient_goes_through_the_mask() -> None:
    token = token_key(torch.tensor([5, 8])[:, None], torch.arange(3)[None])
    own = keys()

    def f(x: Tensor) -> Tensor:
        own.start_chunk(token, token[:, 0])
        return KeyedDropout(0.4, "m", own)(x) ** 2

    x = torch.randn(2 * 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(f, (x,))
    (grad,) = torch.autograd.grad(KeyedDropout(0.4, "m", _restarted(own, token))(x).sum(), x)
    assert torch.equal(grad[:2], mask_of([5, 8], 3, p=0.4, d=4)), "the gradient of the sum is the scaled mask itself"


def _restarted(own: MaskKeys, token: Tensor) -> MaskKeys:
    own.start_chunk(token, token[:, 0])
    return own


@pytest.mark.parametrize(("kind", "path"), list(itertools.product(["roberta", "bert"], ["bank", "unpadded"])))
def test_adapter_gradient_with_dropout_on(kind: str, path: str) -> None:
    """The gradient of the loss in every adapter weight is the slope of the loss, all masks drawn."""
    loaded = tiny_model(kind, **DROPPING)
    bank = make_bank(loaded, [trial(rank=2, lora_dropout=0.2, budget=budget()), trial(rank=1, lora_dropout=0.2)])
    way, split = choose_path(bank, path), Batches(random_data(types=kind == "bert").train, device=CPU)
    chunk = split.chunk(np.arange(4))
    bank.keys.training, bank.keys.step = True, 3
    bank.params.values.add_(torch.linspace(-0.1, 0.1, bank.params.values.numel(), dtype=torch.float64))

    def loss() -> Tensor:
        return way.logits(chunk).logsumexp(-1).sum()

    bank.params.zero_grad()
    loss().backward()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(bank.params.values.shape, dtype=torch.float64, generator=generator)
    step = 1e-6
    with torch.no_grad():
        bank.params.values.add_(step * direction)
        up = loss()
        bank.params.values.sub_(2 * step * direction)
        slope = float((up - loss()) / (2 * step))
    assert slope == pytest.approx(float(bank.params.grads @ direction), rel=1e-6)


def test_table_of_relative_positions_has_one_mask_for_every_chunk_and_trial() -> None:
    """DeBERTa-v3's adapted projections see a table without examples: its mask must not follow the batch."""
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24,
        type_vocab_size=0, max_position_embeddings=40, relative_attention=True, pos_att_type=["p2c", "c2p"],
        position_biased_input=False, share_att_key=True, position_buckets=8, pooler_hidden_size=16,
        initializer_range=0.2, pooler_dropout=0.1, **DROPPING,
    )  # fmt: skip
    loaded, split = load_random(config), Batches(random_data().train, device=CPU)
    logits = {}
    places = np.arange(6)
    for n_trials, parts in itertools.product((1, 3), ([places], [places[:1], places[1:3], places[3:]])):
        members = [trial(lora_dropout=0.3, init="zero_A", target_modules=("query_proj", "key_proj"))] * n_trials
        bank = make_bank(loaded, members)
        for name in bank.params.names():
            if name.endswith(".A"):
                bank.params.trained(name).data.add_(0.1)
        bank.keys.training = True
        way = choose_path(bank, "bank")
        with torch.no_grad():
            logits[n_trials, len(parts)] = torch.cat([way.logits(split.chunk(part)) for part in parts], dim=1)
    reference = logits[1, 1][0]
    for found in logits.values():
        torch.testing.assert_close(found, reference.expand_as(found), rtol=0, atol=1e-12)


def test_a_probability_of_one_leaves_nothing() -> None:
    assert not keyed_mask(1, 1.0, torch.arange(5), 7, torch.float32).any()


def test_masks_that_are_drawn_together_are_those_drawn_alone() -> None:
    """Bit for bit: in the first chunk, whose calls nobody foresees, in the next ones, and where calls differ."""
    alone, together = MaskKeys(3), MaskKeys(3)
    together.together = Together()
    wide = torch.arange(12).reshape(3, 4)

    def drawn(keys: MaskKeys, paths: str, n: int) -> list[torch.Tensor]:
        token = token_key(torch.arange(n), torch.arange(n) + 5)
        first = token[:2]
        keys.start_chunk(token, first)
        masks = []
        for path in paths:
            masks.append(keys.mask(path, 0.1, token, 10, torch.float32))
            masks.append(keys.mask(f"{path}.first", 0.1, first, 10, torch.float32))
            masks.append(keys.mask(f"{path}.attention", 0.25, wide, 4 * n, torch.float64))
        return masks

    hashes: list[int] = []
    for step, (paths, n) in enumerate([("abcd", 5), ("abcd", 7), ("dbxa", 6), ("abab", 3), ("abab", 4)]):
        alone.step = together.step = step
        for expected, found in zip(drawn(alone, paths, n), drawn(together, paths, n), strict=True):
            assert torch.equal(expected, found)
        hashes.append(len(together.together.ready))
    assert hashes[1] == 0, "what was foreseen was asked for"


def test_a_module_that_asks_for_other_rows_than_foreseen_gets_their_mask() -> None:
    alone, together = MaskKeys(3), MaskKeys(3)
    together.together = Together()
    token = token_key(torch.arange(6), torch.arange(6))
    wide = token.reshape(2, 3)
    for turn in range(2):
        for keys in (alone, together):
            keys.start_chunk(token, token[:2])
        for path, key, n in (("a", token, 8), ("b", token[:2] if turn else token, 8), ("c", wide, 8), ("d", wide, 12)):
            key = together.first_key if turn and path == "b" else key
            assert key is not None
            expected = alone.mask(path, 0.1, key, n, torch.float32)
            assert torch.equal(together.mask(path, 0.1, key, n, torch.float32), expected)


def test_few_hashes_make_the_masks_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, made = MaskKeys(3), []
    keys.together = Together()
    draw = dropout._drawn
    monkeypatch.setattr(dropout, "_drawn", lambda *args: made.append(args) or draw(*args))
    token = token_key(torch.arange(5), torch.arange(5))
    for _ in range(2):
        made.clear()
        keys.start_chunk(token, token[:1])
        for layer in range(6):
            keys.mask(f"layer {layer}", 0.1, token, 8, torch.float32)
    assert len(made) == 1
    monkeypatch.setattr(dropout, "_MOST_BYTES", 2 * 8 * 5 * 2)
    made.clear()
    keys.start_chunk(token, token[:1])
    for layer in range(6):
        keys.mask(f"layer {layer}", 0.1, token, 8, torch.float32)
    assert len(made) == 3, "two at a time where more would take too much memory"
