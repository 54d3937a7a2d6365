"""Packs on virtual devices in virtual time: list scheduling with stragglers and losses, against the lower bound."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.spec import Pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """How a simulated sweep ended; times in virtual seconds."""

    makespan: float
    lower_bound: float  # max of (all work done / devices that live) and the longest pack
    n_packs: int
    n_lost: int  # packs that a lost device took with it, run again elsewhere
    runs: Counter[str]  # finished runs by trial_id


def simulate(
    packs: Sequence[Pack],
    *,
    n_devices: int,
    seed: int,
    straggler_share: float = 0.05,
    straggler_factor: float = 3.0,
    loss_share: float = 0.02,
    seconds_per_trial: float = 60.0,
) -> Simulation:
    """Run packs in their order, each on the device that is free first.

    A pack of K takes K * seconds_per_trial, +-20 %; a straggler device is slower by straggler_factor throughout, and a
    lost one disappears with its pack at a random moment of the mean makespan: the pack is run again by the next device.
    """
    chance = random.Random(seed)
    speed = [1 / straggler_factor if chance.random() < straggler_share else 1.0 for _ in range(n_devices)]
    cost = [pack.size * seconds_per_trial * chance.uniform(0.8, 1.2) for pack in packs]
    ideal = sum(cost) / sum(speed)
    dies = [chance.uniform(0, ideal) if chance.random() < loss_share else math.inf for _ in range(n_devices)]
    waiting, lost = deque(range(len(packs))), list[tuple[float, int]]()  # lost: (when that was noticed, pack)
    free = [(0.0, device) for device in range(n_devices)]
    runs: Counter[str] = Counter()
    makespan, n_lost = 0.0, 0
    while waiting or lost:
        now, device = heapq.heappop(free)
        if now >= dies[device]:
            continue
        if lost and (lost[0][0] <= now or not waiting):
            noticed, i = heapq.heappop(lost)
            now = max(now, noticed)
        else:
            i = waiting.popleft()
        end = now + cost[i] / speed[device]
        if end > dies[device]:
            heapq.heappush(lost, (max(now, dies[device]), i))
            n_lost += 1
            continue
        heapq.heappush(free, (end, device))
        runs.update(trial.trial_id for trial in packs[i].trials)
        makespan = max(makespan, end)
    return Simulation(makespan=makespan, lower_bound=_bound(cost, speed, dies), n_packs=len(packs), n_lost=n_lost,
                      runs=runs)  # fmt: skip


def _bound(cost: Sequence[float], speed: Sequence[float], dies: Sequence[float]) -> float:
    """Return the time before which no schedule can end: all work on devices while they live; the longest pack."""
    work, low, high = sum(cost), 0.0, 2 * sum(cost)
    for _ in range(100):
        middle = (low + high) / 2
        done = sum(s * min(middle, d) for s, d in zip(speed, dies, strict=True))
        low, high = (middle, high) if done < work else (low, middle)
    return max(high, max(cost) / max(speed))
