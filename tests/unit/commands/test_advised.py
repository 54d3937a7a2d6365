"""PROFILE=advised: narrow grids from stored rows, refused where nothing is known, kept for the sweep that goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import store
from bench.commands import _last
from bench.commands._options import Selection
from bench.comparison import advised
from bench.core.errors import BadInput
from bench.core.spec import Study
from tests.support.sweep_helpers import records, trial

GIVEN = {"task": "demo", "model": "tiny", "methods": "lora", "rank": "8", "profile": "advised", "device": "cpu"}


def selection(results: Path, **changes: str) -> Selection:
    return Selection(overrides={**GIVEN, **changes}, data_dir=None, results_dir=results)


def write(results: Path, best: float, *, name: str = "earlier", method: str = "lora") -> None:
    """Store a grid of rates around the best one; a step away costs 0.1."""
    for i in (-2, -1, 0, 1, 2):
        one = trial(method=method, model="tiny", eta_A=best * 4.0**i, eta_B=best * 4.0**i)
        value = 0.9 - 0.1 * abs(i)
        made = [replace(r, study=name) for r in records([one], select_metric=value, metric_value=value)]
        store.write(results / name, made)


@pytest.fixture(autouse=True)
def no_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(advised, "REFERENCE", tmp_path / "nowhere")


def rates(study: Study) -> dict[str, Any]:
    return {grid.method: grid.axis("eta_A") for grid in study.grids}


def test_the_grid_is_the_narrow_one_and_all_else_as_the_profile_of_the_device_has_it(tmp_path: Path) -> None:
    write(tmp_path, 2e-3)
    study, merged = selection(tmp_path).trace()
    assert rates(study) == {"lora": (5e-4, 2e-3, 8e-3)}
    assert merged.axis_origin("lora", "eta_A").source == "--profile advised"
    usual = selection(tmp_path, profile="quick").study()
    assert (study.budget, study.seeds, study.name) == (usual.budget, usual.seeds, usual.name)
    assert study.profile == "advised"
    assert rates(selection(tmp_path, eta_A="1e-5,1e-4").study()) == {"lora": (1e-5, 1e-4)}, "an option counts more"


def test_where_nothing_is_known_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--profile advised: needs stored rows of every method.*got none of lora"):
        selection(tmp_path).study()
    write(tmp_path, 2e-3)
    with pytest.raises(BadInput, match="got none of full"):
        selection(tmp_path, methods="lora,full").study()


def test_a_sweep_that_goes_on_has_the_grids_it_began_with(tmp_path: Path) -> None:
    write(tmp_path, 2e-3)
    began = selection(tmp_path)
    study = began.study()
    _last.keep(began, study)
    for name in ("later", study.name):  # rows of another study, and the sweep's own
        write(tmp_path, 6e-2, name=name)
    assert rates(selection(tmp_path).study()) == rates(study)
    read = _last.as_swept(selection(tmp_path, profile="advised"), tell=False)
    assert rates(read.study()) == rates(study)
    usual = {key: text for key, text in GIVEN.items() if key != "profile"}
    assert rates(_last.as_swept(Selection(overrides=usual, data_dir=None, results_dir=tmp_path)).study()) == rates(
        study
    )
    (tmp_path / study.name / advised.NAME).unlink()
    assert rates(selection(tmp_path).study()) != rates(study), "forgotten, it is advised anew"


def test_a_method_that_joins_is_advised_and_the_others_stay(tmp_path: Path) -> None:
    write(tmp_path, 2e-3)
    began = selection(tmp_path)
    _last.keep(began, began.study())
    write(tmp_path, 6e-2, name="later")
    write(tmp_path, 1e-4, name="full", method="full")
    found = rates(selection(tmp_path, methods="lora,full").study())
    assert found["lora"] == (5e-4, 2e-3, 8e-3)
    assert found["full"] == (2.5e-5, 1e-4, 4e-4)
