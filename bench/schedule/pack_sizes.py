"""How many trials a pack may hold, from a few steps of packs of different sizes: never more than pays. No torch.

Packing shares fixed costs, but a large pack can fall out of a cache, and mixed ranks are padded: where a trial-step
takes longer in a pack than alone, trials run alone. What was measured is written down below the results directory and
holds for every later run there, so that a resumed sweep forms the same packs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.core.cache import write_text
from bench.core.spec import Pack, Trial
from bench.schedule import calibrate, planner
from bench.schedule.estimate import Place
from bench.schedule.planner import Limits
from bench.study import varying

PACKING_NAME = ".packing.json"  # below the results directory
STEPS = 3  # of each pack that is tried, warm-up included: see bench.engine.probe
WORTH = 0.03  # of the trial-steps that a kind has left: what trying may cost
MANY = 64  # trials of a pack from which on half as many may be as fast
TIE = 0.02  # within it the larger pack is taken: it shares evaluation and set-up as well

Key = tuple[str, str]  # device, kind (see planner.kind_of)
Measured = Mapping[Key, Mapping[int, float]]  # seconds of a trial-step by pack size; inf: out of memory
Probe = Callable[[Pack], float | None]  # seconds of a trial-step of this pack; inf: out of memory; None: cannot tell


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """How many trials a pack may hold, and what that rests on."""

    limits: Limits
    measured: Measured
    anew: bool = False  # some of it was measured just now


def best(seconds: Mapping[int, float]) -> int:
    """Return the size that is fastest for each trial, the largest of those that tie; one slower than 1 never."""
    allowed = {size: each for size, each in seconds.items() if each <= seconds[1]}
    limit = min(allowed.values()) * (1 + TIE)
    return max(size for size, each in allowed.items() if each <= limit)


def settled(seconds: Mapping[int, float] | None, largest: int) -> int | None:
    """Return the size that the measurement gives packs of at most `largest`; None where it does not tell.

    Where the largest pack that was tried was the best, nothing is known about larger ones.
    """
    if not seconds:
        return None
    size = best(seconds)
    return None if size == max(seconds) < largest else min(size, largest)


def apply(limits: Limits, packs: Iterable[Pack], measured: Measured, place: Place) -> Limits:
    """Return the limits with the sizes measured; `packs` is the whole grid as it would be packed without them."""
    found = {
        kind: settled(measured.get((place.device, kind)), pack.size) for kind, pack in _largest_by_kind(packs).items()
    }
    return replace(limits, measured={kind: size for kind, size in found.items() if size is not None})


def measure(
    packs: Sequence[Pack], finished: Collection[str], known: Measured, place: Place, probe: Probe
) -> dict[Key, dict[int, float]]:
    """Return what is known after trying, for each kind of pack, some sizes on which nothing is known yet.

    Only where all the steps that takes are at most WORTH of those that the kind has left to do.
    """
    found = {key: dict(seconds) for key, seconds in known.items()}
    for kind, pack in _largest_by_kind(packs).items():
        key = (place.device, kind)
        unknown = settled(known.get(key), pack.size) is None and pack.size > 1
        if unknown and cost(pack) <= WORTH * _steps_left(packs, kind, finished):
            seconds = _try(pack, probe)
            if seconds is not None:
                found[key] = seconds
    return found


def sizes(largest: int) -> tuple[int, ...]:
    """Return the sizes to try: alone, all, and the one between; of many also half."""
    half = {largest // 2} if largest > MANY else set[int]()
    return tuple(sorted({1, round(math.sqrt(largest)), largest} | half))


def cost(pack: Pack) -> int:
    """Return the trial-steps that trying takes: each size, alone twice where ranks differ."""
    return STEPS * (sum(sizes(pack.size)) + (len(_alone(pack)) - 1))


def lines(packs: Iterable[Pack], measured: Measured, place: Place) -> tuple[str, ...]:
    """Return a line for each kind of the packs, as they are planned: how many together, and what that rests on."""
    found = _largest_by_kind(packs)
    varied = varying.of_trials(trial for pack in found.values() for trial in pack.trials)
    return tuple(_line(pack, measured.get((place.device, kind)), varied) for kind, pack in found.items())


def settle(
    trials: Sequence[Trial], limits: Limits, *, results_dir: Path, finished: Collection[str], place: Place,
    probe: Probe | None, family: Callable[[Trial], Hashable] = planner.family_of,
) -> Settled:  # fmt: skip
    """Return the limits with the sizes known; with a probe, measure first what is worth it, and write it down.

    Raises:
        OSError: where it cannot be written down.
    """
    packs = planner.plan(trials, limits=limits, family=family)
    known = read(results_dir)
    measured = known if probe is None else measure(packs, finished, known, place, probe)
    if measured != known:
        write(results_dir, measured)
    return Settled(limits=apply(limits, packs, measured, place), measured=measured, anew=measured != known)


def read(results_dir: Path) -> dict[Key, dict[int, float]]:
    """Return what was measured below this directory; a file that cannot be read counts as none."""
    try:
        rows = json.loads((results_dir / PACKING_NAME).read_text(encoding="utf-8"))
        return {
            (str(row["device"]), str(row["kind"])): {
                int(size): math.inf if each is None else float(each) for size, each in row["seconds"].items()
            }
            for row in rows
            if "1" in row["seconds"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write(results_dir: Path, measured: Measured) -> None:
    """Write down what was measured."""
    rows = [
        {
            "device": device,
            "kind": kind,
            "seconds": {str(k): None if math.isinf(seconds[k]) else seconds[k] for k in sorted(seconds)},
        }
        for (device, kind), seconds in sorted(measured.items())
    ]
    write_text(results_dir / PACKING_NAME, json.dumps(rows, indent=1))


def _try(pack: Pack, probe: Probe) -> dict[int, float] | None:
    """Return seconds of a trial-step by size, inf where memory ran out; None where it cannot be measured."""

    def seconds_of(some: Pack) -> float | None:
        # with the study's own n_select: what the executor has loaded for it serves here too, and the other way round
        return probe(calibrate.shortened(some, STEPS, n_select=some.trials[0].budget.n_select))

    alone = [seconds_of(one) for one in _alone(pack)]
    if any(each is None or math.isinf(each) for each in alone):
        return None
    seconds = {1: sum(each for each in alone if each is not None) / len(alone)}
    for size in sizes(pack.size)[1:]:
        each = seconds_of(Pack(trials=pack.trials[-size:]))
        if each is None:
            return None
        seconds[size] = each
    return seconds


def _alone(pack: Pack) -> tuple[Pack, ...]:
    """Return packs of one that stand for the members on their own: the first and, where its rank differs, the last."""
    first, last = pack.trials[0], pack.trials[-1]
    chosen = (last,) if first.rank == last.rank else (first, last)
    return tuple(Pack(trials=(trial,)) for trial in chosen)


def _largest_by_kind(packs: Iterable[Pack]) -> dict[str, Pack]:
    """Return the largest pack of each kind, of the highest ranks where several are as large."""
    found: dict[str, Pack] = {}
    for pack in packs:
        kind = planner.kind_of(pack.trials[-1])
        if kind not in found or _weight(pack) > _weight(found[kind]):
            found[kind] = pack
    return found


def _weight(pack: Pack) -> tuple[int, int]:
    return pack.size, pack.trials[-1].rank or 0


def _steps_left(packs: Iterable[Pack], kind: str, finished: Collection[str]) -> int:
    of_kind = (pack for pack in packs if planner.kind_of(pack.trials[-1]) == kind)
    return sum(t.budget.max_steps for pack in of_kind for t in pack.trials if t.trial_id not in finished)


def _line(pack: Pack, seconds: Mapping[int, float] | None, varied: Sequence[str]) -> str:
    own = varying.of_trials(pack.trials)
    told = varying.words_of(pack.trials[0], [name for name in varied if name not in own])  # what tells kinds apart
    named = ", ".join(part for part in (calibrate.names(pack), told) if part)
    text = f"packs of {named}: {'one trial' if pack.size == 1 else f'up to {pack.size} trials'}"
    if not seconds or (pack.size > 1 and settled(seconds, pack.size) is None):
        return text if pack.size == 1 else f"{text}, as many as may fit into memory; their speed was not measured"
    tried = ", ".join(_tried(size, seconds[size]) for size in sorted(seconds))
    return f"{text}, by measurement: a trial-step takes {tried}"


def _tried(size: int, seconds: float) -> str:
    place = "alone" if size == 1 else f"in a pack of {size}"
    return f"more than the memory {place}" if math.isinf(seconds) else f"{1e3 * seconds:.3g} ms {place}"
