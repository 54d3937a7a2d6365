"""Full-batch gradient descent on the toy of `bench.data.toy`, thousands of trials at once.

With z = A relu(W_in x), u = B z and the mask m = 1[u > 0], the output is f = w_out . relu(u) = s . z, where
s = sum over h of m_h w_out_h B_h is also the slope df/dz. So one masked product gives outputs and the gradient of A,
and neither relu(u) nor the gradient of u is ever computed. Trials that diverged leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.core.clock import Clock
from bench.core.record import CurvePoint, Outcome, Status, known
from bench.core.spec import Pack
from bench.data import toy
from bench.methods.lora import scaling

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
CHUNK = {"cpu": 16, "cuda": 512}  # trials in one product: what a CPU's second cache nearly holds
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One split as the network's second layer sees it, on the device."""

    hidden_HxN: Tensor  # relu(W_in x)
    hidden_NxH: Tensor  # the same numbers, laid out for the other product
    w_out_H: Tensor
    fitted_N: Tensor  # the target that the gradient sees
    floor: float  # what the loss is when that is met: see `toy.fitted`

    @classmethod
    def of(cls, drawn: toy.Draw, examples: toy.Examples, target: toy.Target, like: Tensor) -> Problem:
        """Return a split of a seed with the type and device of `like`."""
        hidden_NxH = torch.from_numpy(examples.x_NxD @ drawn.w_in_HxD.T).clamp(min=0).to(like)
        fitted_N, floor = toy.fitted(examples.y_N, target)
        return cls(
            hidden_HxN=hidden_NxH.T.contiguous(),
            hidden_NxH=hidden_NxH,
            w_out_H=torch.from_numpy(drawn.w_out_H).to(like),
            fitted_N=torch.from_numpy(fitted_N).to(like),
            floor=floor,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """What a forward pass over a split leaves for the gradient."""

    z_KxRxN: Tensor
    mask_KxHxN: Tensor
    slope_KxRxN: Tensor  # df / dz
    error_KxN: Tensor  # f - target


def forward(problem: Problem, A_KxRxH: Tensor, B_KxHxR: Tensor) -> Forward:
    """Return the outputs' errors over a split, and what they were made from; B comes scaled."""
    K, R, H = A_KxRxH.shape
    z_KxRxN = (A_KxRxH.reshape(K * R, H) @ problem.hidden_HxN).view(K, R, -1)
    mask_KxHxN = torch.bmm(B_KxHxR, z_KxRxN).gt_(0)
    weighted_KxRxH = (B_KxHxR * problem.w_out_H[:, None]).transpose(1, 2)
    slope_KxRxN = torch.bmm(weighted_KxRxH, mask_KxHxN)
    error_KxN = (slope_KxRxN * z_KxRxN).sum(1) - problem.fitted_N
    return Forward(z_KxRxN=z_KxRxN, mask_KxHxN=mask_KxHxN, slope_KxRxN=slope_KxRxN, error_KxN=error_KxN)


def gradients(problem: Problem, seen: Forward) -> tuple[Tensor, Tensor]:
    """Return the gradients of the mean squared error, of A, [K, R, H], and of B, [K, H, R]."""
    K, R, N = seen.z_KxRxN.shape
    pull_Kx1xN = (seen.error_KxN * (2 / N))[:, None]
    dA_KxRxH = ((seen.slope_KxRxN * pull_Kx1xN).reshape(K * R, N) @ problem.hidden_NxH).view(K, R, -1)
    dB_KxHxR = torch.bmm(seen.mask_KxHxN, (seen.z_KxRxN * pull_Kx1xN).transpose(1, 2)) * problem.w_out_H[:, None]
    return dA_KxRxH, dB_KxHxR


class Descent:
    """The trials of one pack on their way down; those that diverged are no longer among `places`."""

    def __init__(self, pack: Pack, data: toy.ToyData, device: torch.device) -> None:
        trial = pack.trials[0]
        like = torch.empty(0, dtype=DTYPES[trial.budget.precision], device=device)
        drawn = toy.draw(trial.seed)
        self.train = Problem.of(drawn, drawn.train, data.target, like)
        self.eval = Problem.of(drawn, drawn.eval, data.target, like)
        self.chunk = CHUNK.get(device.type, CHUNK["cpu"])
        self.A, self.B = _stacked(pack, like)
        self.scale = _column([scaling(t) for t in pack.trials], like)
        self.eta_A = _column([t.eta_A for t in pack.trials], like)
        self.eta_B = _column([t.eta_A if t.eta_B is None else t.eta_B for t in pack.trials], like)
        self.places = torch.arange(pack.size, device=device)  # in the pack

    @torch.no_grad()
    def step(self) -> tuple[Tensor, Tensor]:
        """Move every trial by one update; return the loss before it, and whether loss and gradient were finite.

        Both are [trials still there], on the device.
        """
        losses, finite = [], []
        for rows in self._chunks():
            A, B, scale = self.A[rows], self.B[rows], self.scale[rows]
            seen = forward(self.train, A, B * scale)
            dA, dB = gradients(self.train, seen)
            losses.append(self._loss(self.train, seen))
            dB.mul_(scale)
            norms = torch.linalg.vector_norm(dA, dim=(1, 2)) + torch.linalg.vector_norm(dB, dim=(1, 2))
            finite.append(torch.isfinite(losses[-1]) & torch.isfinite(norms))
            A.sub_(self.eta_A[rows] * dA)
            B.sub_(self.eta_B[rows] * dB)
        return torch.cat(losses), torch.cat(finite)

    @torch.no_grad()
    def losses(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return every trial's mean loss over a split, [K], and its standard error over the examples, [K]."""
        means, errors = [], []
        for rows in self._chunks():
            seen = forward(problem, self.A[rows], self.B[rows] * self.scale[rows])
            means.append(self._loss(problem, seen))
            errors.append(seen.error_KxN.square().std(dim=1) / seen.error_KxN.shape[1] ** 0.5)
        return torch.cat(means), torch.cat(errors)

    def keep(self, alive: Tensor) -> None:
        """Drop all trials from the batch that `alive`, bool [trials still there], does not name."""
        for name in ("A", "B", "scale", "eta_A", "eta_B", "places"):
            setattr(self, name, getattr(self, name)[alive])

    def _chunks(self) -> list[slice]:
        n = len(self.places)
        return [slice(start, min(n, start + self.chunk)) for start in range(0, n, self.chunk)]

    def _loss(self, problem: Problem, seen: Forward) -> Tensor:
        return seen.error_KxN.square().mean(dim=1) + problem.floor


@dataclass(kw_only=True)
class Course:
    """What is known of each trial of a pack: its losses after points[i] updates (nan: not reached), where it ended."""

    points: tuple[int, ...]
    train_PxK: Floats
    eval_PxK: Floats
    stderr_PxK: Floats
    seconds_P: Floats  # of training, the whole pack's
    diverged_step_K: npt.NDArray[np.int64]  # 0: it did not

    @classmethod
    def empty(cls, points: tuple[int, ...], n_trials: int) -> Course:
        """Return a course without a point."""
        nothing = np.full((3, len(points), n_trials), np.nan)
        return cls(
            points=points,
            train_PxK=nothing[0],
            eval_PxK=nothing[1],
            stderr_PxK=nothing[2],
            seconds_P=np.zeros(len(points)),
            diverged_step_K=np.zeros(n_trials, dtype=np.int64),
        )


def run_pack(
    pack: Pack,
    data: toy.ToyData,
    *,
    device: torch.device,
    clock: Clock,
    on_steps: Callable[[int], None] = lambda n: None,
) -> list[Outcome]:
    """Train and evaluate the trials of a pack, all of one seed; return their outcomes in slot order."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with clock.phase("setup"):
        descent = Descent(pack, data, device)
    budget = pack.trials[0].budget
    points = tuple(sorted({*range(budget.eval_steps, budget.max_steps + 1, budget.eval_steps), budget.max_steps}))
    course = Course.empty(points, pack.size)
    for t in range(budget.max_steps):
        with clock.phase("train"):
            _, finite = descent.step()
            if not finite.all():
                course.diverged_step_K[descent.places[~finite].cpu().numpy()] = t + 1
                descent.keep(finite)
        if not len(descent.places):
            break
        if t + 1 in points:
            _look(descent, course, points.index(t + 1), clock)
            on_steps(t + 1)
    return [_outcome(k, pack, course, clock, started_at) for k in range(pack.size)]


def _look(descent: Descent, course: Course, i: int, clock: Clock) -> None:
    """Add point i: both losses after the update that has just been made, outside train time."""
    with clock.phase("eval"):
        places = descent.places.cpu().numpy()
        (train_K, _), (eval_K, stderr_K) = descent.losses(descent.train), descent.losses(descent.eval)
        course.train_PxK[i, places] = train_K.cpu().numpy()
        course.eval_PxK[i, places] = eval_K.cpu().numpy()
        course.stderr_PxK[i, places] = stderr_K.cpu().numpy()
        course.seconds_P[i] = clock.seconds("train") or 0.0


def _outcome(k: int, pack: Pack, course: Course, clock: Clock, started_at: str) -> Outcome:
    trial, last = pack.trials[k], len(course.points) - 1
    train, held, stderr = (float(x[last, k]) for x in (course.train_PxK, course.eval_PxK, course.stderr_PxK))
    diverged = int(course.diverged_step_K[k])
    if not diverged and not (np.isfinite(train) and np.isfinite(held)):
        diverged = course.points[-1]
    curve = _curve(k, course, pack.size)
    n_trained = 2 * toy.WIDTH * int(trial.rank or 0)
    return Outcome(
        status=Status.DIVERGED if diverged else Status.OK,
        reason=f"loss or gradient not finite at step {diverged}" if diverged else None,
        metric_name="eval_loss",
        metric_value=None if diverged else held,
        metric_stderr=None if diverged else known(stderr),
        best_metric=None if diverged else min(p.metric_value for p in curve if p.metric_value is not None),
        n_eval=toy.N_EVAL,
        train_loss=None if diverged else train,
        eval_loss=None if diverged else held,
        steps_done=diverged - 1 if diverged else course.points[-1],
        diverged_step=diverged or None,
        n_trainable=n_trained,
        n_total=n_trained + toy.WIDTH * (toy.N_INPUTS + 1),
        setup_seconds=_share(clock.seconds("setup"), pack.size),
        train_seconds=_share(clock.seconds("train"), pack.size),
        eval_seconds=_share(clock.seconds("eval"), pack.size),
        timing_mode="pack_share",
        engine_path="toy",
        curve=curve,
        started_at=started_at,
    )


def _curve(k: int, course: Course, n_trials: int) -> tuple[CurvePoint, ...]:
    reached = np.flatnonzero(np.isfinite(course.train_PxK[:, k]) & np.isfinite(course.eval_PxK[:, k]))
    return tuple(
        CurvePoint(
            step=course.points[i],
            train_seconds=float(course.seconds_P[i]) / n_trials,
            train_loss=float(course.train_PxK[i, k]),
            metric_value=float(course.eval_PxK[i, k]),
        )
        for i in reached
    )


def _stacked(pack: Pack, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return A, [K, R, H], and B, [K, H, R]; short ranks are padded with zeros, whose gradients are zero."""
    largest = max(int(trial.rank or 0) for trial in pack.trials)
    A_KxRxH = np.zeros((pack.size, largest, toy.WIDTH))
    B_KxHxR = np.zeros((pack.size, toy.WIDTH, largest))
    drawn = {(t.rank, t.init): toy.factors(t) for t in {(t.rank, t.init): t for t in pack.trials}.values()}
    for k, trial in enumerate(pack.trials):
        rank = int(trial.rank or 0)
        A_KxRxH[k, :rank], B_KxHxR[k, :, :rank] = drawn[trial.rank, trial.init]
    return torch.from_numpy(A_KxRxH).to(like), torch.from_numpy(B_KxHxR).to(like)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(like)[:, None, None]


def _share(seconds: float | None, n_trials: int) -> float | None:
    return None if seconds is None else seconds / n_trials
