"""One contract suite over every file in bench/methods, and MoRA against reference vectors and tables."""

from __future__ import annotations

import itertools
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import AutoModelForSequenceClassification, GPT2Config, RobertaConfig

from bench import methods
from bench.core.errors import BadInput
from bench.core.spec import Trial
from bench.engine.adapted import converted
from bench.engine.bank import Bank
from bench.engine.batching import Batches
from bench.engine.run import choose_path
from bench.methods import LayerShape
from bench.methods._base import Frozen, Role, fixed, roles_of
from bench.methods.mora import r_hat
from bench.models._base import LoadedModel
from tests.support.engine_helpers import budget, clone, load_random, random_data, tiny_model, trial
from tests.support.mora_oracle import compress_matrix, decompress_matrix, side
from tests.support.oracle import CPU, make_bank

UNREAD: dict[str, Any] = dict.fromkeys(
    ("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "mora_type", "mora_rounding")
)
SETTINGS: dict[str, Any] = {  # a value for every field that a method may read
    "rank": 2, "lora_alpha": 5.0, "use_rslora": False, "lora_dropout": 0.0, "init": "zero_B",
    "target_modules": ("query", "value", "dense"), "mora_type": 6, "mora_rounding": "floor",
    "adapter_activation": "gelu", "adapter_gate": False,
}  # fmt: skip
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "lora": ({}, *({"init": init} for init in ("zero_A", "nonzero", "pissa", "olora", "milora")), {"use_rslora": True}),
    "dora": ({}, {"init": "pissa"}, {"use_rslora": True}),
    "lora+": ({"eta_B": 8e-3}, {"init": "zero_A", "eta_B": 8e-3}),
    "sequential-adapter": ({}, {"adapter_gate": True}),
    "parallel-adapter": ({}, {"adapter_gate": True}),
    "mora": tuple({"mora_type": t} for t in (1, 2, 3, 4, 6)),
}
CASES = [(name, changes) for name in methods.names() for changes in VARIANTS.get(name, ({},))]
MERGED = [c for c in CASES if {"rank", "target_modules"} & methods.get(c[0]).reads and methods.get(c[0]).merges]
LAYERS = [(16, 16), (16, 24), (24, 16), (17, 31), (31, 17), (12, 45), (45, 12)]  # in, out


def member(name: str, **changes: Any) -> Trial:
    """A trial of the method: what it reads is set, the rest is None."""
    read = {key: value for key, value in SETTINGS.items() if key in methods.get(name).reads}
    return trial(**{**UNREAD, "method": name, **read, **changes})


def shape_of(n_in: int, n_out: int) -> LayerShape:
    return LayerShape(path="layer", in_features=n_in, out_features=n_out)


def ids(case: object) -> str:
    return ",".join(f"{k}={v}" for k, v in case.items()) if isinstance(case, dict) else str(case)


def drawn(name: str, changes: dict[str, Any], shape: LayerShape, *, n_trials: int = 3) -> tuple[Any, ...]:
    """Random float64 parameters of K trials, the constants, and the method."""
    method, members = methods.get(name), [member(name, **changes, seed=k) for k in range(n_trials)]
    generator = torch.Generator().manual_seed(7)
    frozen = frozen_of(shape, generator)
    start = method.stack([method.init(t, shape, generator, frozen.weight) for t in members])
    start = {key: value.double() for key, value in start.items()}
    params = {key: torch.randn(value.shape, dtype=torch.float64, generator=generator) for key, value in start.items()}
    return method, members, params, converted(fixed(method, members, shape, frozen, start), frozen.weight, {})


def frozen_of(shape: LayerShape, generator: torch.Generator) -> Frozen:
    """Random numbers in place of a layer's."""
    width, of = (shape.out_features, shape.in_features), {"dtype": torch.float64, "generator": generator}
    size = (width[::-1] if shape.kind == "embedding" else width) if shape.kind != "layernorm" else width[:1]
    bias = None if shape.kind == "embedding" else torch.randn(width[0], **of)
    return Frozen(weight=torch.randn(*size, **of), bias=bias, eps=1e-5)


