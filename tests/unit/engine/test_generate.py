"""Texts of K trials over ragged prompts: against transformers' own generate of each trial's PEFT model alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.core.spec import Pack, Trial
from bench.data.splits import Encoded
from bench.engine import generate, guard, packed
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.run import EngineOptions, prepare
from bench.models._base import LoadedModel
from bench.models._targets import ALL_LINEAR
from tests.support.causal_helpers import causal_data, peft_language_model
from tests.support.decoders import GROUPED, MEMBERS, SIZES
from tests.support.engine_helpers import budget, trial
from tests.support.oracle import CPU, Start, make_bank

LIMIT = 9
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": GROUPED,
    "gpt2": SIZES,  # learned positions
    "opt": {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16},  # learned positions from 2 on
    "qwen2": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 5},
    "gemma2": {**GROUPED, "head_dim": 4, "sliding_window": 5, "attn_logit_softcapping": 2.0,
               "final_logit_softcapping": 5.0},
    "bloom": {**SIZES, "n_head": 4, "n_layer": 2},  # ALiBi, and attention of its own
}  # fmt: skip


def decoder(family: str, dtype: torch.dtype = torch.float64) -> LoadedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return LoadedModel(model=model, head_names=())


def pack_of(loaded: LoadedModel, **changes: Any) -> tuple[Bank, list[Trial]]:
    """Three trials of different ranks with adapters drawn large, so that they write different texts."""
    precision = "fp64" if loaded.model.dtype == torch.float64 else "fp32"
    targets = ALL_LINEAR if loaded.model.config.model_type != "bloom" else ("query_key_value", "dense")
    trials = [
        trial(budget=budget(precision=precision), target_modules=targets, **{**m, **changes}) for m in MEMBERS
    ]  # fmt: skip
    bank = make_bank(loaded, trials)
    torch.manual_seed(1)
    with torch.no_grad():
        for name in bank.params.names():
            weights = bank.params.trained(name)
            weights.copy_(0.3 * torch.randn_like(weights) * (weights.abs().sum(-1, keepdim=True) >= 0))
        for shape in bank.shapes:  # ranks that are shorter than the pack's longest stay filled with zeros
            for k, one in enumerate(trials):
                if one.rank is not None:
                    bank.params[bank.slot(shape, "A")].data[k, one.rank :] = 0
                    bank.params[bank.slot(shape, "B")].data[k, :, one.rank :] = 0
    return bank, trials


def alone(loaded: LoadedModel, bank: Bank, trials: list[Trial], split: Encoded, end_id: int) -> list[list[list[int]]]:
    """What transformers generates: each trial's PEFT model, one prompt at a time."""
    assert split.prompt_lengths is not None
    found = []
    for k, one in enumerate(trials):
        model = peft_language_model(loaded, one, Start(adapters=bank.adapters(k), head={})).to(loaded.model.dtype)
        texts = []
        for start, length in zip(split.offsets, split.prompt_lengths, strict=False):
            prompt = torch.from_numpy(split.ids[start : start + length].astype(np.int64))[None]
            made = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LIMIT,
                eos_token_id=end_id, pad_token_id=1, use_cache=True,
            )  # fmt: skip
            texts.append(generate.until(made[0, length:].tolist(), end_id))
        found.append(texts)
    return found


