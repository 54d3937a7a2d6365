"""What of a grid is left to run, in packs: one plan for `bench plan` and for the sweep. No torch, no Optuna."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench import searches
from bench.core.cells import Score
from bench.core.spec import Pack, Study, Trial
from bench.schedule import pack_sizes, planner
from bench.schedule.pack_sizes import Probe
from bench.schedule.planner import Limits
from bench.searches import Rungs
from bench.sweep.events import Options


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A pack to run. With a part its trials run again: their rows replace those of that part."""

    pack: Pack
    part: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The packs of a grid."""

    packs: tuple[Pack, ...]  # of the whole grid
    left: tuple[Pack, ...]
    limits: Limits  # of the size of a pack, measured sizes included
    packing: tuple[str, ...]  # what the size of each kind of pack rests on, a line each
    measured: bool  # some of that was measured just now


def plan(
    study: Study,
    trials: Sequence[Trial],
    *,
    finished: Collection[str],
    results_dir: Path,
    options: Options,
    family: Callable[[Trial], Hashable],
    slots: int = 1,
    probe: Probe | None = None,
) -> Plan:
    """Return the packs of a grid, those left spread over `slots` devices.

    Where nobody has said how many trials a pack may hold, the sizes measured below `results_dir` bound it, and with a
    probe those that are worth measuring are measured now.

    Raises:
        OSError: where they cannot be written down.
    """
    limits, lines, anew = planner.limits_for(study, options.limits), tuple[str, ...](), False
    settled = None
    if study.pack_size is None:
        settled = pack_sizes.settle(
            trials, limits, results_dir=results_dir, finished=finished, place=options.place, probe=probe, family=family
        )
        limits, anew = settled.limits, settled.anew
    packs = planner.plan(trials, limits=limits, family=family)
    if settled is not None:
        lines = pack_sizes.lines(packs, settled.measured, options.place)
    if any(planner.checkpoints(pack.trials[0], limits) for pack in packs):
        lines = (*lines, "gradient_checkpointing: layers compute again in backward, which saves memory")
    pending = planner.pending(packs, finished, limits=limits, family=family)
    left = spread(pending, limits, slots)
    return Plan(packs=packs, left=left, limits=limits, packing=lines, measured=anew)


def spread(packs: Sequence[Pack], limits: Limits, slots: int) -> tuple[Pack, ...]:
    """Return packs that run at once on `slots` devices, cut where these end sooner."""
    overhead = fmean(planner.overhead_of(pack, limits) for pack in packs) if packs else 0.0
    return planner.spread(packs, slots, overhead=overhead)


def groups_of(trials: Iterable[Trial]) -> tuple[tuple[Trial, ...], ...]:
    """Return trials by what their cells are compared within (see `searches.group_of`)."""
    groups: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(searches.group_of(trial), []).append(trial)
    return tuple(map(tuple, groups.values()))


def legs(
    trials: Sequence[Trial], rungs: Rungs, reached: Mapping[str, int], *, closed: Collection[str]
) -> Iterator[Pack]:
    """Yield the legs that are left where nothing fails: which cells will go on is not known, only how many.

    `reached` are the last rungs of trials by id, `closed` the trials that are finished or left out. Not for running:
    a leg may hold more trials than a pack.
    """
    for group in groups_of(trials):
        first, others = searches.leading(group)
        n_last = len(first)
        for start, end, n in rungs.expected_steps(group[0].budget.max_steps, len(first)):
            open_ = (trial for trial in first if trial.trial_id not in closed)
            members = [trial for trial in open_ if reached.get(trial.trial_id, 0) < end][:n]
            n_last = n
            if members:
                yield Pack(trials=tuple(members), start=start, until=end)
        later = [trial for trial in others if trial.trial_id not in closed][: n_last * len(others) // len(first)]
        if later:
            yield Pack(trials=tuple(later), start=0, until=group[0].budget.max_steps)


def share_of_steps(trials: Sequence[Trial], rungs: Rungs) -> float:
    """Return the steps of all legs over those of the whole grid."""
    some = legs(trials, rungs, {}, closed=())
    done = sum((pack.until or 0) * pack.size - pack.start * pack.size for pack in some)
    return done / sum(trial.budget.max_steps for trial in trials)


def again(
    trials: Mapping[str, Trial],
    scores: Mapping[str, Score],
    part_of: Mapping[str, str],
    *,
    source_hash: str,
    limits: Limits,
    family: Callable[[Trial], Hashable],
) -> tuple[Job, ...]:
    """Return the trials whose rows come from another version of the code, by the part that holds them.

    Each part is replaced in place, so that its old rows count until the new ones are on disk.
    """
    parts: dict[str, list[Trial]] = {}
    for trial_id, trial in trials.items():
        if trial_id in scores and scores[trial_id].source_hash != source_hash:
            parts.setdefault(part_of[trial_id], []).append(trial)
    return tuple(
        Job(pack=pack, part=part)
        for part, of_part in parts.items()
        for pack in planner.plan(of_part, limits=limits, family=family)
    )