@pytest.mark.parametrize(("name", "changes"), CASES, ids=ids)
def test_at_initialisation_the_encoder_is_the_base_bit_for_bit(name: str, changes: dict[str, Any]) -> None:
    """The stacked head is another kernel than Linear, so the logits agree to float32's precision only."""
    loaded = tiny_model(dtype=torch.float32)
    members = [member(name, **changes, budget=budget(precision="fp32"))]
    bank, base = make_bank(loaded, members), clone(loaded.model)
    for head in loaded.head_names:
        base.get_parameter(head).data.copy_(bank.params[head][0])
    chunk = Batches(random_data().train, device=CPU).chunk(np.arange(5))
    mask = chunk.padded(torch.ones_like(chunk.ids_N), 0)
    inputs = {"input_ids": chunk.padded(chunk.ids_N, 1), "attention_mask": mask}
    with torch.no_grad():
        logits = choose_path(bank, "bank").logits(chunk)[0]
        torch.testing.assert_close(logits, base(**inputs).logits, rtol=0, atol=1e-6)
        hidden = [model.base_model(**inputs).last_hidden_state for model in (bank.model, base)]
    assert torch.equal(*hidden)


@pytest.mark.parametrize(("n_in", "n_out"), LAYERS)
@pytest.mark.parametrize(("name", "changes"), MERGED, ids=ids)
def test_merging_equals_the_forward_pass(name: str, changes: dict[str, Any], n_in: int, n_out: int) -> None:
    shape = shape_of(n_in, n_out)
    method, members, params, constants = drawn(name, changes, shape)
    assert method.problem(members[0], shape) is None
    x = torch.randn(3, 5, n_in, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    delta_KxOxI = method.weight_delta(params, constants, shape)
    assert delta_KxOxI.shape == (3, n_out, n_in)
    h = linear(x, constants["frozen"].weight, constants["frozen"].bias)
    forward = method.output(params, constants, h, x) - h
    merged = torch.einsum("koi,kni->kno", delta_KxOxI, x)
    bias_delta_KxO = method.bias_delta(params, constants)
    merged = merged if bias_delta_KxO is None else merged + bias_delta_KxO[:, None]
    torch.testing.assert_close(forward, merged, rtol=0, atol=1e-8)
    assert float(forward.abs().max()) > 0.1
    shared = method.output(params, constants, h[:1], x[:1])
    assert shared.shape == (3, 5, n_out)
    each = method.output(params, constants, h[:1].expand(3, -1, -1), x[:1].expand(3, -1, -1))
    torch.testing.assert_close(shared, each, rtol=0, atol=1e-12)
    if "lora_dropout" in method.reads:  # what the adapter sees after dropout is not what the frozen layer saw
        other = method.output(params, constants, h, 2 * x, dropped=True) - h
        torch.testing.assert_close(other, torch.einsum("koi,kni->kno", delta_KxOxI, 2 * x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("init", ["zero_B", "zero_A"])
def test_merging_an_embedding_equals_looking_it_up(init: str) -> None:
    shape = LayerShape(path="table", in_features=30, out_features=9, kind="embedding")
    method, _, params, constants = drawn("lora", {"init": init}, shape)
    tokens = torch.tensor([[3, 29, 3], [0, 1, 2], [7, 7, 8]])
    merged = method.weight_delta(params, constants, shape)
    assert merged.shape == (3, 30, 9)
    looked_up = method.delta(params, constants, tokens)
    torch.testing.assert_close(looked_up, torch.stack([merged[k][tokens[k]] for k in range(3)]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_in", "n_out"), LAYERS)
@pytest.mark.parametrize(("name", "changes"), CASES, ids=ids)
def test_counts_and_roles_cover_the_parameters(name: str, changes: dict[str, Any], n_in: int, n_out: int) -> None:
    shape, method, one = shape_of(n_in, n_out), methods.get(name), member(name, **changes)
    generator = torch.Generator().manual_seed(0)
    params = method.init(one, shape, generator, frozen_of(shape, generator).weight)
    params = {name: value.float() for name, value in params.items()}
    shared = sum(params[name].numel() for name in method.shared)
    assert sum(p.numel() for p in params.values()) == method.n_added(one, shape) + shared or method.in_place
    trained = [p.numel() for leaf, p in params.items() if method.roles(shape)[leaf] is not Role.FROZEN]
    assert sum(trained) == method.n_trainable(one, shape) + shared
    assert method.n_shared(one) == shared
    assert set(roles_of(method, shape, one)) == set(params)
    assert all(p.dtype == torch.float32 for p in params.values())
    stacked = method.stack([params, params]) if params else {}
    again = method.unstack(one, {key: value[1] for key, value in stacked.items()})
    assert all(torch.equal(again[key], params[key]) for key in params)


@pytest.mark.parametrize(("name", "changes"), CASES, ids=ids)
def test_bank_counts_are_the_parameters_it_trains(name: str, changes: dict[str, Any]) -> None:
    loaded = tiny_model()
    one = member(name, **changes)
    bank = make_bank(loaded, [one])
    own = {w.data_ptr(): w.numel() for weights in bank.adapters(0).values() for w in weights.values()}
    adapters = sum(own.values())  # a parameter that all layers share counts once
    head = sum(loaded.model.get_parameter(n).numel() for n in loaded.head_names)
    base = sum(p.numel() for p in loaded.model.parameters())
    frozen = sum(value.numel() for value in bank.params.frozen.values())
    assert bank.n_trainable(one) == (base if name == "full" else adapters + head - frozen)
    assert bank.n_trainable(one) == bank.params.values.numel()
    assert bank.n_total(one) == base + (0 if bank.method.in_place else adapters)


@pytest.mark.parametrize("name", methods.names())
def test_fields_that_are_not_read_change_nothing(name: str) -> None:
    method, shape = methods.get(name), shape_of(16, 24)
    other = {
        "rank": 2, "lora_alpha": 50.0, "use_rslora": True, "init": "zero_A", "mora_type": 1, "mora_rounding": "nearest",
        "eta_B": 0.3, "loraplus_lr_embedding": 0.1,
    }  # fmt: skip
    unread = {key: value for key, value in other.items() if key not in method.reads}
    assert unread
    plain, changed = member(name), member(name, **unread)
    weight = torch.randn(24, 16)
    inits = [method.init(t, shape, torch.Generator().manual_seed(0), weight) for t in (plain, changed)]
    assert inits[0].keys() == inits[1].keys()
    assert all(torch.equal(inits[0][key], inits[1][key]) for key in inits[0])
    assert method.n_trainable(plain, shape) == method.n_trainable(changed, shape)


@pytest.mark.parametrize("name", methods.names())
def test_registry_and_labels(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert method.label
    with pytest.raises(BadInput, match=r"known:.*lora"):
        methods.get("lorra")


def test_initial_values_are_pefts() -> None:
    """zero_B: A ~ U(+-1/sqrt(in)); zero_A: B ~ U(+-1/sqrt(r)); the other factor is zero."""
    method, shape = methods.get("lora"), shape_of(400, 300)
    for init, zero, n_fan in (("zero_B", "B", 400), ("zero_A", "A", 8)):
        params = method.init(member("lora", rank=8, init=init), shape, torch.Generator().manual_seed(0), None)
        (other,) = [value for key, value in params.items() if key != zero]
        bound = 1 / math.sqrt(n_fan)
        assert not params[zero].any()
        assert 0.97 * bound < float(other.abs().max()) <= bound
        assert float(other.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_initial_values_are_keyed_by_seed_and_place_and_paired_across_cells() -> None:
    loaded = tiny_model()
    banks = [
        make_bank(loaded, [member("lora", eta_A=1e-3), member("lora+", eta_A=3e-2, eta_B=0.1)]),
        make_bank(loaded, [member("lora", seed=1)]),
        make_bank(loaded, [member("mora")]),
    ]
    first, second = banks[0].adapters(0), banks[0].adapters(1)
    assert all(torch.equal(first[path]["A"], second[path]["A"]) for path in first)
    assert all(not torch.equal(first[path]["A"], banks[1].adapters(0)[path]["A"]) for path in first)
    query = [own["A"] for path, own in first.items() if path.endswith("query")]
    assert not torch.equal(query[0], query[1]), "layers draw their own"
    head = [bank.params["classifier.dense.weight"][0] for bank in banks]
    assert torch.equal(head[0], head[2]), "every method of a seed begins with the same head"
    assert not torch.equal(head[0], head[1])


@pytest.mark.parametrize(
    ("name", "changes", "n_in", "n_out", "found"),
    [
        ("lora", {"init": "pissa", "rank": 9}, 8, 64, "rank=9"),
        ("lora-fa", {"init": "zero_A"}, 16, 16, "zero_A"),
        ("hira", {"init": "pissa"}, 16, 16, "pissa"),
        ("mora", {"rank": 8, "mora_type": 1}, 768, 2, "r_hat=78"),
        ("mora", {"rank": 8, "mora_type": 1}, 8, 64, "r_hat=24"),
        ("mora", {"mora_type": 5}, 16, 16, "mora_type=5"),
    ],
)
def test_a_bad_setting_is_named(name: str, changes: dict[str, Any], n_in: int, n_out: int, found: str) -> None:
    problem = methods.get(name).problem(member(name, **changes), shape_of(n_in, n_out))
    assert problem is not None
    assert found in problem


def test_bad_settings_stop_a_pack_before_it_trains() -> None:
    for bad in (member("mora", rank=16), member("mora", target_modules=("word_embeddings",))):
        with pytest.raises(BadInput):
            make_bank(tiny_model(), [bad])


def test_what_may_not_share_a_pack() -> None:
    """One head for all members: a frozen classifier.dense cannot stand beside a trained one."""
    for name in ("lora", "lora+", "mora"):
        method = methods.get(name)
        key = method.pack_key(member(name))
        assert key == method.pack_key(member(name, eta_A=0.5, head_policy=0.1))
        assert key != method.pack_key(member(name, head_policy="paper"))
        assert key != method.pack_key(member(name, lora_dropout=0.1))
        assert key != method.pack_key(member(name, target_modules=("query",)))
    lora, mora = methods.get("lora"), methods.get("mora")
    assert lora.pack_key(member("lora")) == methods.get("lora+").pack_key(member("lora+", rank=8, init="zero_A"))
    assert mora.pack_key(member("mora")) != mora.pack_key(member("mora", mora_type=1))
    assert mora.pack_key(member("mora")) != mora.pack_key(member("mora", rank=4))


@pytest.mark.parametrize("name", ["lora", "mora"])
def test_conv1d_is_adapted_as_its_transpose(name: str) -> None:
    """GPT-2 keeps its weights as [in, out]: adapting c_attn, 16 -> 48, must equal merging the delta transposed."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=40, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        pad_token_id=1, num_labels=2,
    )  # fmt: skip
    loaded = load_random(config)
    bank = make_bank(loaded, [member(name, target_modules=("c_attn",), rank=2)])
    (shape,) = bank.shapes
    assert (shape.in_features, shape.out_features, shape.kind) == (16, 48, "conv1d")
    params = {n: torch.randn_like(bank.params[f"{shape.path}.{n}"]) for n in bank.method.roles(shape)}
    for n, value in params.items():
        bank.params.trained(f"{shape.path}.{n}").data.copy_(value)
    merged = clone(loaded.model)
    weight = bank.method.weight_delta(params, bank.method.constants(bank.trials, shape, None), shape)[0]
    merged.get_submodule(shape.path).weight.data.add_(weight.T)
    merged.score.weight.data.copy_(bank.params["score.weight"][0])
    chunk = Batches(random_data().train, device=CPU).chunk(np.arange(4))
    with torch.no_grad():
        logits = choose_path(bank, "bank").logits(chunk)[0]
        mask = chunk.padded(torch.ones_like(chunk.ids_N), 0)
        expected = merged(input_ids=chunk.padded(chunk.ids_N, 1), attention_mask=mask).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)


# MoRA


@pytest.mark.parametrize(("n_in", "n_out"), LAYERS)
@pytest.mark.parametrize("mora_type", [1, 2, 3, 4])
def test_mora_delta_is_M_between_its_two_sums(mora_type: int, n_in: int, n_out: int) -> None:
    shape = shape_of(n_in, n_out)
    method, members, params, constants = drawn("mora", {"mora_type": mora_type, "rank": 2}, shape)
    square = side(2, n_in, n_out, mora_type)
    assert r_hat(members[0], shape) == square
    left, right = decompress_matrix(mora_type, n_out, square), compress_matrix(mora_type, n_in, square)
    expected = left @ params["M"] @ right
    torch.testing.assert_close(method.weight_delta(params, constants, shape), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_in", "n_out"), [(16, 16), (24, 40), (40, 24), (31, 33)])
@pytest.mark.parametrize("mora_type", [1, 2, 3, 4, 6])
def test_rank_of_the_delta(mora_type: int, n_in: int, n_out: int) -> None:
    """r_hat for shared rows and columns; min(d, k) for rotated blocks, where the blocks reach every input."""
    shape = shape_of(n_in, n_out)
    method, members, params, constants = drawn("mora", {"mora_type": mora_type, "rank": 2}, shape, n_trials=1)
    delta = method.weight_delta(params, constants, shape)[0]
    square = r_hat(members[0], shape)
    blocks_kept = math.ceil(n_out / square) * square  # a tall layer's later inputs meet no output
    expected = min(n_in, n_out, blocks_kept) if mora_type == 6 else square
    assert int(torch.linalg.matrix_rank(delta)) == expected


def test_rotated_blocks_of_a_wide_input_ignore_its_rest() -> None:
    """768 -> 3072 uses every input; 3072 -> 768 at r = 8, r_hat 174, only the first 870 (28 %)."""
    for n_in, n_out, used in ((768, 3072, 768), (3072, 768, 870)):
        shape = shape_of(n_in, n_out)
        method, members, params, constants = drawn("mora", {"rank": 8, "mora_rounding": "nearest"}, shape, n_trials=1)
        assert r_hat(members[0], shape) == 174
        delta = method.weight_delta(params, constants, shape)[0]
        assert int((delta != 0).any(dim=0).sum()) == used


NEAREST = {1: (39, 55, 78, 111, 157, 222, 314), 6: (38, 54, 78, 110, 156, 222, 314)}


@pytest.mark.parametrize("mora_type", [1, 6])
def test_r_hat_rounded_as_the_official_code_does(mora_type: int) -> None:
    ranks = (1, 2, 4, 8, 16, 32, 64)

    def sides(n_in: int, n_out: int) -> tuple[int, ...]:
        members = (member("mora", rank=r, mora_type=mora_type, mora_rounding="nearest") for r in ranks)
        return tuple(r_hat(m, shape_of(n_in, n_out)) for m in members)

    assert sides(768, 768) == NEAREST[mora_type]
    if mora_type == 1:
        assert sides(768, 3072) == (62, 88, 124, 175, 248, 351, 496)


def test_floor_never_exceeds_loras_budget() -> None:
    mora, lora = methods.get("mora"), methods.get("lora")
    for (n_in, n_out), rank, kind in itertools.product([(768, 768), (768, 3072), (31, 17)], range(1, 17), (1, 6)):
        shape = shape_of(n_in, n_out)
        assert mora.n_trainable(member("mora", rank=rank, mora_type=kind), shape) <= lora.n_trainable(
            member("lora", rank=rank), shape
        )
    nearest = member("mora", rank=8, mora_type=1, mora_rounding="nearest")
    assert mora.n_trainable(nearest, shape_of(768, 768)) == 12_321 > 12_288


QV, SIX = ("query", "value"), ("query", "key", "value", "dense")
THREE = ("query", "output.dense")  # the latter names the attention output and the second feed-forward Linear
TABLE = [  # targets, rank, LoRA, MoRA 1 nearest, 6 nearest, 1 floor, 6 floor: RoBERTa-base, without the head
    (QV, 2, 73_728, 72_600, 69_984, 72_600, 69_984),
    (QV, 8, 294_912, 295_704, 290_400, 290_400, 290_400),
    (QV, 64, 2_359_296, 2_366_304, 2_366_304, 2_351_256, 2_336_256),
    (THREE, 4, 331_776, 330_528, 330_528, 327_564, 324_624),
    (SIX, 2, 331_776, 331_056, 325_824, 326_856, 317_472),
    (SIX, 8, 1_327_104, 1_326_408, 1_307_424, 1_315_800, 1_307_424),
    (SIX, 32, 5_308_416, 5_322_456, 5_305_632, 5_284_368, 5_263_200),
]
HEAD = 592_130


@cache
def roberta_base() -> LoadedModel:
    """RoBERTa-base's shapes on the meta device: no weight is drawn."""
    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=2
    )
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return LoadedModel(
        model=model, head_names=tuple(n for n, _ in model.named_parameters() if n.startswith("classifier."))
    )


def meta_bank(one: Trial) -> Bank:
    return Bank(roberta_base(), [one], methods.get(one.method), device=torch.device("meta"), dtype=torch.float32)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0][-1]},r={row[1]}")
def test_parameters_on_roberta_base(row: tuple[Any, ...]) -> None:
    modules, rank, *expected = row
    shared = {"rank": rank, "target_modules": modules}
    members = [member("lora", **shared)] + [
        member("mora", **shared, mora_rounding=rounding, mora_type=kind)
        for rounding, kind in itertools.product(("nearest", "floor"), (1, 6))
    ]
    assert [meta_bank(one).n_trainable(one) - HEAD for one in members] == expected


@pytest.mark.parametrize(
    "one", [{"rank": 4, "target_modules": THREE}, {"rank": 2, "target_modules": "all-linear"}], ids=ids
)
def test_923906_of_124978946(one: dict[str, Any]) -> None:
    """Two ways to adapt RoBERTa-base with 923,906 trained parameters: 0.7392 % of 124,978,946."""
    lora = member("lora", **one)
    bank = meta_bank(lora)
    assert bank.n_trainable(lora) == 923_906
    assert bank.n_total(lora) == 124_978_946


def test_full_fine_tuning_of_roberta_base_trains_everything() -> None:
    full = member("full")
    bank = meta_bank(full)
    assert bank.n_trainable(full) == bank.n_total(full) == 124_647_170


VECTORS = Path(os.environ.get("LORASWEEP_VECTORS", "")) / "mora_reference.npz"


@pytest.mark.skipif(
    "LORASWEEP_VECTORS" not in os.environ, reason="LORASWEEP_VECTORS names no folder of reference vectors"
)
def test_mora_reference_vectors() -> None:
    """Every case of the official code's operators, forward and merged, to 1e-9."""
    with np.load(VECTORS, allow_pickle=False) as stored:
        arrays = {key: torch.from_numpy(stored[key]) for key in stored.files}
    cases = sorted({key.rpartition("/")[0] for key in arrays})
    assert len(cases) == 30
    for case in cases:
        n_in, n_out, rank, kind = (int("".join(c for c in part if c.isdigit())) for part in case.split("_"))
        one = member("mora", rank=rank, mora_type=kind, mora_rounding="nearest")
        shape, method = shape_of(n_in, n_out), methods.get("mora")
        M, x = (arrays[f"{case}/{name}"].double() for name in ("M", "x"))
        assert M.shape == (r_hat(one, shape),) * 2, case
        params, constants = {"M": M[None]}, method.constants([one], shape, None)
        for found, name in (
            (method.delta(params, constants, x.reshape(1, -1, n_in))[0], "y"),
            (method.weight_delta(params, constants, shape)[0], "delta_weight"),
        ):
            expected: Tensor = arrays[f"{case}/{name}"].double().reshape(found.shape)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9, msg=lambda m, case=case: f"{case}: {m}")


def test_mora_has_one_parameter_a_layer_and_no_rate_of_B() -> None:
    bank = make_bank(tiny_model(), [member("mora")])
    assert {role for shape in bank.shapes for role in bank.method.roles(shape).values()} == {Role.M}
    assert "eta_B" not in methods.get("mora").reads
