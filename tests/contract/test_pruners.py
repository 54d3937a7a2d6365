"""What every file of bench/pruners/ must hold: Optuna's decisions, the same in a resumed sweep, and nothing lost."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from bench import pruners, store
from bench.core import keys
from bench.core.errors import BadInput
from bench.core.spec import Study, Trial
from bench.study import resolve
from bench.sweep.optuna_mirror.pruning import Course, Judge
from tests.support import sweep_helpers
from tests.support.sweep_helpers import (
    TRIALS,
    FakeEngine,
    comparable,
    complete,
    interrupt_at,
    journal_of,
    optuna_trials,
    rows,
    run,
    study,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
N_TRIALS = 18  # of each method; no multiple of a pack's 4
EVERY = 4  # steps of 20: rungs at 4, 8, 12, 16
every_pruner = pytest.mark.parametrize("name", pruners.names())
Whole = Callable[[str], tuple[Path, int]]
SHORT = tuple(replace(one, budget=replace(one.budget, eval_steps=EVERY)) for one in TRIALS)


def a_study(name: str | None, **changes: object) -> Study:
    return study(**{"sampler": "tpe", "n_trials": N_TRIALS, "pruner": name, "budget": SHORT[0].budget, **changes})


def pruned(directory: Path) -> list[dict[str, object]]:
    return comparable(store.load_pruned(directory / "s"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, int]]:
    """Return what gives the directory of an uninterrupted sweep, and how many packs it took."""

    @functools.cache
    def swept(name: str) -> tuple[Path, int]:
        directory, engine = tmp_path_factory.mktemp(name), FakeEngine()
        run(directory, SHORT, engine, of=a_study(name))
        return directory, len(engine.packs)

    return swept


@every_pruner
def test_some_stop_and_all_are_counted(tmp_path: Path, name: str) -> None:
    engine = FakeEngine()
    done = run(tmp_path, SHORT, engine, of=a_study(name))
    assert done.n_trials == 3 * N_TRIALS == done.n_finished + done.n_pruned
    assert done.n_pruned > 0
    assert len(set(engine.legs)) == len(engine.legs)
    assert len(set(engine.trained)) == len(engine.trained)
    for row in pruned(tmp_path):
        assert (row["status"], row["metric_value"]) == ("pruned", None)
        assert row["reason"] == f"pruner {name} at step {row['steps_done']}"
        assert row["steps_done"] in range(EVERY, 20, EVERY)
    ended = {str(row["trial_id"]) for row in rows(tmp_path)}
    assert not ended & {str(row["trial_id"]) for row in pruned(tmp_path)}
    again = FakeEngine()
    assert run(tmp_path, SHORT, again, of=a_study(name)).n_pruned == done.n_pruned
    assert again.packs == []
    states = Counter(one.state for one in optuna_trials(tmp_path))
    mine = [row for row in pruned(tmp_path) if row["method"] == "lora+"]
    assert (states[TrialState.PRUNED], len(complete(tmp_path))) == (len(mine), N_TRIALS - len(mine))


@every_pruner
@pytest.mark.parametrize("part", [0.1, 0.4, 0.95, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.0, 0.7))])
def test_a_resumed_sweep_decides_the_same(tmp_path: Path, whole: Whole, name: str, part: float) -> None:
    directory, n_packs = whole(name)
    run(tmp_path / "parts", SHORT, interrupt_at(int(part * n_packs)), of=a_study(name))
    before = rows(tmp_path / "parts")
    run(tmp_path / "parts", SHORT, interrupt_at(2), of=a_study(name))
    engine = FakeEngine()
    run(tmp_path / "parts", SHORT, engine, of=a_study(name))
    assert not set(engine.trained) & {str(row["trial_id"]) for row in before}
    assert rows(tmp_path / "parts") == rows(directory)
    assert pruned(tmp_path / "parts") == pruned(directory)


@every_pruner
@pytest.mark.parametrize("part", [0.15, 0.3])  # while the search of the method that diverges is under way
def test_a_resumed_sweep_judges_by_the_same_curves_where_many_diverge(
    tmp_path: Path, name: str, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A diverged row's curve may hold more than its last rung: it is read after a resume, and not while it trains."""
    monkeypatch.setattr(sweep_helpers, "DIVERGES_FROM", 2e-3)
    known: dict[frozenset[Course], set[frozenset[Course]]] = {}
    stopped = Judge.stopped

    def noting(judge: Judge, asked: Sequence[Course], others: Sequence[Course]) -> set[str]:
        known.setdefault(frozenset(asked), set()).add(frozenset(others))
        return stopped(judge, asked, others)

    monkeypatch.setattr(Judge, "stopped", noting)
    engine = FakeEngine()
    run(tmp_path / "whole", SHORT, engine, of=a_study(name))
    assert sum(row["status"] == "diverged" for row in rows(tmp_path / "whole")) > 4
    run(tmp_path / "parts", SHORT, interrupt_at(int(part * len(engine.packs))), of=a_study(name))
    run(tmp_path / "parts", SHORT, of=a_study(name))
    assert {len(others) for others in known.values()} == {1}
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert pruned(tmp_path / "parts") == pruned(tmp_path / "whole")


