"""How long the work left of a sweep takes, by the speeds known before it and those that it measures. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.core.record import Record
from bench.core.spec import Pack
from bench.schedule import estimate
from bench.schedule.estimate import Calibration, Estimate, Key, Workload
from bench.sweep.events import Options

_UNIT_WORK = Workload(matmul_params=1, train_tokens=1.0, n_eval=0, eval_tokens=0.0)  # for the time left, not before

_WHOLE = Pack(trials=())


class Forecast:
    """The work left. Without a workload (`options.workload`) nothing is foretold before the first pack is done."""

    def __init__(self, options: Options, prior: Calibration, *, slots: int) -> None:
        self._known_workload, self._place, self._slots = options.workload is not None, options.place, slots
        self._workload = options.workload or _UNIT_WORK
        self._prior, self._fresh = prior, Calibration(spent={})
        self._left: Counter[Key] = Counter()

    def expect(self, packs: Iterable[Pack]) -> None:
        """Take what there is to do."""
        self._left = estimate.work_of(packs, self._workload, self._place)

    def done(self, records: Sequence[Record], leg: Pack = _WHOLE) -> None:
        """Take off what is done of these trials, and learn how fast it went; `leg` says from which step to which."""
        self._fresh = self._fresh.with_pack(records, self._workload, self._place)
        packs = (replace(leg, trials=(record.trial,)) for record in records)
        if self._left:  # where no work was expected, none is taken off
            self._left.subtract(estimate.work_of(packs, self._workload, self._place))

    def remaining(self) -> Estimate | None:
        """Return the time left; None where there is nothing to tell it by, or no work was expected."""
        if not self._left or not (self._known_workload or self._fresh.spent):
            return None
        alone = estimate.seconds_for(self._left, self._speeds(), self._place)
        return replace(alone, seconds=alone.seconds / self._slots)

    def measured(self, pack: Pack) -> float | None:
        """Return the seconds of a pack alone on a device; None where a part of it rests on no measured speed."""
        found = estimate.estimate([pack], self._speeds(), self._workload, self._place)
        return found.seconds if found.calibrated else None

    def _speeds(self) -> Calibration:
        return self._fresh.over(self._prior) if self._known_workload else self._fresh

    def learnt(self) -> Calibration | None:
        """Return the speeds to keep for the next sweep; None where none were measured."""
        return self._fresh.over(self._prior) if self._known_workload and self._fresh.spent else None
