"""Trials that wait for one another at rungs: some are left out there, and the rest go on in other packs.

Who is left out follows from rows on disk (`rungs/`, `trials/`, `pruned/`), so a resumed sweep decides as one that was
not interrupted. A trial whose state is lost trains its steps again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bench.core.record import Outcome, Provenance, Record, Status, to_row
from bench.core.spec import Pack, Trial, pack_id_of
from bench.sweep.events import Options
from bench.sweep.ledger import Ledger

Row = Mapping[str, Any]
Judge = Callable[[Sequence[Trial], int], Mapping[str, str]]  # trials at a rung -> id and reason of those left out there
Leg = tuple[Sequence[Trial], int | None]  # trials that train now, and to which step; None: to the end


class Ladder:
    """The way of groups of trials from rung to rung.

    `pack` plans packs of trials that are at one step, and `spread` cuts packs for the devices. `step_of` says at which
    step a trial's state is kept, and `prune` puts the rows of those that are left out on disk.
    """

    def __init__(
        self, *, pack: Callable[[Sequence[Trial]], Iterable[Pack]], spread: Callable[[Sequence[Pack]], Sequence[Pack]],
        step_of: Callable[[Trial], int], prune: Callable[[Sequence[Row]], None],
    ) -> None:  # fmt: skip
        self._pack, self._spread, self._step_of, self._prune = pack, spread, step_of, prune
        self._tried: set[tuple[str, int | None]] = set()  # trial and end of a leg that this run has asked for

    def climb(self, group: Sequence[Trial], steps: Iterable[int], judge: Judge, ledger: Ledger) -> Leg:
        """Return what of a group trains now, after leaving out what is to be; no trials where it has ended."""
        found, end = self._next_leg(group, steps, judge, ledger)
        self._tried |= {(trial.trial_id, end) for trial in found}
        return found, end

    def packs(self, legs: Iterable[Leg]) -> Sequence[Pack]:
        """Return the packs of legs: trials whose states are at one step may share one, of whatever groups they are."""
        by_steps: dict[tuple[int, int | None], list[Trial]] = {}
        for trials, end in legs:
            for trial in trials:
                start = self._step_of(trial)
                by_steps.setdefault((start if end is None or start < end else 0, end), []).append(trial)
        return self._spread([
            replace(pack, start=start, until=end) for (start, end), members in by_steps.items()
            for pack in self._pack(members)
        ])  # fmt: skip

    def leave_out(self, records: Iterable[Record], reasons: Mapping[str, str]) -> None:
        """Leave out trials that never began, so have no time of beginning; `reasons` are by trial_id."""
        never = ({**to_row(record), "started_at": None} for record in records)
        rows = [_pruned(row, reasons[row["trial_id"]]) for row in never]
        if rows:
            self._prune(rows)

    def _next_leg(self, group: Sequence[Trial], steps: Iterable[int], judge: Judge, ledger: Ledger) -> Leg:
        lost: set[str] = set()  # failed in this run: they are tried again by the next
        for step in steps:
            waiting = [t for t in _open(group, ledger, lost) if step not in ledger.rungs.get(t.trial_id, {})]
            fresh = [t for t in waiting if (t.trial_id, step) not in self._tried]
            if fresh:
                return fresh, step
            lost |= {trial.trial_id for trial in waiting}
            self._judged(group, step, judge, ledger)
        return [t for t in _open(group, ledger, lost) if (t.trial_id, None) not in self._tried], None

    def _judged(self, group: Sequence[Trial], step: int, judge: Judge, ledger: Ledger) -> None:
        """Leave out, at this rung, the trials that are judged so, unless they have gone on from it."""
        here = [t for t in group if ledger.pruned.get(t.trial_id, step) >= step]
        at_it = [t for t in _open(here, ledger, set()) if step == max(ledger.rungs.get(t.trial_id, {0: {}}))]
        reasons = judge(here, step) if at_it else {}
        rows = [
            _pruned(ledger.rungs[trial.trial_id][step], reasons[trial.trial_id])
            for trial in at_it
            if trial.trial_id in reasons
        ]
        if rows:
            self._prune(rows)


def _open(group: Iterable[Trial], ledger: Ledger, lost: set[str]) -> Iterator[Trial]:
    """Yield the trials that are neither finished nor left out nor lost."""
    closed = (ledger.scores, ledger.pruned, lost)
    return (trial for trial in group if not any(trial.trial_id in one for one in closed))


def _pruned(row: Row, reason: str) -> dict[str, Any]:
    return {**row, "status": str(Status.PRUNED), "reason": reason}


def chosen_together(trials: Sequence[Trial], study: str, options: Options) -> list[Record]:
    """Return the records of trials that wait at step 0 for the leg that is their first; their pack is all of them."""
    pack_id, now = pack_id_of(trial.trial_id for trial in trials), datetime.now(UTC).isoformat(timespec="seconds")
    place = Provenance(
        git_commit=None, git_dirty=None, source_hash=options.source_hash, versions="{}", device=options.place.device
    )
    return [
        Record(
            study=study,
            trial=trial,
            pack_id=pack_id,
            pack_size=len(trials),
            provenance=place,
            outcome=Outcome(status=Status.PAUSED, metric_name=trial.meaning.metric_name, steps_done=0, started_at=now),
        )
        for trial in trials
    ]
