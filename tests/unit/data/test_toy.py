"""The toy: its gradient, its variants, divergence, and that a pack is its members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cli, models, store, study, tasks
from bench.core.clock import Clock
from bench.core.errors import BadInput
from bench.core.record import Outcome, Status
from bench.core.spec import Pack, Trial
from bench.data import toy
from bench.engine import toy as engine
from bench.engine.optim import Optimizer
from bench.engine.params import ParamBank, Slot
from bench.methods._base import Role
from bench.models import _targets as targets

CPU = torch.device("cpu")


def trials(task: str = "toy", **options: str) -> tuple[Trial, ...]:
    """The trials of a toy study; `options` are those of the command line."""
    loaded = study.load(overrides={"task": task, **options})
    located, data = models.locate(loaded.model), tasks.load(tasks.get(task))
    made = study.expand(
        loaded, data_hash=data.data_hash, model_hash=located.model_hash, default_targets=(), model_name=located.name
    )
    toy.check(toy.KIND, located.model_type, made)
    return made


def run(members: tuple[Trial, ...], target: toy.Target = "sine") -> list[Outcome]:
    return engine.run_pack(Pack(trials=members), toy.ToyData(target=target), device=CPU, clock=Clock())


def small(**more: str) -> tuple[Trial, ...]:
    rates = {"eta_A": "1e-3,1e-2", "eta_B": "1e-2,1e-1", "seeds": "0", "max_steps": "20", "precision": "fp64"}
    return trials(**{**rates, **more})


def loss(A: torch.Tensor, B: torch.Tensor, split: toy.Examples, drawn: toy.Draw, target: str) -> torch.Tensor:
    """The network as the paper writes it, by autograd; the mean target as the accident it is taken for."""
    x, y = torch.from_numpy(split.x_NxD), torch.from_numpy(split.y_N)
    w_in, w_out = torch.from_numpy(drawn.w_in_HxD), torch.from_numpy(drawn.w_out_H)
    out = torch.relu(torch.relu(x @ w_in.T) @ A.T @ B.T) @ w_out[:, None]  # [N, 1]
    return torch.square(out - (y if target == "mean" else y[:, None])).mean()


@pytest.mark.parametrize("target", ["sine", "mean"])
def test_a_trial_is_autograd_s_gradient_descent(target: toy.Target) -> None:
    (one,) = small(eta_A="3e-3", eta_B="5e-2")
    (outcome,) = run((one,), target)
    drawn = toy.draw(one.seed)
    A, B = (torch.from_numpy(x).requires_grad_() for x in toy.factors(one))
    for _ in range(20):
        dA, dB = torch.autograd.grad(loss(A, B, drawn.train, drawn, target), (A, B))
        with torch.no_grad():
            A -= one.eta_A * dA
            B -= (one.eta_B or 0) * dB
    assert outcome.train_loss == pytest.approx(loss(A, B, drawn.train, drawn, target).item(), rel=1e-12)
    assert outcome.eval_loss == pytest.approx(loss(A, B, drawn.eval, drawn, target).item(), rel=1e-12)
    assert outcome.metric_value == outcome.eval_loss
    assert [p.step for p in outcome.curve] == [10, 20]
    assert outcome.curve[-1].train_loss == outcome.train_loss


def test_the_update_is_that_of_the_project_s_own_optimizer() -> None:
    members = small()
    after = engine.Descent(Pack(trials=members), toy.ToyData(target="sine"), CPU)
    A, B = after.A.clone(), after.B.clone()
    gradient = engine.gradients(after.train, engine.forward(after.train, A, B))
    slots = [Slot(name="A", role=Role.A, values=A), Slot(name="B", role=Role.B, values=B)]
    bank = ParamBank(slots, n_trials=len(members), device=CPU, dtype=torch.float64)
    for name, grad in zip("AB", gradient, strict=True):
        bank[name].grad.copy_(grad)  # type: ignore[union-attr]
    Optimizer(bank, members, members[0].budget).step(torch.ones(len(members), dtype=torch.bool), all_alive=True)
    after.step()
    torch.testing.assert_close(after.A, bank["A"].detach(), rtol=0, atol=0)
    torch.testing.assert_close(after.B, bank["B"].detach(), rtol=0, atol=0)


def test_a_pack_is_its_members_and_divergence_touches_no_neighbour() -> None:
    members = small(eta_A="1e-3,1e-2,10", eta_B="1e-2,1e-1,10", max_steps="40")
    together = run(members)
    alone = [run((one,))[0] for one in members]
    assert {o.status for o in together} == {Status.OK, Status.DIVERGED}
    for a, b in zip(together, alone, strict=True):
        assert (a.status, a.diverged_step, a.steps_done) == (b.status, b.diverged_step, b.steps_done)
        assert len(a.curve) == len(b.curve)
        for p, q in zip(a.curve, b.curve, strict=True):
            assert p.metric_value == pytest.approx(q.metric_value, rel=1e-9)
    gone = [o for o in together if o.status is Status.DIVERGED]
    assert all(o.metric_value is None and o.eval_loss is None and o.reason for o in gone)
    assert all(o.steps_done == (o.diverged_step or 0) - 1 for o in gone)
    assert run(members)[0].eval_loss == together[0].eval_loss


def test_more_trials_than_a_chunk_and_mixed_ranks() -> None:
    members = small(eta_A="1e-3,2e-3,3e-3,4e-3,5e-3", eta_B="1e-2,2e-2", rank="1,4", max_steps="10")
    assert len(members) > engine.CHUNK["cpu"]
    for one, outcome in list(zip(members, run(members), strict=True))[::7]:
        assert outcome.eval_loss == pytest.approx(run((one,))[0].eval_loss, rel=1e-9)
        assert outcome.n_trainable == 2 * 100 * (one.rank or 0)


@pytest.mark.parametrize("init", ["zero_A", "zero_B"])
def test_a_zero_product_is_dead_for_ever(init: str) -> None:
    for outcome in run(small(init=init)):
        for point in outcome.curve:
            assert point.train_loss == pytest.approx(toy.trivial_loss(0, "train"), rel=1e-12)
            assert point.metric_value == pytest.approx(toy.trivial_loss(0, "eval"), rel=1e-12)


def test_the_trivial_predictor_s_loss_is_near_its_expectation() -> None:
    """y = sin(u), u ~ N(0, 1/5): E y^2 = (1 - exp(-2/5)) / 2 = 0.1648."""
    losses = [toy.trivial_loss(seed, "train") for seed in range(20)]
    assert np.mean(losses) == pytest.approx((1 - np.exp(-0.4)) / 2, abs=3 * np.std(losses) / 20**0.5)


def test_seeds_differ_cells_of_a_seed_share_their_start_and_the_hash_is_pinned() -> None:
    one, other = (toy.factors(t) for t in small()[:2])
    assert (one[0] == other[0]).all()
    assert (toy.factors(replace(small()[0], seed=1))[0] != one[0]).any()
    assert (toy.draw(0).train.y_N != toy.draw(1).train.y_N).any()
    assert toy.ToyData(target="sine").data_hash != toy.ToyData(target="mean").data_hash
    assert toy.ToyData(target="sine").data_hash == toy.ToyData(target="sine").data_hash


def test_init_has_the_paper_s_scales() -> None:
    (one,) = small(eta_A="1e-3", eta_B="1e-2", rank="100")
    A, B = toy.factors(one)
    drawn = toy.draw(0)
    assert A.std() == pytest.approx(0.1, rel=0.05)
    assert B.std() == pytest.approx(1.0, rel=0.05)
    assert drawn.w_in_HxD.std() == pytest.approx(1.0, rel=0.15)
    assert drawn.w_out_H.std() == pytest.approx(0.1, rel=0.25)


def test_the_study_is_the_whole_grid() -> None:
    for task in ("toy", "toy-mean"):
        made = trials(task)
        assert len(made) == 46 * 46 * 3
        rates = np.array(sorted({t.eta_A for t in made}))
        np.testing.assert_allclose(rates, np.logspace(-4, 1, 46), rtol=1e-11)
        assert sorted({t.eta_B for t in made}) == list(rates)
        assert sum(t.method == "lora" for t in made) == 46 * 3
        assert {t.init for t in made} == {"nonzero"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"precision": "bf16"}, "precision: must be fp32 or fp64 on the toy, but got bf16"),
        ({"batch_size": "32"}, "batch_size: must be 1000 on the toy"),
        ({"lora_dropout": "0.1"}, "lora_dropout: must be 0.0 on the toy"),
        ({"rank": "101"}, "rank: must be 1 to 100 on the toy, but got 101"),
        ({"n_select": "10"}, "n_select: must be 0 on the toy"),
    ],
)
def test_settings_that_the_toy_does_not_have_are_bad_input(options: dict[str, str], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        small(**{"precision": "fp32", **options})


@pytest.mark.parametrize(("kind", "model_type"), [(toy.KIND, "bert"), (tasks.TEXT_CLASSIFICATION, toy.MODEL_TYPE)])
def test_task_and_model_go_together(kind: str, model_type: str) -> None:
    with pytest.raises(BadInput, match="the toy's tasks and its model must go together"):
        toy.check(kind, model_type, ())


def test_a_sweep_from_the_command_line_to_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = ["--eta-A", "1e-3,1e-2", "--eta-B", "1e-2,1e-1", "--seeds", "0,1", "--steps", "20"]
    assert cli.main(["sweep", "--task", "toy", *rates, "--results-dir", str(tmp_path)]) == 0
    assert "8 of 8 trials finished (0 diverged)" in capsys.readouterr().out
    table = store.load(tmp_path / "toy-mlp")
    rows = table.to_pandas()
    assert set(rows["metric_name"]) == {"eval_loss"}
    assert rows["curve"].map(lambda points: [p["step"] for p in points]).tolist() == [[10, 20]] * 8
    assert (rows["eval_loss"] == rows["metric_value"]).all()
    assert rows.loc[rows["eta_A"] == rows["eta_B"], "method"].unique().tolist() == ["lora"]
    assert {"heatmap_eta_B_nonzero.png", "curves.pdf"} <= {p.name for p in (tmp_path / "toy-mlp" / "figures").iterdir()}


def test_nothing_else_knows_the_toy_s_architecture() -> None:
    assert toy.MODEL_TYPE not in targets.DEFAULT_TARGETS
