"""Checks of a results directory by rule: each finding is one line with a way out. Pure: rows in, findings out."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from bench.core.record import SCHEMA_VERSION, Status
from bench.core.rules import round_rate
from bench.core.spec import Trial
from bench.store.parts import Finding as StoreFinding

Row = Mapping[str, Any]

ROW_COLUMNS = (
    "trial_id", "status", "method", "task", "model", "data_hash", "model_hash", "seed", "rank", "mora_type", "eta_A",
    "eta_B", "lr_ratio", "max_steps", "batch_size", "metric_value", "accuracy", "select_metric", "n_eval",
    "eval_correct", "steps_done", "diverged_step", "setup_seconds", "compile_seconds", "train_seconds", "eval_seconds",
    "timing_mode", "pack_id", "pack_size", "started_at", "git_commit", "git_dirty", "source_hash", "device",
    "schema_version",
)  # fmt: skip
_APART = "move rows apart that do not belong together, or put back what was changed"
_OF_TRIAL = ("method", "task", "model", "data_hash", "model_hash", "seed", "rank", "mora_type", "eta_A", "eta_B")
_OF_BUDGET = ("max_steps", "batch_size")
_SECONDS = ("setup_seconds", "compile_seconds", "train_seconds", "eval_seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One finding: an error makes results wrong or unusable, a warning makes them weaker than they look."""

    level: Literal["error", "warning"]
    rule: str  # which check found it
    text: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.level}: {self.rule}: {self.text}; {self.way_out}"


def check(
    rows: Sequence[Row],
    *,
    found: Iterable[StoreFinding] = (),
    trials: Sequence[Trial] = (),
    attempts: Collection[str] = (),
    borders: Iterable[str] = (),
    strangers: Iterable[str] = (),
    parallel: int | None = None,
) -> tuple[Problem, ...]:
    """Return every problem of a results directory, errors first.

    Args:
        rows: the finished rows, with ROW_COLUMNS.
        found: what reading the parts found.
        trials: the trials that the study asks for; () where it is a search.
        attempts: ids of trials that failed or ran out of memory at least once.
        borders: the grid borders that best cells lie on, one line each.
        strangers: what rows mean something else than the study does, one line each.
        parallel: how many sweeps may have been at work at the same time; None: any number, which is then told.
    """
    problems = [
        *_parts(found),
        *_consistent(rows),
        *_described(rows, trials),
        *_seconds(rows, parallel),
        *_seeds(rows, trials),
        *_attempts(rows, attempts),
        *_origin(rows),
        *(Problem(level="warning", rule="meaning", text=text, way_out=_APART) for text in strangers),
        *(Problem(level="warning", rule="border", text=text, way_out="then sweep again") for text in borders),
    ]
    return tuple(sorted(problems, key=lambda problem: problem.level != "error"))


def _parts(found: Iterable[StoreFinding]) -> list[Problem]:
    ways = {
        "torn": "run make sweep again: it sets the part aside and repeats its trials",
        "newer": "read it with the version of lorasweep that wrote it",
        "duplicate": "remove one of the two parts",
        "foreign": "move it elsewhere",
    }
    return [
        Problem(
            level="warning" if f.kind == "foreign" else "error", rule=_RULES[f.kind], text=str(f), way_out=ways[f.kind]
        )
        for f in found
    ]


_RULES = {"torn": "schema", "newer": "schema", "foreign": "schema", "duplicate": "duplicates"}


