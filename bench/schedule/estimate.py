"""How long packs will take: work in FLOP, and seconds per FLOP as the last sweep on this device measured them.

Set-up, training and evaluation have speeds of their own, so that what a short study measured holds for a long one. The
same model gives the estimate before a sweep and the time left during one. No torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import methods
from bench.core.cache import write_text
from bench.core.record import Outcome, Record
from bench.core.spec import Pack, Trial
from bench.engine.decoder_sizes import number
from bench.schedule.planner import method_of

Key = tuple[str, str, str, str, str]  # device, model, precision, method, phase
SETUP, TRAIN, EVAL = "setup", "train", "eval"

CALIBRATION_NAME = ".calibration.json"  # below the results directory
# Sustained rates assumed where nothing was measured: half of what a current 2-core CPU, a tenth of what a current GPU
# reaches on large matrices. The estimate says that it is uncalibrated.
NOMINAL_FLOP_PER_SECOND = {"cpu": 1e11, "cuda": 1e14, "mps": 1e12}


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a trial's work depends on beside its settings."""

    matmul_params: int  # P: weights in matrix products for each token (see `matmul_params`)
    train_tokens: float  # mean tokens of a training example
    n_eval: int  # examples of the evaluation split
    eval_tokens: float
    n_select: int = 0  # held-out training examples, scored once at the end


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where trials run, as far as speed goes."""

    device: str  # as in the rows
    kind: str = "cpu"  # cpu, cuda or mps


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Seconds of work, and whether every part of it rests on a measurement."""

    seconds: float
    calibrated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Seconds spent so far on so much work, by what has a speed of its own.

    The work is FLOP; of the phase setup, which does the same for every trial, the number of trials.
    """

    spent: Mapping[Key, tuple[float, float]]

    def rate(self, key: Key) -> float | None:
        """Return seconds per unit of work for a key, or None."""
        seconds, amount = self.spent.get(key, (0.0, 0.0))
        return seconds / amount if amount > 0 else None

    def rate_like(self, key: Key) -> float | None:
        """Return seconds per unit over all methods, of the key's device, model, precision and phase, or None."""
        like = [spent for other, spent in self.spent.items() if (other[:3], other[4]) == (key[:3], key[4])]
        amount = sum(each for _, each in like)
        return sum(seconds for seconds, _ in like) / amount if amount > 0 else None

    def with_pack(
        self, records: Sequence[Record], workload: Workload, place: Place, *, by_tokens: bool = False
    ) -> Calibration:
        """Return the calibration after these records: what each measured, whole trials only.

        With `by_tokens` the work is that of the tokens really seen, since a few steps differ from the mean.
        """
        spent = dict(self.spent)
        for record in records:
            if record.outcome.train_seconds is None or record.outcome.steps_done < record.trial.budget.max_steps:
                continue
            done = work_of_trial(record.trial, workload) | (_trained(record, workload) if by_tokens else {})
            for phase, seconds in _seconds_by_phase(record.outcome).items():
                key = _key(record.trial, place.device, phase)
                before = spent.get(key, (0.0, 0.0))
                spent[key] = (before[0] + seconds, before[1] + done[phase])
        return Calibration(spent=spent)

    def over(self, older: Calibration) -> Calibration:
        """Return this calibration, with `older` where this one has measured nothing."""
        return Calibration(spent={**older.spent, **self.spent})


UNCALIBRATED = Calibration(spent={})


def estimate(packs: Iterable[Pack], calibration: Calibration, workload: Workload, place: Place) -> Estimate:
    """Return how long the packs take one after another."""
    return seconds_for(work_of(packs, workload, place), calibration, place)


def work_of(packs: Iterable[Pack], workload: Workload, place: Place) -> Counter[Key]:
    """Return the work of packs, by what has a speed of its own; that of evaluation is spread evenly over the steps."""
    work: Counter[Key] = Counter()
    for pack in packs:
        for trial in pack.trials:
            share = ((pack.until or trial.budget.max_steps) - pack.start) / trial.budget.max_steps
            for phase, amount in work_of_trial(trial, workload).items():
                done = amount if phase == SETUP else amount * share
                work[_key(trial, place.device, phase)] += done  # type: ignore[assignment]
    return work


