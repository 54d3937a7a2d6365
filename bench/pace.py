"""How fast a study's packs go on this device, from a short run of each method: `bench plan --calibrate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from bench.errors import BadInput
from bench.estimate import Calibration, Key, Place, Workload, flop, work_of
from bench.record import Outcome, Record
from bench.spec import Pack, Trial, round_rate
from bench.text import Split, TextData

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
    """Return what short runs say about whole packs: one pack for each method, its steps and evaluations scaled up.

    `run` trains a pack on data that `short` describes, `workload` describes the study's own. Each pack is run twice:
    a first time for FIRST_STEPS steps, which loads what is needed and tells how many steps the second may take.

    Raises:
        BadInput: where a short run fails.
    """
    chosen = covering(packs, workload, place)
    spent: dict[Key, tuple[float, float]] = {}
    for pack in chosen:
        first = _finished(run(shortened(pack, FIRST_STEPS)))
        per_step = sum(outcome.train_seconds or 0.0 for outcome in first) / FIRST_STEPS
        n = int(min(MOST_STEPS, max(LEAST_STEPS, seconds / len(chosen) / 2 // max(per_step, 1e-9))))
        outcomes = _finished(run(shortened(pack, n)))
        for trial, outcome in zip(pack.trials, outcomes, strict=True):
            (key,) = work_of([Pack(trials=(trial,))], workload, place)
            before = spent.get(key, (0.0, 0.0))
            whole = seconds_of_whole(trial, outcome, n_steps=n, workload=workload, short=short)
            spent[key] = (before[0] + whole, before[1] + flop(trial, workload))
        tell(f"{_names(pack)}: {1e3 * fmean((o.train_seconds or 0.0) / n for o in outcomes):.1f} ms a trial-step")
    return Calibration(spent=spent)


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


def shortened(pack: Pack, n_steps: int) -> Pack:
    """Return the pack with n_steps steps, one evaluation, nothing held out, and rates at which nothing diverges."""
    trials = []
    for i, trial in enumerate(pack.trials):
        budget = replace(trial.budget, max_steps=n_steps, eval_steps=n_steps, warmup_steps=0, n_select=0)
        rate = round_rate(RATE * (1 + i / pack.size))
        trials.append(replace(trial, eta_A=rate, eta_B=None if trial.eta_B is None else rate, budget=budget))
    return Pack(trials=tuple(trials))


def seconds_of_whole(trial: Trial, outcome: Outcome, *, n_steps: int, workload: Workload, short: Workload) -> float:
    """Return a trial's share of its whole pack's time: set-up once, its steps, its evaluations by their tokens."""
    budget = trial.budget
    n_evals = -(-budget.max_steps // budget.eval_steps)
    n_select = workload.n_select if budget.n_select else 0
    tokens = n_evals * workload.n_eval * workload.eval_tokens + n_select * workload.train_tokens
    per_token = (outcome.eval_seconds or 0.0) / (short.n_eval * short.eval_tokens)
    train = budget.max_steps * (outcome.train_seconds or 0.0) / n_steps
    return (outcome.setup_seconds or 0.0) + train + tokens * per_token


def _finished(records: Sequence[Record]) -> list[Outcome]:
    for record in records:
        if record.outcome.train_seconds is None:
            rule, way_out = "a short run of every method must succeed", "run make sweep, whose log tells more"
            raise BadInput("--calibrate", rule, got=record.outcome.reason, way_out=way_out)
    return [record.outcome for record in records]


def _names(pack: Pack) -> str:
    names = dict.fromkeys(t.method if t.mora_type is None else f"{t.method} type {t.mora_type}" for t in pack.trials)
    return f"{', '.join(names)}, {pack.size} together"
