"""The training loop of a pack: in each step chunks whose gradients accumulate, then one clipped update of K trials."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.core import devices
from bench.core.clock import Clock, Phase
from bench.core.record import CurvePoint, known
from bench.core.spec import TrainBudget
from bench.engine import kernel_probe, kernels, waiting
from bench.engine.bank import Bank
from bench.engine.batching import Batches, Chunk
from bench.engine.chunking import RECORDED_STEPS, is_recorded
from bench.engine.graphs import Graphs, Recorder
from bench.engine.objective import Classification, Objective
from bench.engine.optim import Optimizer
from bench.engine.paths import Path, path_name
from bench.engine.scaling import LossScale, SkippingOptimizer
from bench.engine.state import Keeper, LoopState
from bench.engine.unpadded import UnpaddedPath


@dataclass(kw_only=True)
class Training:
    """What the loop has done so far. Times of the clock are the whole pack's; `diverged_step_K` is 0 while alive."""

    diverged_step_K: npt.NDArray[np.int64]
    losses_SxK: list[npt.NDArray[np.float64]] = field(default_factory=list)
    norms_SxK: list[npt.NDArray[np.float64]] = field(default_factory=list)
    curves: list[list[CurvePoint]]
    before_K: list[dict[Phase, float]]  # seconds that each trial brought along from the packs it was in before
    steps_done: int = 0
    tokens: int = 0
    examples: int = 0


