"""A sweep's storage opened by plain Optuna: what it holds, and that Optuna's own figures are drawn from it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pyarrow as pa
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.visualization import matplotlib as figures

from bench import api
from bench.core.record import SCHEMA
from bench.core.spec import MethodGrid
from bench.sweep.optuna_mirror import summary
from bench.sweep.optuna_mirror.from_rows import studies_of
from bench.sweep.optuna_mirror.journal import JOURNAL_NAME

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:.*tight_layout:UserWarning"),
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, optuna.Study]:
    directory = tmp_path_factory.mktemp("results")
    rows = api.sweep(
        task="demo", methods="lora+", lora_alpha=4, eta_A=[1e-3, 4e-3, 1.6e-2], lr_ratio=[2, 8], rank=[2, 4], steps=4,
        eval_steps=2, seeds=[0, 1], n_select=0, max_length=8, batch_size=4, results_dir=directory, progress=False,
    )  # fmt: skip
    (found,) = directory.rglob(JOURNAL_NAME)
    storage = JournalStorage(JournalFileBackend(str(found)))
    (name,) = optuna.get_all_study_names(storage)
    return rows, optuna.load_study(study_name=name, storage=storage)


def test_parameters_values_curves_and_attributes_are_those_of_the_rows(swept: tuple[Any, optuna.Study]) -> None:
    rows, study = swept
    by_id = {row["trial_id"]: row for row in rows.to_dict("records")}
    assert {trial.user_attrs["trial_id"] for trial in study.trials} == set(by_id)
    for trial in study.trials:
        row = by_id[trial.user_attrs["trial_id"]]
        assert trial.params == pytest.approx({key: row[key] for key in ("eta_A", "lr_ratio", "rank")})
        assert trial.user_attrs["seed"] == row["seed"]
        assert trial.intermediate_values == {point["step"]: point["metric_value"] for point in row["curve"]}
        if row["status"] == "ok":
            assert trial.value == pytest.approx(row["metric_value"])


def test_a_study_tells_its_seeds_and_their_spread(swept: tuple[Any, optuna.Study]) -> None:
    rows, study = swept
    by_cell = rows[rows["status"] == "ok"].groupby(["eta_A", "lr_ratio", "rank"]).metric_value
    assert study.user_attrs["n_cells"] == by_cell.ngroups == 12
    assert study.user_attrs["n_seeds"] == by_cell.count().max() == 2
    assert study.user_attrs["spread"] == pytest.approx(float(np.sqrt(by_cell.var().mean())), abs=1e-12)
    assert study.user_attrs["spread"] > 0


def test_the_spread_of_cells_with_unequal_numbers_of_seeds_is_pooled() -> None:
    cells = {"a": 1, "b": 1, "c": 1, "d": 2, "e": 2, "f": 3, "gone": 1}
    scores = {"a": 0.1, "b": 0.2, "c": 0.6, "d": 0.5, "e": 0.7, "f": 0.4, "gone": -1.0, "strange": 9.0}
    trials = [
        optuna.trial.create_trial(
            value=value, user_attrs={"trial_id": name, "status": "diverged" if name == "gone" else "ok"}
        )
        for name, value in scores.items()
    ]
    found = summary.attributes(trials, cells)
    squares = (0.2**2 + 0.1**2 + 0.3**2) + 2 * 0.1**2  # about the means 0.3 and 0.6
    assert found == {"n_cells": 3, "n_seeds": 3, "spread": pytest.approx((squares / 3) ** 0.5)}
    assert summary.attributes(trials[:1], cells) == {"n_cells": 1, "n_seeds": 1, "spread": None}


def test_rows_alone_give_the_study_that_the_sweep_kept(swept: tuple[Any, optuna.Study]) -> None:
    rows, study = swept
    table = pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False)
    grid = MethodGrid(method="lora+", axes=(("lr_ratio", (2.0, 8.0)),))
    (method, found), *others = studies_of(table.to_pylist(), [grid], higher_is_better=True).items()
    assert (method, others) == ("lora+", [])
    assert found.direction == study.direction

    def told(one: optuna.Study) -> dict[str, tuple[Any, ...]]:
        trials = [(t.params, t.value, t.intermediate_values, t.user_attrs, t.distributions) for t in one.trials]
        return {trial[3]["trial_id"]: trial for trial in trials}

    assert told(found) == told(study)


def test_optuna_draws_importance_parallel_coordinates_slices_and_contours(swept: tuple[Any, optuna.Study]) -> None:
    _, study = swept
    names = {"eta_A", "lr_ratio", "rank"}
    try:
        bars = figures.plot_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
        assert {label.get_text() for label in bars.get_yticklabels()} == names
        assert {label.get_text() for label in figures.plot_parallel_coordinate(study).get_xticklabels()} >= names
        assert [ax.get_xlabel() for ax in figures.plot_slice(study)] == sorted(names)
        contour = figures.plot_contour(study, params=["eta_A", "lr_ratio"])
        assert (contour.get_xlabel(), contour.get_ylabel()) == ("eta_A", "lr_ratio")
        assert figures.plot_intermediate_values(study).get_xlabel() == "Step"
    finally:
        plt.close("all")