def _consistent(rows: Sequence[Row]) -> list[Problem]:
    """Return one problem for each rule that rows break by themselves."""
    rules: tuple[tuple[str, Callable[[Row], bool]], ...] = (
        ("status must be ok or diverged", lambda r: r["status"] in (Status.OK, Status.DIVERGED)),
        ("an ok row must have a finite metric_value and all its steps", _ok_is_whole),
        ("a diverged row must have a diverged_step and no metric_value", _diverged_is_empty),
        ("lr_ratio must be eta_B / eta_A", _ratio_agrees),
        ("accuracy must be the share of eval_correct", _accuracy_agrees),
        ("isolated timing is of a trial alone", lambda r: r["timing_mode"] != "isolated" or r["pack_size"] == 1),
        ("seconds must not be negative", lambda r: all((r[name] or 0) >= 0 for name in _SECONDS)),
    )
    way_out = "remove the part that holds it and run make sweep again"
    problems = [_broken("error", "schema", text, rows, holds, way_out) for text, holds in rules]
    old = _broken("warning", "schema", f"schema_version must be {SCHEMA_VERSION}", rows,
                  lambda r: r["schema_version"] == SCHEMA_VERSION, "its newer columns are null")  # fmt: skip
    return [problem for problem in (*problems, old) if problem is not None]


def _broken(
    level: Literal["error", "warning"], rule: str, text: str, rows: Sequence[Row], holds: Callable[[Row], bool],
    way_out: str,
) -> Problem | None:  # fmt: skip
    bad = [row["trial_id"] for row in rows if not holds(row)]
    if not bad:
        return None
    return Problem(level=level, rule=rule, text=f"{text}, but {_some(bad)} breaks it", way_out=way_out)


def _ok_is_whole(row: Row) -> bool:
    value = row["metric_value"]
    whole = row["steps_done"] == row["max_steps"]
    return row["status"] != Status.OK or (value is not None and math.isfinite(value) and whole)


def _diverged_is_empty(row: Row) -> bool:
    return row["status"] != Status.DIVERGED or (row["metric_value"] is None and row["diverged_step"] is not None)


def _ratio_agrees(row: Row) -> bool:
    if row["eta_B"] is None or row["lr_ratio"] is None:
        return row["eta_B"] is row["lr_ratio"]
    return bool(row["lr_ratio"] == round_rate(row["eta_B"] / row["eta_A"]))


def _accuracy_agrees(row: Row) -> bool:
    if row["eval_correct"] is None or row["accuracy"] is None:
        return True
    bits = np.unpackbits(np.frombuffer(row["eval_correct"], dtype=np.uint8))
    return len(bits) >= row["n_eval"] and math.isclose(bits.sum() / row["n_eval"], row["accuracy"], abs_tol=1e-9)


def _described(rows: Sequence[Row], trials: Sequence[Trial]) -> list[Problem]:
    """Compare rows with the trials whose ids they bear."""
    by_id = {trial.trial_id: trial for trial in trials}
    if not by_id:
        return []

    def holds(row: Row) -> bool:
        trial = by_id.get(row["trial_id"])
        if trial is None:
            return True
        of_trial = all(row[name] == getattr(trial, name) for name in _OF_TRIAL)
        return of_trial and all(row[name] == getattr(trial.budget, name) for name in _OF_BUDGET)

    text, way_out = "a row must hold the settings of its trial_id", "remove the part that holds it and sweep again"
    problem = _broken("error", "schema", text, rows, holds, way_out)
    others = sum(row["trial_id"] not in by_id for row in rows)
    found = [] if problem is None else [problem]
    if others:
        text = f"{others} of {len(rows)} rows are of other settings than the study asks for now"
        found.append(Problem(level="warning", rule="other rows", text=text, way_out="they are kept and not compared"))
    return found


def _seconds(rows: Sequence[Row], parallel: int | None) -> list[Problem]:
    """Check that no more packs were at work at once than sweeps: attributed seconds never exceed the makespan."""
    packs: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        packs[row["pack_id"], row["started_at"]].append(row)
    problems = [
        Problem(
            level="error",
            rule="seconds",
            text=f"pack {pack_id} has {len(members)} rows, but pack_size {members[0]['pack_size']}",
            way_out="remove its part and run make sweep again",
        )
        for (pack_id, _), members in packs.items()
        if len(members) > members[0]["pack_size"]
    ]
    depth, at = _depth(packs)
    if parallel is not None and depth > parallel:
        text = f"{depth} packs claim the same second (pack {at}): more seconds are attributed than went by"
        way_out = f"if so many sweeps were at work, say so: --parallel {depth}; else their times are wrong"
        problems.append(Problem(level="error", rule="seconds", text=text, way_out=way_out))
    elif depth > 1:
        text = f"up to {depth} sweeps were at work at the same time (pack {at}), each slower for it"
        problems.append(
            Problem(level="warning", rule="seconds", text=text, way_out="compare speeds by make speed only")
        )
    return problems