class Loop:
    """Trains one pack. `evaluate` returns each trial's metric at a curve point, [K], nan where weights are broken; it
    runs outside train time. Chunks are recorded where a pack has `least_steps` steps.
    """

    def __init__(
        self, bank: Bank, path: Path, split: Batches, budget: TrainBudget, *, n_chunks: int, clock: Clock,
        evaluate: Callable[[], npt.NDArray[np.float64]], on_steps: Callable[[int], None] = lambda n: None,
        objective: Objective | None = None, keeper: Keeper | None = None, least_steps: int = RECORDED_STEPS,
    ) -> None:  # fmt: skip
        self.objective = objective or Classification(2)
        self.bank, self.path, self.split, self.budget = bank, path, split, budget
        self.n_chunks, self.clock, self.evaluate, self.on_steps = n_chunks, clock, evaluate, on_steps
        self.scale = LossScale(bank.n_trials, split.device) if budget.precision == "fp16" else None
        kind = Optimizer if self.scale is None else SkippingOptimizer
        self.optimizer = kind(bank.params, bank.trials, budget)
        self.alive_K = torch.ones(bank.n_trials, dtype=torch.bool, device=split.device)
        self.died_K = torch.zeros(bank.n_trials, dtype=torch.int64, device=split.device)  # step, from 1; 0: alive
        self.all_alive = True
        self.since: list[tuple[Tensor, Tensor]] = []  # losses and norms of the steps since the last curve point
        self.keeper = keeper
        wide = devices.widest_float(split.device)
        self._count = torch.ones((), dtype=wide, device=split.device)  # what the loss of a batch is divided by
        self._loss_K = torch.zeros(bank.n_trials, dtype=wide, device=split.device)
        apart = functools.partial(clock.apart, "compile")
        self.graphs = Graphs(self._add_alone, bank.keys, Recorder(), apart) if self._can_record(least_steps) else None
        self.state = Training(
            diverged_step_K=np.zeros(bank.n_trials, dtype=np.int64),
            curves=[[] for _ in bank.trials],
            before_K=[{} for _ in bank.trials],
        )

    def run(self, until: int | None = None) -> Training:
        """Train to step `until`, else all max_steps, or until every trial has diverged.

        A kept state goes on where it was. Whoever goes on after a pause cannot tell it happened: it adds no point to
        the curves, and where it falls on one, those that go on are evaluated.
        """
        budget, state = self.budget, self.state
        end = budget.max_steps if until is None else until
        if self.keeper is not None and (found := self.keeper.find()) is not None and found.fits(self.state_dict()):
            self.load_state_dict(found)
        batches = self.split.order(
            seed=self.bank.trials[0].seed,
            batch_size=budget.batch_size,
            max_steps=budget.max_steps,
            share=budget.train_share,
        )
        self._evaluate_left_over()
        left = itertools.islice(batches, state.steps_done, end)
        while state.steps_done < end:
            with self.clock.phase("train"):
                at_point = self._to_next_stop(left)
            if at_point:
                pauses = state.steps_done == end < budget.max_steps
                self._add_points(len(self.since), evaluated=not pauses)
                self.since = []
                self.on_steps(state.steps_done)
                if not self.alive_K.any():
                    break
            if self.keeper is not None and state.steps_done < end:
                self.keeper.after_step(self.state_dict)
        return state

    def _to_next_stop(self, batches: Iterator[npt.NDArray[np.int64]]) -> bool:
        """Train to the next point of the curves or until the state is to be kept; return whether it is a point.

        All of it is one phase of the clock: the host waits for a GPU at both ends of a phase.
        """
        for places in batches:
            self.since.append(self.step(places))
            if self.state.steps_done % self.budget.eval_steps == 0 or self.state.steps_done == self.budget.max_steps:
                self._look(self.since)
                return True
            if self.keeper is not None and self.keeper.is_due():
                break
        return False

    def _can_record(self, least_steps: int) -> bool:
        """Return whether chunks are recorded: of classifiers, by what `is_recorded` says."""
        return isinstance(self.objective, Classification) and is_recorded(
            self.budget, device_kind=self.split.device.type, unpadded=isinstance(self.path, UnpaddedPath),
            least_steps=least_steps,
        )  # fmt: skip

    @property
    def engine_path(self) -> str:
        """Return a row's engine_path: the way through the model, if chunks were recorded, what kernels were refused."""
        parts = [path_name(self.path, self.bank)]
        if self.graphs is not None:
            parts.append("recorded" if self.graphs.problem is None else f"not recorded: {self.graphs.problem}")
        names = kernels.NAMES if isinstance(self.path, UnpaddedPath) else kernels.ANYWHERE
        return ", ".join([*parts, *kernel_probe.refused(self.split.device, names)])

    def recent_loss(self) -> npt.NDArray[np.float64]:
        """Return each trial's training loss, its mean over the later half of the steps done: [K]."""
        self.state.diverged_step_K = self.died_K.cpu().numpy()
        since = [loss_K.cpu().numpy().astype(np.float64) for loss_K, _ in self.since]
        losses_SxK = np.stack([*self.state.losses_SxK, *since])
        return np.asarray(losses_SxK[len(losses_SxK) // 2 :].mean(axis=0))

    def step(self, places: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Do one step on the examples at `places` [batch]; return each trial's mean loss and gradient norm.

        Both are [K] on the device, the loss in its widest type, the norm before clipping; either may not be finite.
        """
        self.bank.keys.step = self.state.steps_done
        self.bank.params.zero_grad()
        loss_K = self._accumulate(places)
        norm_K = self.optimizer.clip()
        self.optimizer.step(self._updated(loss_K, norm_K), all_alive=self.all_alive)
        self.state.steps_done += 1
        self.state.examples += len(places)
        self.state.tokens += int(self.split.lengths[places].sum())
        return loss_K, norm_K

    def _accumulate(self, places: npt.NDArray[np.int64]) -> Tensor:
        """Add up the gradients of the batch's chunks: the mean over the batch for each trial, then the sum of trials.

        A mean over all rows would divide each trial's gradient by K, which AdamW hides but clipping and eps do not.
        """
        self._count.fill_(self.objective.count(self.split, places))
        self._loss_K.zero_()
        chunks = self.split.chunks(places, self.n_chunks)
        if self.graphs is not None:
            for chunk in chunks:
                self.graphs.run(chunk)
        else:
            with self.bank.training():
                for chunk in chunks:
                    self._add(chunk)
        if self.scale is not None:
            self.bank.params.scale_grads(1 / self.scale.scale_K)
        return self._loss_K.clone()

    def _add(self, chunk: Chunk) -> None:
        """Add a chunk's gradients, and its part of each trial's mean loss."""
        loss_K = self.objective.summed_loss(self.path, chunk) / self._count
        (loss_K if self.scale is None else loss_K * self.scale.scale_K).sum().backward()
        self._loss_K += loss_K.detach()

    def _add_alone(self, chunk: Chunk) -> None:
        with self.bank.training():
            self._add(chunk)

    def _updated(self, loss_K: Tensor, norm_K: Tensor) -> Tensor:
        """Return which trials are updated in this step, [K]; switch off those that have diverged.

        That is a loss or gradient which is not finite; with a loss scale, a gradient that overflows whatever the scale,
        since one that overflows at this scale only skips the update.
        """
        finite_K = torch.isfinite(norm_K)
        if self.scale is None:
            good_K = finite_K
        else:
            self.scale.update(~finite_K)
            good_K = ~self.scale.exhausted()
        self.alive_K = self.alive_K & torch.isfinite(loss_K) & good_K
        self.died_K = torch.where(self.alive_K | (self.died_K > 0), self.died_K, self.state.steps_done + 1)
        self.all_alive = waiting.may_ask(self.split.device) and bool(self.alive_K.all())
        return self.alive_K & finite_K

    def _look(self, since: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Bring losses, norms and the steps at which trials died to the host."""
        self.state.losses_SxK += list(torch.stack([loss for loss, _ in since]).cpu().numpy().astype(np.float64))
        self.state.norms_SxK += list(torch.stack([norm for _, norm in since]).cpu().numpy().astype(np.float64))
        self.state.diverged_step_K = self.died_K.cpu().numpy()

    def _add_points(self, n_steps: int, *, evaluated: bool) -> None:
        """Add a point to the curve of every trial that is alive, without its metric where a pause begins."""
        metric_K = self.evaluate() if evaluated else np.full(self.bank.n_trials, np.nan)
        mean_K = np.stack(self.state.losses_SxK[-n_steps:]).mean(axis=0)
        share = (self.clock.seconds("train") or 0.0) / self.bank.n_trials
        for k, curve in enumerate(self.state.curves):
            if self.state.diverged_step_K[k] == 0:
                point = CurvePoint(
                    step=self.state.steps_done, train_seconds=share + self.state.before_K[k].get("train", 0.0),
                    train_loss=float(mean_K[k]),
                    metric_value=known(metric_K[k]),
                )  # fmt: skip
                curve.append(point)

    def _evaluate_left_over(self) -> None:
        """Put the metric into the points at this step that a pause has left without."""
        points = {k: curve[-1] for k, curve in enumerate(self.state.curves) if curve}
        owed = [k for k, at in points.items() if at.step == self.state.steps_done and at.metric_value is None]
        metric_K = self.evaluate() if owed else np.empty(0)
        for k in owed:
            self.state.curves[k][-1] = replace(points[k], metric_value=known(metric_K[k]))

    def state_dict(self) -> LoopState:
        """Return all that a later `load_state_dict` needs to go on bitwise: batches and masks follow from the step."""
        state = self.state
        numbers = {
            "steps_done": state.steps_done,
            "updates": self.optimizer.steps_done,
            "tokens": state.tokens,
            "examples": state.examples,
            "all_alive": self.all_alive,
            "diverged_step_K": state.diverged_step_K.tolist(),
            "curves": [[asdict(point) for point in curve] for curve in state.curves],
            "seconds": self.clock.all_seconds(),
            "before_K": state.before_K,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        return LoopState(tensors=tensors, numbers=numbers)

    def _tensors(self) -> dict[str, Tensor]:
        found = {"values": self.bank.params.values, "alive_K": self.alive_K, "died_K": self.died_K}
        found |= self.optimizer.tensors()
        if self.scale is not None:
            found |= {"scale_K": self.scale.scale_K, "good_K": self.scale.good_K}
        if self.state.losses_SxK:
            found["losses_SxK"] = torch.from_numpy(np.stack(self.state.losses_SxK))
            found["norms_SxK"] = torch.from_numpy(np.stack(self.state.norms_SxK))
        if self.since:
            found["since_losses_SxK"] = torch.stack([loss for loss, _ in self.since])
            found["since_norms_SxK"] = torch.stack([norm for _, norm in self.since])
        return found

    def load_state_dict(self, kept: LoopState) -> None:
        """Put everything back; the parameters are parts of one buffer, which is therefore filled, not replaced."""
        state, optimizer, device = self.state, self.optimizer, self.split.device
        tensors, numbers = kept.tensors, kept.numbers
        with torch.no_grad():
            self.bank.params.values.copy_(tensors["values"])
            for name, mine in optimizer.tensors().items():
                mine.copy_(tensors[name])
        self.alive_K, self.died_K = tensors["alive_K"].to(device), tensors["died_K"].to(device)
        if self.scale is not None:
            self.scale.scale_K, self.scale.good_K = tensors["scale_K"].to(device), tensors["good_K"].to(device)
        if "since_losses_SxK" in tensors:
            pairs = zip(tensors["since_losses_SxK"].to(device), tensors["since_norms_SxK"].to(device), strict=True)
            self.since = list(pairs)
        optimizer.steps_done, self.all_alive = numbers["updates"], numbers["all_alive"]
        state.steps_done, state.tokens, state.examples = numbers["steps_done"], numbers["tokens"], numbers["examples"]
        state.diverged_step_K = np.array(numbers["diverged_step_K"], dtype=np.int64)
        if "losses_SxK" in tensors:
            state.losses_SxK, state.norms_SxK = list(tensors["losses_SxK"].numpy()), list(tensors["norms_SxK"].numpy())
        state.curves = [[CurvePoint(**point) for point in curve] for curve in numbers["curves"]]
        state.before_K = [dict(seconds) for seconds in numbers["before_K"]]
        self.clock.add(numbers["seconds"])
