"""Pack sizes by measurement: never slower than alone, tried only where it pays, the same after an interruption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import store, sweep
from bench.core.clock import Clock
from bench.core.spec import Pack, Trial
from bench.engine import probe
from bench.engine.run import EngineOptions
from bench.executors.local import LocalExecutor
from bench.schedule import pack_sizes, planner
from bench.schedule.estimate import Place
from bench.schedule.planner import Limits
from bench.sweep.events import Event, Noted
from tests.support import sweep_helpers as helpers
from tests.support.engine_helpers import random_data, tiny_model
from tests.support.engine_helpers import trial as engine_trial
from tests.support.throughput_helpers import Ticks

PLACE = Place(device="cpu")
LONG = replace(helpers.BUDGET, max_steps=1000, eval_steps=500)


def loras(n: int, **changes: object) -> tuple[Trial, ...]:
    return tuple(helpers.trial(eta_A=1e-5 * (i + 1), budget=LONG, **changes) for i in range(n))


class Probe:
    """Says the seconds of a trial-step by pack size, and remembers what it was asked."""

    def __init__(self, seconds: Mapping[int, float | None]) -> None:
        self.seconds, self.asked = seconds, list[Pack]()

    def __call__(self, pack: Pack) -> float | None:
        self.asked.append(pack)
        return self.seconds[pack.size]


def settle(trials: tuple[Trial, ...], directory: Path, probe: Probe) -> Limits:
    return pack_sizes.settle(trials, Limits(), results_dir=directory, finished=(), place=PLACE, probe=probe).limits


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({1: 3.0, 4: 2.0, 16: 1.0}, 16),
        ({1: 3.0, 4: 2.0, 16: 2.5}, 4),
        ({1: 3.0, 4: 3.1, 16: 3.01}, 1),
        ({1: 3.0, 4: 2.0, 16: 2.0 * (1 + 0.9 * pack_sizes.TIE)}, 16),
        ({1: 3.0, 4: 3.0, 16: 3.0}, 16),
        ({1: 3.0}, 1),
    ],
)
def test_the_fastest_size_is_taken_and_none_slower_than_alone(seconds: dict[int, float], size: int) -> None:
    assert pack_sizes.best(seconds) == size


def test_a_measurement_tells_nothing_of_packs_larger_than_its_best() -> None:
    rising = {1: 3.0, 2: 2.0, 5: 1.0}
    assert pack_sizes.settled(rising, 5) == 5
    assert pack_sizes.settled(rising, 3) == 3
    assert pack_sizes.settled(rising, 16) is None
    assert pack_sizes.settled({1: 3.0, 2: 2.0, 5: 4.0}, 16) == 2
    assert pack_sizes.settled(None, 16) is None


def test_sizes_are_tried_on_short_packs_of_the_grid_and_written_down(tmp_path: Path) -> None:
    trials = loras(12)
    seen = Probe({1: 2.0, 3: 1.0, 12: 3.0})
    limits = settle(trials, tmp_path, seen)
    assert [pack.size for pack in seen.asked] == [1, 3, 12]
    assert {t.budget.max_steps for pack in seen.asked for t in pack.trials} == {pack_sizes.STEPS}
    assert {t.budget.n_select for pack in seen.asked for t in pack.trials} == {LONG.n_select}, "loaded once for all"
    assert [pack.size for pack in planner.plan(trials, limits=limits)] == [3] * 4
    assert pack_sizes.read(tmp_path) == {("cpu", planner.kind_of(trials[0])): {1: 2.0, 3: 1.0, 12: 3.0}}
    again = Probe({})
    assert settle(trials, tmp_path, again) == limits
    assert again.asked == []
    other = pack_sizes.apply(Limits(), planner.plan(trials), pack_sizes.read(tmp_path), Place(device="another"))
    assert other.measured == {}


def test_alone_is_the_mean_of_the_ranks_that_a_pack_mixes(tmp_path: Path) -> None:
    trials = (*loras(3, rank=2, lora_alpha=2.0), *loras(3, rank=64, lora_alpha=64.0))
    each = iter([1.0, 3.0, 2.5, 2.1])

    def probe(pack: Pack) -> float:
        asked.append(pack)
        return next(each)

    asked: list[Pack] = []
    limits = pack_sizes.settle(trials, Limits(), results_dir=tmp_path, finished=(), place=PLACE, probe=probe).limits
    assert [(pack.size, pack.trials[0].rank) for pack in asked] == [(1, 2), (1, 64), (2, 64), (6, 2)]
    assert list(limits.measured.values()) == [1], "2.1 seconds are more than the mean of 1 and 3"


def test_trying_that_costs_more_than_it_is_worth_is_left(tmp_path: Path) -> None:
    trials = loras(4)
    steps = pack_sizes.cost(planner.plan(trials)[0])
    assert steps == pack_sizes.STEPS * (1 + 2 + 4)
    enough = math.ceil(steps / pack_sizes.WORTH / 4)
    for n_steps, n_asked in ((enough - 1, 0), (enough, 3)):
        short = tuple(replace(t, budget=replace(LONG, max_steps=n_steps)) for t in trials)
        seen = Probe({1: 1.0, 2: 1.0, 4: 1.0})
        settle(short, tmp_path / str(n_steps), seen)
        assert len(seen.asked) == n_asked
    seen = Probe({})
    short = tuple(replace(t, budget=replace(LONG, max_steps=enough)) for t in trials)
    pack_sizes.measure(planner.plan(short), [t.trial_id for t in short[:3]], {}, PLACE, seen)
    assert seen.asked == [], "what is finished is no work that trying could save"


def test_a_size_that_does_not_fit_is_none_and_a_probe_that_cannot_tell_decides_nothing(tmp_path: Path) -> None:
    trials = loras(9)
    assert settle(trials, tmp_path / "a", Probe({1: 1.0, 3: 0.9, 9: math.inf})).measured != {}
    assert list(settle(trials, tmp_path / "a", Probe({})).measured.values()) == [3]
    assert pack_sizes.read(tmp_path / "a").popitem()[1][9] == math.inf
    assert settle(trials, tmp_path / "b", Probe({1: None, 3: 1.0, 9: 1.0})).measured == {}
    assert settle(trials, tmp_path / "c", Probe({1: math.inf})).measured == {}
    assert pack_sizes.read(tmp_path / "c") == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"device": 1}]', '[{"device": "d", "kind": "k", "seconds": 3}]'])
def test_a_broken_file_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / pack_sizes.PACKING_NAME).write_text(text)
    assert pack_sizes.read(tmp_path) == {}


def test_trials_run_alone_side_by_side_never_where_the_method_says_so(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("eta_B", "rank", "lora_alpha", "lora_dropout", "init", "target_modules"))
    seen = Probe({})
    assert settle(loras(5, method="full", **nothing), tmp_path, seen).measured == {}
    assert seen.asked == []


# --- in a sweep ------------------------------------------------------------------------------------------------------


def swept(
    directory: Path, trials: tuple[Trial, ...], seen: Probe, *, engine: helpers.FakeEngine, **study: Any
) -> list[Event]:
    one: LocalExecutor[None] = LocalExecutor(
        load=lambda t: None, train=engine, provenance=helpers.PROVENANCE, metric_name="accuracy",
        probe=lambda pack, _: seen(pack),  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    events: list[Event] = []
    of = helpers.study(**{"pack_size": None, "budget": LONG, **study})
    sweep.run(of, trials, results_dir=directory, executor=one, options=helpers.OPTIONS, on_event=events.append)
    return events


def parts(directory: Path) -> list[str]:
    return sorted(set(store.load(directory / "s").column("pack_id").to_pylist()))


def test_a_sweep_falls_back_to_single_trials_where_a_pack_is_slower(tmp_path: Path) -> None:
    engine, trials = helpers.FakeEngine(), loras(4)
    events = swept(tmp_path, trials, Probe({1: 1.0, 2: 1.1, 4: 1.2}), engine=engine)
    assert [pack.size for pack in engine.packs] == [1] * 4
    (line,) = [event.text for event in events if isinstance(event, Noted)]
    assert line.startswith("packs of lora+: one trial, by measurement: a trial-step takes 1e+03 ms alone, 1.1e+03 ms")
    of = helpers.study(pack_size=None, budget=LONG)
    shown = sweep.preview(of, trials, results_dir=tmp_path, options=helpers.OPTIONS)
    assert (len(shown.packs), shown.packing) == (4, (line,))


def test_an_interrupted_sweep_forms_the_packs_of_an_uninterrupted_one(tmp_path: Path) -> None:
    trials, seconds = loras(12), {1: 2.0, 3: 1.0, 12: 1.5}
    swept(tmp_path / "whole", trials, Probe(seconds), engine=helpers.FakeEngine())

    def stop(pack: Pack) -> None:
        if len(engine.packs) == 2:
            raise KeyboardInterrupt

    engine = helpers.FakeEngine(before=stop)
    swept(tmp_path / "torn", trials, Probe(seconds), engine=engine)
    assert len(parts(tmp_path / "torn")) == 2
    later = Probe({})
    swept(tmp_path / "torn", trials, later, engine=helpers.FakeEngine())
    assert later.asked == []
    assert parts(tmp_path / "torn") == parts(tmp_path / "whole")
    assert len(parts(tmp_path / "whole")) == 4


def test_a_pack_size_that_the_study_sets_is_not_tried(tmp_path: Path) -> None:
    seen, engine = Probe({}), helpers.FakeEngine()
    swept(tmp_path, loras(12), seen, engine=engine, pack_size=6)
    assert seen.asked == []
    assert [pack.size for pack in engine.packs] == [6, 6]


# --- with the engine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_trials", [1, 3])
def test_the_probe_times_steps_and_keeps_nothing(n_trials: int) -> None:
    loaded, data = tiny_model(), random_data()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    pack = Pack(trials=tuple(engine_trial(eta_A=1e-3 * (i + 1)) for i in range(n_trials)))
    found = probe.seconds_per_trial_step(
        pack, data, loaded, EngineOptions(device=torch.device("cpu")), clock=Clock(now=Ticks())
    )
    assert found == 1 / n_trials, "a step lies between two looks at the clock"
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_an_executor_knows_running_out_of_memory_from_what_it_cannot_tell() -> None:
    def ask(error: Exception) -> float | None:
        def fail(pack: Pack, loaded: None) -> float:
            raise error

        one: LocalExecutor[None] = LocalExecutor(
            load=lambda t: None, train=helpers.FakeEngine(), provenance=helpers.PROVENANCE, metric_name="m", probe=fail
        )
        return one.seconds_per_trial_step(Pack(trials=loras(1)))

    assert ask(MemoryError()) == math.inf
    assert ask(RuntimeError("CUDA out of memory")) == math.inf
    assert ask(RuntimeError("the cable is out")) is None
    assert helpers.executor(helpers.FakeEngine()).seconds_per_trial_step(Pack(trials=loras(1))) is None
