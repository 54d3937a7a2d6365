"""The sweep as a search: TPE over the grid's space, resumed and variant by variant."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.errors import BadInput
from bench.core.spec import MethodGrid
from tests.support.sweep_helpers import (
    ETA_A,
    TRIALS,
    FakeEngine,
    complete,
    interrupt_at,
    journal_of,
    rows,
    run,
    score,
    study,
    trial,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")


def tpe(**changes: object) -> object:
    return study(sampler="tpe", n_trials=24, **changes)


def test_tpe_searches_the_grids_space_and_finds_better_than_its_first_points(tmp_path: Path) -> None:
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine, of=tpe())  # type: ignore[arg-type]
    assert (done.exit_code, done.n_trials, done.n_finished) == (0, 72, 72)
    assert {pack.size for pack in engine.packs} == {4, 1}
    by_method = {m: [t for p in engine.packs for t in p.trials if t.method == m] for m in ("lora+", "mora", "full")}
    assert {m: len(found) for m, found in by_method.items()} == {"lora+": 24, "mora": 24, "full": 24}
    for found in by_method.values():
        assert all(min(ETA_A) <= t.eta_A <= max(ETA_A) for t in found)
        assert len({t.eta_A for t in found}) > 20
        assert {t.seed for t in found} == {0, 1}
    ratios = [t.lr_ratio for t in by_method["lora+"] if t.lr_ratio is not None]
    assert 1 <= min(ratios) < 4
    assert 4 < max(ratios) <= 16
    early, late = by_method["mora"][:10], by_method["mora"][10:]
    assert sum(map(score, late)) / len(late) > sum(map(score, early)) / len(early) + 0.05
    by_id = {row["trial_id"]: row for row in rows(tmp_path)}
    for one in complete(tmp_path):
        row = by_id[one.user_attrs["trial_id"]]
        assert row["eta_A"] == pytest.approx(one.params["eta_A"], rel=1e-11)
        assert row["lr_ratio"] == pytest.approx(one.params["lr_ratio"], rel=1e-11)
        assert one.value == (0.0 if row["status"] == "diverged" else row["select_metric"])


@pytest.mark.parametrize("n", [1, 9])
def test_a_resumed_search_ends_as_an_uninterrupted_one(tmp_path: Path, n: int) -> None:
    run(tmp_path / "whole", TRIALS, of=tpe())  # type: ignore[arg-type]
    run(tmp_path / "parts", TRIALS, interrupt_at(n), of=tpe())  # type: ignore[arg-type]
    assert run(tmp_path / "parts", TRIALS, of=tpe()).n_finished == 72  # type: ignore[arg-type]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    again = FakeEngine()
    run(tmp_path / "parts", TRIALS, again, of=tpe())  # type: ignore[arg-type]
    assert again.packs == []


def test_a_search_whose_journal_is_gone_goes_on_from_the_rows(tmp_path: Path) -> None:
    run(tmp_path, TRIALS, interrupt_at(9), of=tpe())  # type: ignore[arg-type]
    kept = rows(tmp_path)
    journal_of(tmp_path).unlink()
    assert run(tmp_path, TRIALS, of=tpe()).n_finished == 72  # type: ignore[arg-type]
    assert [row for row in rows(tmp_path) if row in kept] == kept
    assert len(complete(tmp_path)) == 24


def test_a_search_searches_each_variant_on_its_own_and_ties_alpha_to_rank(tmp_path: Path) -> None:
    bare = {"eta_B": None, "init": None}
    trials = tuple(
        trial(method="mora", mora_type=t, mora_rounding="floor", rank=r, lora_alpha=None, eta_A=e, **bare)
        for t in (1, 6) for r in (2, 8) for e in (1e-4, 1e-2)
    )  # fmt: skip
    trials += tuple(trial(eta_A=e, eta_B=4 * e, rank=r, lora_alpha=2.0 * r) for e in (1e-4, 1e-3) for r in (4, 32))
    grids = (MethodGrid(method="mora", axes=()), MethodGrid(method="lora+", axes=(("lr_ratio", (4.0, 8.0)),)))
    engine = FakeEngine()
    run(tmp_path, trials, engine, of=study(sampler="tpe", n_trials=8, widen=False, grids=grids, seeds=(0,)))
    found = [t for pack in engine.packs for t in pack.trials]
    for kind in (1, 6):
        assert sum(t.mora_type == kind for t in found) == 8
        assert len(complete(tmp_path, f"s/demo/tiny/mora/mora_type={kind}")) == 8
    loras = [t for t in found if t.method == "lora+"]
    assert all(t.rank is not None and 4 <= t.rank <= 32 and t.lora_alpha == 2 * t.rank for t in loras)
    assert len({t.rank for t in loras}) > 2


def test_a_search_of_one_point_is_bad_input(tmp_path: Path) -> None:
    only = study(sampler="tpe", n_trials=4, grids=(MethodGrid(method="full", axes=()),))
    full = tuple(t for t in TRIALS if t.method == "full" and t.eta_A == 1e-3)
    with pytest.raises(BadInput, match="sampler tpe must have a range to search"):
        run(tmp_path, full, of=only)


def test_a_space_of_few_points_comes_to_its_end_and_stays_there(tmp_path: Path) -> None:
    """A choice that is there already is no trial: the search has all points, whether it was killed or not."""
    trials = tuple(trial(method="mora", mora_type=6, mora_rounding="floor", rank=r, lora_alpha=None, eta_B=None,
                         init=None) for r in (2, 5))  # fmt: skip
    few = study(sampler="tpe", n_trials=12, widen=False, grids=(MethodGrid(method="mora", axes=()),), seeds=(0,))
    whole = run(tmp_path / "whole", trials, of=few)
    assert {row["rank"] for row in rows(tmp_path / "whole")} == {2, 3, 4, 5}
    assert whole.n_finished == 4
    run(tmp_path / "parts", trials, interrupt_at(1), of=few)
    for _ in range(2):
        last = FakeEngine()
        run(tmp_path / "parts", trials, last, of=few)
    assert last.packs == []
    settings = [[(row["rank"], row["pack_id"]) for row in rows(tmp_path / one)] for one in ("whole", "parts")]
    assert settings[0] == settings[1]