def end_of(texts: list[list[list[int]]]) -> int:
    """The token at whose first places texts would stop at the most different lengths."""
    places: dict[int, Counter[int]] = {}
    for text in (t for own in texts for t in own):
        for token in set(text):
            places.setdefault(token, Counter())[text.index(token)] += 1
    return max(places, key=lambda token: (len(places[token]), places[token].total()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bloom"])
def test_ragged_prompts_are_written_after_as_transformers_does_alone(family: str, dtype: torch.dtype) -> None:
    loaded, split = decoder(family, dtype), causal_data().eval
    bank, trials = pack_of(loaded)
    end_id = end_of(generate.equal(bank, Batches(split, device=CPU), end_id=-1, limit=LIMIT, max_tokens=4096))
    wanted = alone(loaded, bank, trials, split, end_id)
    batches = Batches(split, device=CPU)
    for max_tokens in (4096, 150):  # all at once; and some, the next ones where room is
        ragged = generate.ragged(bank, batches, end_id=end_id, limit=LIMIT, max_tokens=max_tokens)
        assert ragged == wanted, f"{max_tokens} tokens"
    assert generate.equal(bank, batches, end_id=end_id, limit=LIMIT, max_tokens=4096) == wanted
    packed.PackedPath(bank)  # which joins products of the model's own modules
    assert generate.ragged(bank, batches, end_id=end_id, limit=LIMIT, max_tokens=150) == wanted
    assert len({str(own) for own in wanted}) == 3, "the trials write the same: the comparison says little"
    assert len({len(text) for own in wanted for text in own}) > 3, "texts stop together: the comparison says little"


def test_rows_that_stop_make_room_and_never_exceed_it() -> None:
    """Counted, not timed: rows of a trial that stops at once are not computed while the others go on."""
    loaded, split = decoder("llama"), causal_data().eval
    bank, _ = pack_of(loaded)
    batches = Batches(split, device=CPU)

    class Early(generate.Ragged):
        """Trials 0 and 1 stop at their second token, trial 2 at the limit; it counts rows and columns."""

        largest = 0

        def choose(self, logits_RxV: torch.Tensor, trial_R: generate.Ints, place_R: generate.Ints) -> torch.Tensor:
            rows = len(self.place_R) if len(trial_R) == len(self.place_R) else len(trial_R)
            self.largest = max(self.largest, rows * int((self.prompts_N[place_R] + LIMIT).max()))
            made = [len(self.made[k][i]) for k, i in zip(trial_R, place_R, strict=True)]
            ends = [m >= 1 and k < 2 for m, k in zip(made, trial_R, strict=True)]
            return torch.where(torch.tensor(ends), 2, 7)

    room = 12 * (int(batches.prompt_lengths.max()) + LIMIT)  # type: ignore[union-attr]
    writing = Early(bank, batches, end_id=2, limits_N=np.full(batches.n, LIMIT), max_tokens=room)
    made = writing.written()
    assert [{len(text) for text in own} for own in made] == [{1}, {1}, {LIMIT}]
    needed = batches.n * (1 + 1 + (LIMIT - 1))  # tokens after the first ones, which the prompts give
    assert writing.largest <= room
    assert needed <= writing.row_steps <= 1.34 * needed
    assert bank.keys.rows is None


def test_prompts_are_read_in_groups_with_little_padding() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(20, 80, 200))
    groups = list(generate._groups(lengths, 256))
    assert np.concatenate([np.arange(200)[group] for group in groups]).tolist() == list(range(200))
    computed = sum(len(lengths[group]) * int(lengths[group].max()) for group in groups)
    assert computed <= generate.PADDING * lengths.sum()
    assert len(groups) < 30
    assert [len(lengths[group]) for group in generate._groups(np.array([1, 1, 50]), 256)] == [3]


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_that_changes_logits_is_found(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLOOM's own attention gives nan before a padded prompt; it keeps prompts of one length, and is right there."""
    monkeypatch.setattr(guard, "_recall", lambda key, look: look())
    loaded, data = decoder(family), causal_data("exact_match")
    bank, trials = pack_of(loaded)
    problem = guard.ragged_problem(loaded, trials[0], bank.shapes, "bank")
    assert (problem is None) == (family != "bloom"), problem
    ready = prepare(Pack(trials=tuple(trials[:1])), data, loaded, EngineOptions(device=CPU))
    assert ready.objective.ragged == (family != "bloom")  # type: ignore[attr-defined]
    if family == "bloom":
        made = generate.equal(bank, Batches(data.eval, device=CPU), end_id=2, limit=LIMIT, max_tokens=4096)
        assert made == alone(loaded, bank, trials, data.eval, 2)


def test_positions_that_follow_the_columns_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 as if it took no position_ids: padding before a prompt would move all its positions."""
    monkeypatch.setattr(guard, "_recall", lambda key, look: look())
    loaded = decoder("gpt2")
    bank, trials = pack_of(loaded)
    forward = type(loaded.model).forward

    def without(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(loaded.model), "forward", without)
    problem = guard.ragged_problem(loaded, trials[0], bank.shapes, "bank")
    assert problem is not None
    assert "several lengths" in problem
