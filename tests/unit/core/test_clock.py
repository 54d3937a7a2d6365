"""Phases: what is spent in one is never another's, and both ends wait for the device."""

from __future__ import annotations

import pytest

from bench.core import seeds
from bench.core.clock import Clock


class Device:
    """A fake clock and a device with work queued: time passes when someone waits for it."""

    def __init__(self) -> None:
        self.time, self.queued, self.synchronized = 0.0, 0.0, 0

    def now(self) -> float:
        return self.time

    def synchronize(self) -> None:
        self.synchronized += 1
        self.time, self.queued = self.time + self.queued, 0.0


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def clock(device: Device) -> Clock:
    return Clock(now=device.now, synchronize=device.synchronize)


def test_evaluation_is_never_train_time(device: Device, clock: Clock) -> None:
    for _ in range(3):
        with clock.phase("train"):
            device.queued += 2.0  # queued inside, done only when someone waits
        with clock.phase("eval"):
            device.queued += 50.0
        device.time += 1000.0  # between the phases: nobody's
    assert (clock.seconds("train"), clock.seconds("eval")) == (6.0, 150.0)
    assert device.synchronized == 12


def test_work_queued_before_a_phase_is_not_its_own(device: Device, clock: Clock) -> None:
    device.queued = 7.0
    with clock.phase("train"):
        device.time += 1.0
    assert clock.seconds("train") == 1.0


def test_what_is_spent_apart_is_taken_out_of_the_phase_that_runs(device: Device, clock: Clock) -> None:
    with clock.phase("train"):
        device.queued += 3.0
        with clock.apart("compile"):
            device.time += 10.0
            device.queued += 1.0
        device.time += 2.0
    assert clock.all_seconds() == {"compile": 11.0, "train": 5.0}, "what was queued before is training's"
    with clock.apart("compile"):
        device.time += 1.0
    assert clock.all_seconds() == {"compile": 12.0, "train": 5.0}


def test_a_phase_that_never_ran_is_missing_and_not_zero(clock: Clock) -> None:
    assert clock.seconds("compile") is None


def test_phases_do_not_nest_and_an_exception_ends_one(device: Device, clock: Clock) -> None:
    def nest() -> None:
        with clock.phase("train"):
            device.time += 3.0
            with clock.phase("eval"):
                pass

    with pytest.raises(RuntimeError, match="eval cannot start within train"):
        nest()
    with clock.phase("eval"):
        device.time += 1.0
    assert (clock.seconds("train"), clock.seconds("eval")) == (3.0, 1.0)


def test_a_seed_depends_on_its_purpose_and_on_each_component() -> None:
    drawn = [seeds.derive("order", 0), seeds.derive("order", 1), seeds.derive("init", 0), seeds.derive("order", 0, 0)]
    assert len(set(drawn)) == 4
    assert all(0 <= seed < 2**63 for seed in drawn)
    assert (
        seeds.derive("order", 12, "query") == seeds.derive("order", 12, "query") == 1796155875641922813
    )  # sha256sum, first 16 digits, halved