def seconds_for(work: Mapping[Key, float], calibration: Calibration, place: Place) -> Estimate:
    """Return how long so much work takes; a method not measured goes at the speed of those that were."""
    seconds, calibrated = 0.0, True
    for key, amount in work.items():
        rate = calibration.rate(key)
        calibrated = calibrated and rate is not None
        if rate is None:
            rate = calibration.rate_like(key)
        if rate is None:
            rate = 0.0 if key[4] == SETUP else 1 / NOMINAL_FLOP_PER_SECOND[place.kind]
        seconds += max(0.0, amount) * rate
    return Estimate(seconds=seconds, calibrated=calibrated)


def flop(trial: Trial, workload: Workload) -> float:
    """Return the FLOP of a whole trial, training and evaluation."""
    work = work_of_trial(trial, workload)
    return work[TRAIN] + work[EVAL]


def work_of_trial(trial: Trial, workload: Workload) -> dict[str, float]:
    """Return a trial's work by phase: one set-up; the FLOP of training; 2P FLOP for each token evaluated."""
    budget = trial.budget
    tokens = budget.max_steps * budget.batch_size * min(workload.train_tokens, budget.max_length)
    n_evals = -(-budget.max_steps // budget.eval_steps)
    n_select = workload.n_select if budget.n_select else 0
    seen = n_evals * workload.n_eval * workload.eval_tokens + n_select * workload.train_tokens
    train, evaluated = tokens * _flop_of_token(trial, workload), 2 * workload.matmul_params * seen
    return {SETUP: 1.0, TRAIN: float(train), EVAL: float(evaluated)}


def _flop_of_token(trial: Trial, workload: Workload) -> int:
    """Return what training on a token takes: 4P FLOP for adapters over a frozen base, 6P for all weights."""
    return (6 if method_of(trial.method).trains_base else 4) * workload.matmul_params


def _trained(record: Record, workload: Workload) -> dict[str, float]:
    """Return the FLOP of the tokens that a trial really saw, where its row tells."""
    outcome = record.outcome
    if outcome.tokens_per_second is None or outcome.train_seconds is None:
        return {}
    return {TRAIN: outcome.tokens_per_second * outcome.train_seconds * _flop_of_token(record.trial, workload)}


def _seconds_by_phase(outcome: Outcome) -> dict[str, float]:
    """Return a trial's share of its pack's time; a phase that never ran took no time."""
    setup = (outcome.setup_seconds or 0.0) + (outcome.compile_seconds or 0.0)
    return {SETUP: setup, TRAIN: outcome.train_seconds or 0.0, EVAL: outcome.eval_seconds or 0.0}


def matmul_params(config: Mapping[str, object]) -> int:
    """Return P of a transformer from its config.json: 4 h^2 + 2 h f for each of its layers (h hidden, f inner size)."""
    hidden = number(config, "hidden_size", "dim", "n_embd")
    n_layers = number(config, "num_hidden_layers", "n_layers", "n_layer")
    inner = number(config, "intermediate_size", "hidden_dim", "n_inner") or 4 * hidden
    return n_layers * (4 * hidden**2 + 2 * hidden * inner)


def read_calibration(results_dir: Path) -> Calibration:
    """Return what the last sweeps below this directory measured; a file that cannot be read counts as none."""
    try:
        rows = json.loads((results_dir / CALIBRATION_NAME).read_text(encoding="utf-8"))
        spent = {
            (str(r["device"]), str(r["model"]), str(r["precision"]), str(r["method"]), str(r["phase"])): (
                float(r["seconds"]),
                float(r["work"]),
            )
            for r in rows
        }
    except (OSError, ValueError, KeyError, TypeError):
        return UNCALIBRATED  # it is a cache: the estimate then says that it is uncalibrated
    return Calibration(spent=spent)


def write_calibration(results_dir: Path, calibration: Calibration) -> None:
    """Keep a calibration for the next sweep."""
    names = ("device", "model", "precision", "method", "phase", "seconds", "work")
    rows = [dict(zip(names, (*key, *spent), strict=True)) for key, spent in sorted(calibration.spent.items())]
    write_text(results_dir / CALIBRATION_NAME, json.dumps(rows, indent=1))


def _key(trial: Trial, device: str, phase: str) -> Key:
    return (device, trial.model, trial.budget.precision, methods.identity(trial).series.replace("-", "/"), phase)
