"""The LoRA+ paper's own toy (Hayou et al. 2024, arXiv:2402.12354, figure 2, appendix C.1.1): its data and weights.

f(x) = W_out relu(B A relu(W_in x)), of which A and B are trained by full-batch gradient descent. Everything is drawn
from the trial's seed with numpy, so that neither device nor torch's version changes it. Nothing here trains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bench import methods
from bench.core import seeds
from bench.core.errors import BadInput
from bench.core.spec import TrainBudget, Trial
from bench.models.mlp import MODEL_TYPE as MODEL_TYPE
from bench.models.mlp import N_INPUTS as N_INPUTS
from bench.models.mlp import WIDTH as WIDTH

KIND = "toy"
N_TRAIN, N_EVAL = 1000, 100
LAYER = "hidden"  # the one that B A is: its frozen weight is 0
DRAW_VERSION = 1  # part of the data hash: raised when the same seed draws other numbers

Floats = npt.NDArray[np.float64]
Target = Literal["sine", "mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyData:
    """Which data a toy task has. The examples themselves are drawn for each seed (`draw`)."""

    target: Target
    train: range = range(N_TRAIN)
    eval: range = range(N_EVAL)

    @property
    def data_hash(self) -> str:
        """16 hex digits over the target and what seed 0 draws."""
        digest = hashlib.sha256(json.dumps([DRAW_VERSION, self.target, N_INPUTS, N_TRAIN, N_EVAL]).encode())
        for split in (draw(0).train, draw(0).eval):
            digest.update(split.x_NxD.tobytes() + split.y_N.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """One split: x ~ N(0, I), [N, D], and y = sin(mean of x), [N]."""

    x_NxD: Floats
    y_N: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What a seed draws beside A and B."""

    train: Examples
    eval: Examples
    w_in_HxD: Floats  # N(0, 1)
    w_out_H: Floats  # N(0, 1 / H)


def draw(seed: int) -> Draw:
    """Return the data and the frozen weights of a seed."""
    return Draw(
        train=_examples(seed, "train", N_TRAIN),
        eval=_examples(seed, "eval", N_EVAL),
        w_in_HxD=_normal((WIDTH, N_INPUTS), "w_in", seed),
        w_out_H=_normal((WIDTH,), "w_out", seed) / WIDTH**0.5,
    )


def factors(trial: Trial) -> tuple[Floats, Floats]:
    """Return a trial's initial A, [R, H], ~ N(0, 1 / H), and B, [H, R], ~ N(0, 1): the same in all cells of a seed.

    Under init zero_A or zero_B that factor is 0, and the network dead for ever: relu has the slope 0 at 0.
    """
    rank = int(trial.rank or 0)
    A_RxH = _normal((rank, WIDTH), "A", trial.seed, rank) / WIDTH**0.5
    B_HxR = _normal((WIDTH, rank), "B", trial.seed, rank)
    return A_RxH * (trial.init != "zero_A"), B_HxR * (trial.init != "zero_B")


def fitted(y_N: Floats, target: Target) -> tuple[Floats, float]:
    """Return the target that the gradient sees, [N], and what is added to its mean squared error.

    "sine" is the specification: y, and 0. "mean" is what subtracting targets [N] from outputs [N, 1] does in numpy and
    torch: mean over i and j of (f_i - y_j)^2 = mean over i of (f_i - mean y)^2, plus the variance of y.
    """
    if target == "sine":
        return y_N, 0.0
    return np.full_like(y_N, y_N.mean()), float(y_N.var())


def trivial_loss(seed: int, split: Literal["train", "eval"]) -> float:
    """Return the loss of the predictor that is 0 everywhere: the mean of y^2, under either target."""
    y_N = getattr(draw(seed), split).y_N
    return float(np.mean(y_N**2))


def check(kind: str, model_type: str, trials: Iterable[Trial]) -> None:
    """Refuse the toy's task without its model, the reverse, and settings that gradient descent on it does not have.

    Raises:
        BadInput: naming the setting.
    """
    if (kind == KIND) != (model_type == MODEL_TYPE):
        rule = "the toy's tasks and its model must go together"
        raise BadInput("model", rule, got=f"task kind {kind}, model type {model_type}", way_out="leave --model out")
    if kind != KIND:
        return
    for trial in {(t.method, t.init, t.rank, t.target_modules, t.lora_dropout, t.budget): t for t in trials}.values():
        for name, known, got in (*_rules(trial), *_budget_rules(trial.budget)):
            if got not in known:
                words = " or ".join(str(value) for value in known)
                raise BadInput(name, f"must be {words} on the toy", got=got, way_out="leave it as the study has it")
        if not 1 <= (trial.rank or 0) <= WIDTH:
            raise BadInput("rank", f"must be 1 to {WIDTH} on the toy", got=trial.rank, way_out="lower it")


def _rules(trial: Trial) -> tuple[tuple[str, tuple[Any, ...], Any], ...]:
    return (
        ("method", methods.FAMILY, trial.method),
        ("target_modules", ((LAYER,), LAYER), trial.target_modules),
        ("layers_to_transform", (None,), trial.layers_to_transform),
        ("lora_dropout", (0.0,), trial.lora_dropout),
    )


def _budget_rules(budget: TrainBudget) -> tuple[tuple[str, tuple[Any, ...], Any], ...]:
    return (
        ("optimizer", ("sgd",), budget.optimizer),
        ("batch_size", (N_TRAIN,), budget.batch_size),
        ("lr_scheduler_type", ("constant",), budget.lr_scheduler_type),
        ("warmup_steps", (0,), budget.warmup_steps),
        ("weight_decay", (0.0,), budget.weight_decay),
        ("max_grad_norm", (None,), budget.max_grad_norm),
        ("precision", ("fp32", "fp64"), budget.precision),
        ("n_select", (0,), budget.n_select),
    )


def _examples(seed: int, split: str, n: int) -> Examples:
    x_NxD = _normal((n, N_INPUTS), split, seed)
    return Examples(x_NxD=x_NxD, y_N=np.sin(x_NxD.mean(axis=1)))


def _normal(shape: tuple[int, ...], name: str, *key: int) -> Floats:
    """Return numbers ~ N(0, 1) that depend on the name and the key alone."""
    return np.random.default_rng(seeds.derive("toy", name, *key)).standard_normal(shape)
