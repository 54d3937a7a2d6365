"""What a study costs in time: one price for `studies`, `plan`, `compare` and `doctor`, also where nothing is here yet.

The work is counted in FLOP and priced by the speeds measured on this device (bench/schedule/estimate.py). What a
trial's work depends on comes from data and model where they are on this machine; the Hub is never asked. Without the
data every text counts with max_length tokens and evaluation is left out, and the price says "at most". No torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import models, searches, study, tasks
from bench.core import cache, hub
from bench.core.errors import BadInput
from bench.core.spec import Pack, Study, Trial
from bench.data.splits import TextData
from bench.data.toy import ToyData
from bench.models import Located
from bench.models._config import read_config
from bench.schedule import estimate, workloads
from bench.schedule.estimate import Estimate, Place, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """How long trials take one after another on a device, and what that rests on."""

    estimate: Estimate | None  # None: not known, and `doubt` says why
    at_most: bool = False  # the texts are not here
    doubt: str = ""


def of_trials(trials: Iterable[Trial], workload: Workload, *, results_dir: Path, place: Place) -> Estimate:
    """Return how long trials take by the speeds measured below this directory."""
    speeds = estimate.read_calibration(results_dir)
    return estimate.estimate([Pack(trials=tuple(trials))], speeds, workload, place)


def of_study(chosen: Study, *, results_dir: Path) -> Price:
    """Return what all trials of a study take, finished ones included, by what is known of it on this machine."""
    try:
        workload, at_most = workload_here(chosen)
    except BadInput as error:
        return Price(estimate=None, doubt=str(error))
    found = of_trials(wanted(chosen), workload, results_dir=results_dir, place=workloads.place_of(chosen.device))
    return Price(estimate=found, at_most=at_most, doubt="its texts are not on this machine" if at_most else "")


def wanted(chosen: Study) -> tuple[Trial, ...]:
    """Return trials that cost what those of the study do; of a search as many as it may try, from all over its space.

    They are expanded without data and model, so their ids are not those of the rows.
    """
    trials = study.expand(chosen, data_hash="", model_hash="", default_targets=())
    return searches.get(chosen.sampler).sample(trials, chosen.n_trials)


def workload_here(chosen: Study) -> tuple[Workload, bool]:
    """Return what a trial's work depends on, and whether it is a bound because the texts are not here.

    Raises:
        BadInput: where not even the size of the model is known.
    """
    with hub.closed():
        located = _located(chosen.model)
        try:
            data = _data(chosen.task, chosen.data_dir)
        except BadInput:
            known = _recall(chosen)
            if known is not None:
                return known, False
            most = chosen.budget.max_length
            return Workload(matmul_params=estimate.matmul_params(located.config), train_tokens=most, n_eval=0,
                            eval_tokens=0), True  # fmt: skip
    return workloads.workload_of(data, located, chosen.budget.n_select), False


def remember(chosen: Study, workload: Workload) -> None:
    """Keep what was counted on texts that may be in the Hub's cache only, which is slow to open; a cache, no more."""
    with contextlib.suppress(OSError):
        cache.write_text(_remembered(chosen), json.dumps(asdict(workload)))


def _recall(chosen: Study) -> Workload | None:
    try:
        return Workload(**json.loads(_remembered(chosen).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _remembered(chosen: Study) -> Path:
    parts = [chosen.task, chosen.model, chosen.data_dir]
    return cache.cache_dir() / "workloads" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"


@functools.cache
def _data(task: str, data_dir: str | None) -> TextData | ToyData:
    return tasks.load(tasks.get(task), None if data_dir is None else Path(data_dir))


@functools.cache
def _located(name: str) -> Located:
    """Return the model on this disk, or its published sizes without files."""
    try:
        return models.locate(name)
    except BadInput:
        found, config = read_config(name)
    nowhere = Path(__file__).parent  # holds no tokenizer: tokens are then counted by words
    return Located(name=found, directory=nowhere, model_hash="", tokenizer_hash="", config=config)
