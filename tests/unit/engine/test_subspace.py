"""Random subspaces in packs against plain transformers whose weights are W0 + P v with P written out."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import GPT2Config

from bench import methods
from bench.core.spec import Trial
from bench.data.splits import Encoded
from bench.methods import LayerShape
from bench.methods._circulant import product
from bench.models._base import LoadedModel
from plots import figures
from plots.figures import dimension
from plots.tidy import StudyInfo
from tests.support.engine_helpers import budget, clone, load_random, random_data, tiny_model, trial
from tests.support.oracle import (
    HARD,
    Alone,
    Start,
    assert_hard,
    assert_same_course,
    make_alone,
    make_bank,
    optimizer_of,
    train_alone,
)
from tests.support.oracle import train_pack as train
from tests.support.plot_rows import frame
from tests.support.plot_rows import trial as row_trial

SUBSPACE = methods.get("subspace")
UNREAD = dict.fromkeys(("lora_alpha", "use_rslora", "lora_dropout", "init"))
MEMBERS: list[dict[str, Any]] = [{"eta_A": 2e-3}, {"eta_A": 1e-2, "head_policy": 3e-3}, {"eta_A": 3e-2}]


def subspace(d: int, **changes: Any) -> Trial:
    settings = {**UNREAD, "method": "subspace", "rank": d, "target_modules": "all-linear", "budget": budget(**HARD)}
    return trial(**{**settings, **changes})


def model_of(kind: str) -> LoadedModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60, n_embd=16, n_layer=2, n_head=4, n_positions=40, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        initializer_range=0.2, pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=2,
    )  # fmt: skip
    return load_random(config) if kind == "gpt2" else tiny_model(kind)


def rows_of_P(one: Trial, shape: LayerShape) -> Tensor:
    """The rows of P for one layer, dense: [O, I, d]."""
    c: dict[str, Any] = SUBSPACE.constants([one], shape, None)
    P = torch.zeros(shape.out_features, shape.in_features, one.rank or 0, dtype=torch.float64)
    for i in range(shape.out_features):
        for j in range(shape.in_features):
            place = int(c["place_out"][i] + c["place_in"][j]) % P.shape[-1]
            P[i, j, place] = c["sign_out"][i] * c["sign_in"][j]
    return P


class Projected(nn.Module):
    """W0 + P v."""

    def __init__(self, P_OxIxd: Tensor, v: nn.Parameter, *, transposed: bool) -> None:
        super().__init__()
        self.P_OxIxd, self.v, self.transposed = P_OxIxd, v, transposed

    def forward(self, W0: Tensor) -> Tensor:
        change = self.P_OxIxd @ self.v
        return W0 + (change.T if self.transposed else change)


def train_projected_alone(loaded: LoadedModel, split: Encoded, member: Trial, start: Start) -> Alone:
    model, v = clone(loaded.model), nn.Parameter(torch.zeros(member.rank or 0, dtype=torch.float64))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in loaded.head_names)
    for shape in make_bank(loaded, [member]).shapes:
        rows = Projected(rows_of_P(member, shape), v, transposed=shape.kind == "conv1d")
        parametrize.register_parametrization(model.get_submodule(shape.path), "weight", rows)
    for name, value in start.head.items():
        model.get_parameter(name).data.copy_(value)
    model.v = v
    return train_alone(model, split, member, optimizer_of(model, member))


@pytest.mark.parametrize(
    ("kind", "path", "d"),
    [("roberta", "bank", 7), ("roberta", "unpadded", 200), ("bert", "unpadded", 1), ("gpt2", "bank", 40)],
)
def test_a_pack_trains_as_the_written_out_projection_alone(kind: str, path: str, d: int) -> None:
    loaded, data = model_of(kind), random_data(types=kind == "bert")
    trials = [subspace(d, **member) for member in MEMBERS]
    alone = make_alone(loaded, data, trials, train_projected_alone)
    packed = train(loaded, data, trials, path=path, n_chunks=2)
    assert_hard(packed, HARD["max_grad_norm"])
    assert_same_course(packed, alone, atol=1e-10)
    for k, run in alone.items():
        v: Any = run.model.v
        torch.testing.assert_close(packed.bank.params["subspace.v"][k], v.detach(), rtol=0, atol=1e-9)
        assert float(v.detach().abs().min()) > 0, "every number has been trained"


def test_all_layers_share_d_numbers() -> None:
    loaded, one = tiny_model(), subspace(9)
    bank = make_bank(loaded, [one, subspace(9, eta_A=1e-2)])
    n_head = sum(loaded.model.get_parameter(name).numel() for name in loaded.head_names)
    assert len(bank.shapes) == 12
    assert {weights["v"].data_ptr() for weights in bank.adapters(0).values()} == {bank.params["subspace.v"].data_ptr()}
    assert bank.n_trainable(one) == n_head + 9
    assert bank.params.values.numel() == 2 * (n_head + 9)


def test_two_weights_share_a_number_as_often_as_in_a_random_projection() -> None:
    """One entry in each row; columns are orthogonal; any two rows meet with probability 1 / d, with a random sign."""
    d, shape = 10, LayerShape(path="a", in_features=3, out_features=4)
    met, inner = [], []
    for seed in range(200):
        P = rows_of_P(subspace(d, seed=seed), shape).flatten(0, 1)
        assert (P.abs().sum(dim=1) == 1).all()
        gram = P.T @ P
        assert torch.equal(gram, torch.diag(gram.diagonal()))
        for one, other in ((0, 1), (0, 3), (0, 4)):  # the same row of the weight, the same column, neither
            product_of_rows = float(P[one] @ P[other])
            met.append(abs(product_of_rows))
            inner.append(product_of_rows)
    assert abs(sum(met) / 600 - 1 / d) < 4 * (0.09 / 600) ** 0.5
    assert abs(sum(inner) / 600) < 4 * (0.1 / 600) ** 0.5


def test_P_is_keyed_by_seed_layer_and_dimension() -> None:
    def places(one: Trial, path: str) -> Tensor:
        found: Any = SUBSPACE.constants([one], LayerShape(path=path, in_features=50, out_features=50), None)["place_in"]
        return found

    first = places(subspace(1000), "a")
    assert torch.equal(first, places(subspace(1000, eta_A=0.5), "a"))
    for other in (places(subspace(1000, seed=1), "a"), places(subspace(1000), "b"), places(subspace(999), "a")):
        assert not torch.equal(first, other)


@pytest.mark.parametrize("shared", [False, True])
def test_the_product_has_the_gradients_of_the_written_out_one(shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1 if shared else 3, 5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    w = torch.randn(3, 11, dtype=torch.float64, generator=generator, requires_grad=True)
    a, b = torch.tensor([0, 3, 3, 5]), torch.tensor([0, 1, 5, 2, 2, 4])
    assert torch.autograd.gradcheck(lambda x, w: product(x, w, a, b), (x, w))


def test_no_matrix_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []
    shape = LayerShape(path="a", in_features=64, out_features=96)
    v, x = torch.zeros(2, 30, requires_grad=True), torch.randn(2, 3, 64)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        SUBSPACE.delta({"v": v}, SUBSPACE.constants([subspace(30)], shape, None), x)
    assert kept
    assert sum(kept) < 2 * 64 * 96 / 4


def test_half_precision_sums_its_gradient_in_full() -> None:
    """4,096 terms of 1: added one at a time in bfloat16 they would stop at 256."""
    w = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    places = torch.zeros(64, dtype=torch.int64)
    product(torch.ones(1, 1, 64, dtype=torch.bfloat16), w, places, places).sum().backward()
    assert float(w.grad or 0) == 4096


def cells(full: float | None, head: float | None, by_d: dict[int, float]) -> pd.DataFrame:
    rows: list[tuple[str, int | None, float | None]] = [("full", None, full), ("head", None, head)]
    rows += [("subspace", d, score) for d, score in by_d.items()]
    return pd.DataFrame(rows, columns=["series", "rank", "mean"]).astype({"rank": float, "mean": float})


@pytest.mark.parametrize(
    ("full", "head", "by_d", "d", "below"),
    [
        (0.9, 0.5, {1: 0.6, 10: 0.81, 100: 0.88}, 10, ()),  # 0.9 * 0.9 itself is enough
        (0.9, 0.5, {100: 0.88, 10: 0.82, 50: 0.7}, 10, (50,)),
        (0.9, 0.5, {1: 0.6, 10: 0.7}, None, ()),
        (0.9, 0.85, {1: 0.7, 10: 0.86}, 0, (1,)),
        (0.9, None, {1: 0.95}, 1, ()),
    ],
)
def test_d90_is_the_smallest_dimension_that_reaches_nine_tenths(
    full: float, head: float | None, by_d: dict[int, float], d: int | None, below: tuple[int, ...]
) -> None:
    found = dimension.read(cells(full, head, by_d))
    assert found is not None
    assert (found.full, found.d, found.below) == (full, d, below)
    assert found.target == pytest.approx(0.81)


@pytest.mark.parametrize(("full", "by_d"), [(None, {1: 0.5}), (0.0, {1: 0.5}), (-0.1, {1: 0.5}), (0.9, {})])
def test_without_both_sides_there_is_no_d90(full: float | None, by_d: dict[int, float]) -> None:
    assert dimension.read(cells(full, 0.5, by_d)) is None


def test_the_figure_says_what_it_reads() -> None:
    unread = dict.fromkeys(("lora_dropout", "target_modules"))
    trials = [row_trial("full", eta_A, seed, rank=None) for eta_A in (1e-5, 1e-4) for seed in (0, 1, 2)]
    trials += [
        row_trial("subspace", eta_A, seed, rank=d, lora_dropout=None)
        for d in (10, 1000) for eta_A in (1e-4, 1e-3) for seed in (0, 1, 2)
    ]  # fmt: skip
    trials += [row_trial("head", 1e-3, seed, rank=None, **unread) for seed in (0, 1, 2)]
    info = StudyInfo(name="s", seeds=(0, 1, 2), trials=tuple(trials))
    levels: dict[int | None, float] = {10: 0.7, 1000: 0.85}
    rows = frame(trials, surface=lambda t: levels.get(t.rank, {"full": 0.9}.get(t.method, 0.6)))
    drawn = figures.all_figures(rows, info)
    texts = [text.get_text() for axes in drawn["dimension"].axes for text in axes.texts]
    assert "d90 = 1,000" in texts
    assert "first reached at d90 = 1,000" in " ".join(text.get_text() for text in drawn["dimension"].texts).replace(
        "\n", " "
    )
