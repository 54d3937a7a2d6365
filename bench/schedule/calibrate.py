"""How fast a study's packs go on this device, from a short run of each method: `bench plan --calibrate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from bench import methods
from bench.core.errors import BadInput
from bench.core.record import Outcome, Record
from bench.core.rules import round_rate
from bench.core.spec import Pack
from bench.data.splits import Split, TextData
from bench.schedule.estimate import UNCALIBRATED, Calibration, Key, Place, Workload, work_of

SECONDS = 40.0  # for all methods together
FIRST_STEPS, LEAST_STEPS, MOST_STEPS = 2, 4, 40
N_EVAL = 256  # examples of the evaluation split that a short run scores
RATE = 1e-6  # at which nothing diverges

Run = Callable[[Pack], Sequence[Record]]


def short_data(data: TextData, n_eval: int = N_EVAL) -> TextData:
    """Return the data with the first n_eval evaluation examples only."""
    split = data.eval
    pairs = None if split.pairs is None else split.pairs[:n_eval]
    cut = Split(texts=split.texts[:n_eval], pairs=pairs, labels=split.labels[:n_eval])
    return replace(data, eval=cut)


def measure(
    packs: Sequence[Pack], run: Run, *, workload: Workload, short: Workload, place: Place, seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda line: None,
) -> Calibration:  # fmt: skip
    """Return how fast set-up, steps and evaluations go, from a short run of one pack for each method.

    `run` trains a pack on data that `short` describes, `workload` describes the study's own. Each pack is run twice:
    a first time for FIRST_STEPS steps, which loads what is needed and tells how many steps the second may take.

    Raises:
        BadInput: where a short run fails.
    """
    chosen = covering(packs, workload, place)
    calibration = UNCALIBRATED
    for pack in chosen:
        first = _finished(run(shortened(pack, FIRST_STEPS)))
        per_step = sum(outcome.train_seconds or 0.0 for outcome in first) / FIRST_STEPS
        n = int(min(MOST_STEPS, max(LEAST_STEPS, seconds / len(chosen) / 2 // max(per_step, 1e-9))))
        records = run(shortened(pack, n))
        outcomes = _finished(records)
        calibration = calibration.with_pack(records, short, place, by_tokens=True)
        ms = 1e3 * fmean((outcome.train_seconds or 0.0) / n for outcome in outcomes)
        tell(f"{names(pack)}, {pack.size} together: {ms:.1f} ms a trial-step")
    return calibration


def covering(packs: Iterable[Pack], workload: Workload, place: Place) -> tuple[Pack, ...]:
    """Return few packs that hold every key of the calibration, the largest ones first."""
    chosen: list[Pack] = []
    covered: set[Key] = set()
    for pack in sorted(packs, key=lambda pack: -pack.size):
        keys = set(work_of([pack], workload, place))
        if not keys <= covered:
            chosen.append(pack)
            covered |= keys
    return tuple(chosen)


def shortened(pack: Pack, n_steps: int, *, n_select: int = 0) -> Pack:
    """Return the pack with n_steps steps, one evaluation, n_select held out, and rates at which nothing diverges."""
    trials = []
    for i, trial in enumerate(pack.trials):
        budget = replace(trial.budget, max_steps=n_steps, eval_steps=n_steps, warmup_steps=0, n_select=n_select)
        rate = round_rate(RATE * (1 + i / pack.size))
        trials.append(replace(trial, eta_A=rate, eta_B=None if trial.eta_B is None else rate, budget=budget))
    return Pack(trials=tuple(trials))


def _finished(records: Sequence[Record]) -> list[Outcome]:
    for record in records:
        if record.outcome.train_seconds is None:
            rule, way_out = "a short run of every method must succeed", "run make sweep, whose log tells more"
            raise BadInput("--calibrate", rule, got=record.outcome.reason, way_out=way_out)
    return [record.outcome for record in records]


def names(pack: Pack) -> str:
    """Return the methods of a pack's trials in words, each with its type."""
    return ", ".join(dict.fromkeys(methods.identity(trial).arm for trial in pack.trials))
