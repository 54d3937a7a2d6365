"""What every file of bench/searches/ must hold: it ends, and a resumed sweep ends as an uninterrupted one."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench import searches, store
from bench.core import keys
from bench.core.errors import BadInput
from bench.core.spec import Study, Trial
from bench.study import resolve
from tests.support.sweep_helpers import (
    ETA_A,
    TRIALS,
    FakeEngine,
    comparable,
    ids,
    interrupt_at,
    journal_of,
    rows,
    run,
    study,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
N_TRIALS = 9  # of each method; no multiple of a pack's 4
every_search = pytest.mark.parametrize("name", searches.names())


def a_study(name: str) -> Study:
    return study(sampler=name, n_trials=None if searches.get(name).planned else N_TRIALS)


def expected(name: str) -> dict[str, int]:
    """How many trials of each method a whole run has; only a grid has LoRA, which has no grid of its own."""
    every = Counter(one.method for one in TRIALS)
    return dict(every) if searches.get(name).planned else dict.fromkeys(set(every) - {"lora"}, N_TRIALS)


def trained(engine: FakeEngine) -> list[Trial]:
    """Return the trials that were begun, each once."""
    return list(dict.fromkeys(one for pack in engine.packs for one in pack.trials))


@every_search
def test_it_ends_after_its_trials_each_once_and_within_the_grid(tmp_path: Path, name: str) -> None:
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine, of=a_study(name))
    never = [row for row in store.load_pruned(tmp_path / "s").to_pylist() if row["steps_done"] == 0]
    ended = Counter(one.method for one in trained(engine)) + Counter(row["method"] for row in never)
    assert ended == expected(name)
    assert not never or searches.get(name).rungs is not None
    assert done.n_finished + done.n_pruned == done.n_trials == sum(expected(name).values())
    assert (done.n_pruned > 0) == (searches.get(name).rungs is not None)
    assert len(set(engine.legs)) == len(engine.legs)
    assert len(set(engine.trained)) == len(engine.trained)
    assert all(min(ETA_A) <= one.eta_A <= max(ETA_A) for one in trained(engine))
    assert {one.seed for one in trained(engine)} == {0, 1}
    if searches.get(name).planned:
        assert sorted([*ids(trained(engine)), *(row["trial_id"] for row in never)]) == ids(TRIALS)


@every_search
@pytest.mark.parametrize("n", [0, 1, 4])
@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_a_resumed_sweep_proposes_what_is_missing_and_nothing_twice(
    tmp_path: Path, name: str, n: int, journal: str
) -> None:
    run(tmp_path / "whole", TRIALS, of=a_study(name))
    first, second, third = interrupt_at(n), FakeEngine(), FakeEngine()
    run(tmp_path / "parts", TRIALS, first, of=a_study(name))
    if journal == "lost":
        journal_of(tmp_path / "parts").unlink()
    finished = {str(row["trial_id"]) for row in rows(tmp_path / "parts")}
    run(tmp_path / "parts", TRIALS, second, of=a_study(name))
    run(tmp_path / "parts", TRIALS, third, of=a_study(name))
    assert not set(second.trained) & finished
    assert third.packs == []
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    parts, whole = (store.load_pruned(tmp_path / one / "s") for one in ("parts", "whole"))
    assert comparable(parts) == comparable(whole)


@every_search
def test_what_it_needs_of_a_study(name: str) -> None:
    assert keys.TOP["sampler"].value(name, "sampler") == name
    given = {"study": "demo", "sampler": name, "n_trials": "7"}
    if searches.get(name).planned:
        with pytest.raises(BadInput, match="n-trials: must be left out"):
            resolve.load(overrides=given)
        assert resolve.load(overrides={"study": "demo", "sampler": name}).sampler == name
        return
    assert resolve.load(overrides=given).n_trials == 7
    with pytest.raises(BadInput, match="n_trials: must be given"):
        resolve.load(overrides={"study": "demo", "sampler": name})


@every_search
def test_a_sample_costs_what_the_search_will(name: str) -> None:
    one = searches.get(name)
    found = one.sample(TRIALS, None if one.planned else N_TRIALS)
    assert set(found) <= set(TRIALS)
    by_method = Counter(member.method for member in found)
    assert by_method == (
        Counter(member.method for member in TRIALS) if one.planned else dict.fromkeys(by_method, N_TRIALS)
    )
    assert {member.eta_A for member in found} == set(ETA_A)


def test_a_search_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(BadInput, match="known: grid, halving, tpe"):
        keys.TOP["sampler"].value("cmaes", "sampler")
    with pytest.raises(BadInput, match="known: grid, halving, tpe"):
        searches.get("cmaes")


def test_searches_are_listed_without_optuna() -> None:
    told = "print([s.get(n).planned for n in s.names()], 'optuna' in sys.modules)"
    code = f"import sys; from bench import searches as s; {told}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[True, True, False] False"