def _depth(packs: Mapping[tuple[str, str], Sequence[Row]]) -> tuple[int, str]:
    """Return how many packs were surely at work at once, at most, and one of them.

    started_at is cut to the second: a pack that says s was at work for sure from s + 1 to s + its seconds.
    """
    events: list[tuple[float, int, str]] = []
    for (pack_id, started_at), members in packs.items():
        start = datetime.fromisoformat(started_at).timestamp()
        end = start + sum(row[name] or 0.0 for row in members for name in _SECONDS)
        if end > start + 1:
            events += [(start + 1, 1, pack_id), (end, -1, pack_id)]
    depth = most = 0
    at = ""
    for _, change, pack_id in sorted(events):  # at the same moment ends come first
        depth += change
        if depth > most:
            most, at = depth, pack_id
    return most, at


def _seeds(rows: Sequence[Row], trials: Sequence[Trial]) -> list[Problem]:
    """Compare the finished seeds of each cell with those that the study asks for."""
    done = {row["trial_id"] for row in rows}
    cells: dict[tuple[Any, ...], list[bool]] = defaultdict(list)
    for trial in trials:
        cells[trial.cell].append(trial.trial_id in done)
    short = Counter(sum(flags) for flags in cells.values() if not all(flags))
    if not short:
        return []
    wanted = max(len(flags) for flags in cells.values())
    counts = ", ".join(f"{n} with {seeds}" for seeds, n in sorted(short.items()))
    text = f"{short.total()} of {len(cells)} cells have fewer than {wanted} seeds ({counts})"
    return [Problem(level="warning", rule="seeds", text=text, way_out="run make sweep again with the same options")]


def _attempts(rows: Sequence[Row], attempts: Collection[str]) -> list[Problem]:
    left = set(attempts) - {row["trial_id"] for row in rows}
    if not left:
        return []
    text = f"{_some(sorted(left))} failed or ran out of memory and never finished"
    return [Problem(level="warning", rule="failed", text=text, way_out="see attempts/ and logs/, then sweep again")]


def _origin(rows: Sequence[Row]) -> list[Problem]:
    """Return what the rows say about the code and machines that made them."""
    problems = []

    def warn(rule: str, text: str, way_out: str) -> None:
        problems.append(Problem(level="warning", rule=rule, text=text, way_out=way_out))

    sources, devices = ({row[name] for row in rows} for name in ("source_hash", "device"))
    if len(sources) > 1:
        counts = Counter(row["source_hash"] for row in rows)
        text = f"rows come from {len(sources)} versions of the code ({', '.join(str(n) for n in counts.values())} rows)"
        warn("source", text, "make them alike: bench sweep --rerun-stale")
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        warn("device", f"rows come from {len(devices)} devices ({names})", "compare no seconds between them")
    dirty = sum(row["git_dirty"] is True for row in rows)
    if dirty:
        text = f"{dirty} of {len(rows)} rows were made with changes that are in no commit"
        warn("untracked changes", text, "commit, then bench sweep --rerun-stale")
    unknown = sum(row["git_commit"] is None for row in rows)
    if unknown:
        text = f"{unknown} of {len(rows)} rows name no commit"
        warn("untracked changes", text, "run from a git work tree; until then source_hash alone tells the code")
    if any(row["status"] == Status.OK and row["select_metric"] is None for row in rows):
        warn("selection", "some rows have no select_metric, so cells are chosen on the split that is reported",
             "set n_select > 0 for a choice that does not flatter")  # fmt: skip
    return problems


def _some(ids: Sequence[str]) -> str:
    """Return `1 trial (id)`, `3 trials (first: id)`."""
    return f"1 trial ({ids[0]})" if len(ids) == 1 else f"{len(ids)} trials (first: {ids[0]})"