@every_pruner
def test_without_the_journal_those_at_work_go_on_and_nothing_finished_is_lost(tmp_path: Path, name: str) -> None:
    run(tmp_path, SHORT, interrupt_at(9), of=a_study(name))
    kept, chosen = rows(tmp_path), {row["trial_id"] for row in store.load_rungs(tmp_path / "s").to_pylist()}
    journal_of(tmp_path).unlink()
    engine = FakeEngine()
    done = run(tmp_path, SHORT, engine, of=a_study(name))
    assert done.n_finished + done.n_pruned == 3 * N_TRIALS
    ended = {str(row["trial_id"]) for row in (*rows(tmp_path), *pruned(tmp_path))}
    assert chosen <= ended
    assert all(row in rows(tmp_path) for row in kept)
    assert not {str(row["trial_id"]) for row in kept} & set(engine.trained)


@every_pruner
def test_a_survivor_is_the_trial_that_an_unpruned_sweep_trains(tmp_path: Path, whole: Whole, name: str) -> None:
    """The first turns are drawn at random, whatever was stopped: those that end have the same rows."""
    run(tmp_path, SHORT, of=a_study(None))
    mine, theirs = ({str(r["trial_id"]): r for r in rows(one)} for one in (whole(name)[0], tmp_path))
    both = mine.keys() & theirs.keys()
    assert len(both) > 3
    differ = {"pack_id", "pack_size"}
    for one in both:
        assert {k: v for k, v in mine[one].items() if k not in differ} == {
            k: v for k, v in theirs[one].items() if k not in differ
        }


@every_pruner
def test_the_pruner_is_optunas_own_and_its_order_does_not_matter(name: str) -> None:
    """Trials that come one after another are judged as Optuna's `should_prune` judges them."""
    new = functools.partial(pruners.get(name).new, 1, 9)
    losses = {f"{17 * i:016x}": [((i * 7 + 3 * step) % 11) / (step + 1) for step in range(9)] for i in range(1, 25)}
    expected = _by_optuna(new(), losses)
    judge, ended, found = Judge(new(), "s"), list[Course](), dict[str, int]()
    for trial_id, values in losses.items():
        for n in range(1, len(values)):
            course = Course(trial_id=trial_id, losses=tuple(enumerate(values[:n], 1)))
            if judge.stopped([course], ended[::-1]):
                found[trial_id] = n
                break
        else:
            course = Course(trial_id=trial_id, losses=tuple(enumerate(values, 1)), complete=True)
        ended.append(course)
    assert 3 < len(found) < 24
    assert found == expected


def _by_optuna(pruner: optuna.pruners.BasePruner, losses: dict[str, list[float]]) -> dict[str, int]:
    """Return where Optuna stops trials, each of whose numbers is that of its id."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    one = optuna.create_study(study_name="s", pruner=pruner)
    found = {}
    for trial_id, values in losses.items():
        trial = one.ask()
        one.get_trials(deepcopy=False)[-1].number = int(trial_id, 16)
        for n, value in enumerate(values, 1):
            trial.report(value, n)
            if n < len(values) and trial.should_prune():
                found[trial_id] = n
                break
        state = TrialState.PRUNED if trial_id in found else TrialState.COMPLETE
        one._storage.set_trial_state_values(trial._trial_id, state, [values[-1]] if trial_id not in found else None)
    return found


@every_pruner
def test_where_it_may_be_given(name: str) -> None:
    given = {"study": "demo", "sampler": "tpe", "n_trials": "7", "pruner": name}
    assert resolve.load(overrides={**given, "eval_steps": "20"}).pruner == name
    with pytest.raises(BadInput, match="needs an evaluation before the last step"):
        resolve.load(overrides={**given, "eval_steps": "80"})
    for sampler in ("grid", "halving"):
        with pytest.raises(BadInput, match=f'must be left out with sampler = "{sampler}"'):
            resolve.load(overrides={"study": "demo", "sampler": sampler, "pruner": name})


def test_a_pruner_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(BadInput, match="known: hyperband, median"):
        keys.TOP["pruner"].value("patient", "pruner")
    with pytest.raises(BadInput, match="known: hyperband, median"):
        pruners.get("patient")


def test_pruners_are_listed_without_optuna() -> None:
    told = "print([p.get(name) is None for name in p.names()], 'optuna' in sys.modules)"
    code = f"import sys; from bench import pruners as p; {told}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[False, False] False"


def test_trials_of_a_search_are_chosen_from_the_same_points(tmp_path: Path) -> None:
    """What is paused was chosen: the sampler is not asked for it again."""
    seen: list[Trial] = []
    engine = interrupt_at(1)
    run(tmp_path, SHORT, engine, of=a_study("median"))
    seen += engine.packs[0].trials
    again = FakeEngine()
    run(tmp_path, SHORT, again, of=a_study("median"))
    assert {one.trial_id for one in again.packs[0].trials} == {one.trial_id for one in seen}
