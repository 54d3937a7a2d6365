"""How long packs will take: work in FLOP, and seconds per FLOP as the last sweep on this device measured them.

The same model gives the estimate before a sweep and the time left during one. No torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bench.cache import write_atomic
from bench.planner import method_of
from bench.record import Record
from bench.spec import Pack, Trial

Key = tuple[str, str, str, str]  # device, model, precision, method

CALIBRATION_NAME = ".calibration.json"  # below the results directory
# Sustained rates assumed where nothing was measured: half of what a current 2-core CPU, a tenth of what a current GPU
# reaches on large matrices. The estimate says that it is uncalibrated.
NOMINAL_FLOP_PER_SECOND = {"cpu": 1e11, "cuda": 1e14}


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
    kind: str = "cpu"  # cpu or cuda


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Seconds of work, and whether every part of it rests on a measurement."""

    seconds: float
    calibrated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Seconds and FLOP spent so far, by device, model, precision and method."""

    spent: Mapping[Key, tuple[float, float]]

    def rate(self, key: Key) -> float | None:
        """Return seconds per FLOP for a key, or None."""
        seconds, flop = self.spent.get(key, (0.0, 0.0))
        return seconds / flop if flop > 0 else None

    def rate_like(self, key: Key) -> float | None:
        """Return seconds per FLOP over all methods on the key's device, model and precision, or None."""
        like = [spent for other, spent in self.spent.items() if other[:3] == key[:3]]
        flop = sum(f for _, f in like)
        return sum(s for s, _ in like) / flop if flop > 0 else None

    def with_pack(self, records: Sequence[Record], workload: Workload, place: Place) -> Calibration:
        """Return the calibration after these records: what each measured, whole trials only."""
        spent = dict(self.spent)
        for record in records:
            seconds = seconds_of(record)
            if seconds is None or record.outcome.steps_done < record.trial.budget.max_steps:
                continue
            key = _key(record.trial, place.device)
            before = spent.get(key, (0.0, 0.0))
            spent[key] = (before[0] + seconds, before[1] + flop(record.trial, workload))
        return Calibration(spent=spent)

    def over(self, older: Calibration) -> Calibration:
        """Return this calibration, with `older` where this one has measured nothing."""
        return Calibration(spent={**older.spent, **self.spent})


UNCALIBRATED = Calibration(spent={})


def estimate(packs: Iterable[Pack], calibration: Calibration, workload: Workload, place: Place) -> Estimate:
    """Return how long the packs take one after another."""
    return seconds_for(work_of(packs, workload, place), calibration, place)


def work_of(packs: Iterable[Pack], workload: Workload, place: Place) -> Counter[Key]:
    """Return the FLOP of packs, by what has a speed of its own."""
    work: Counter[Key] = Counter()
    for pack in packs:
        for trial in pack.trials:
            work[_key(trial, place.device)] += flop(trial, workload)  # type: ignore[assignment]
    return work


def seconds_for(work: Mapping[Key, float], calibration: Calibration, place: Place) -> Estimate:
    """Return how long so much work takes; a method not measured goes at the speed of those that were."""
    seconds, calibrated = 0.0, True
    for key, amount in work.items():
        rate = calibration.rate(key)
        calibrated = calibrated and rate is not None
        rate = rate or calibration.rate_like(key) or 1 / NOMINAL_FLOP_PER_SECOND[place.kind]
        seconds += max(0.0, amount) * rate
    return Estimate(seconds=seconds, calibrated=calibrated)


def flop(trial: Trial, workload: Workload) -> float:
    """Return a trial's work: 2P FLOP for a token forward, 4P to train adapters on it, 6P to train all weights."""
    budget, P = trial.budget, workload.matmul_params
    of_a_token = (6 if method_of(trial.method).trains_base else 4) * P
    train = budget.max_steps * budget.batch_size * min(workload.train_tokens, budget.max_length) * of_a_token
    n_evals = -(-budget.max_steps // budget.eval_steps)
    n_select = workload.n_select if budget.n_select else 0
    seen = n_evals * workload.n_eval * workload.eval_tokens + n_select * workload.train_tokens
    return float(train + 2 * P * seen)


def matmul_params(config: Mapping[str, object]) -> int:
    """Return P of a transformer from its config.json: 4 h^2 + 2 h f for each of its layers (h hidden, f inner size)."""
    hidden = _first(config, "hidden_size", "dim", "n_embd")
    n_layers = _first(config, "num_hidden_layers", "n_layers", "n_layer")
    inner = _first(config, "intermediate_size", "hidden_dim", "n_inner") or 4 * hidden
    return n_layers * (4 * hidden**2 + 2 * hidden * inner)


def seconds_of(record: Record) -> float | None:
    """Return a trial's share of its pack's time, all phases; None where nothing was measured."""
    outcome = record.outcome
    phases = (outcome.setup_seconds, outcome.compile_seconds, outcome.train_seconds, outcome.eval_seconds)
    known = [seconds for seconds in phases if seconds is not None]
    return sum(known) if known else None


def read_calibration(results_dir: Path) -> Calibration:
    """Return what the last sweeps below this directory measured; a file that cannot be read counts as none."""
    try:
        rows = json.loads((results_dir / CALIBRATION_NAME).read_text(encoding="utf-8"))
        spent = {
            (str(r["device"]), str(r["model"]), str(r["precision"]), str(r["method"])): (
                float(r["seconds"]),
                float(r["flop"]),
            )
            for r in rows
        }
    except (OSError, ValueError, KeyError, TypeError):
        return UNCALIBRATED  # it is a cache: the estimate then says that it is uncalibrated
    return Calibration(spent=spent)


def write_calibration(results_dir: Path, calibration: Calibration) -> None:
    """Keep a calibration for the next sweep."""
    names = ("device", "model", "precision", "method", "seconds", "flop")
    rows = [dict(zip(names, (*key, *spent), strict=True)) for key, spent in sorted(calibration.spent.items())]

    def put(stream: BinaryIO) -> None:
        stream.write(json.dumps(rows, indent=1).encode())

    write_atomic(results_dir / CALIBRATION_NAME, put)


def _key(trial: Trial, device: str) -> Key:
    method = trial.method if trial.mora_type is None else f"{trial.method}/{trial.mora_type}"
    return (device, trial.model, trial.budget.precision, method)


def _first(config: Mapping[str, object], *keys: str) -> int:
    return next((int(str(config[key])) for key in keys if config.get(key)), 0)
