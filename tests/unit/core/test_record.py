"""The row as others read it: pandas on the directory, datasets on the files, and the values that went in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bench import store
from bench.core.record import SCHEMA, SCHEMA_VERSION, Status, to_row, to_table
from bench.store import parts
from tests.support.sweep_helpers import BUDGET, PROVENANCE, grid, outcome, records, trial

TRIALS = grid()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A study with parts of every kind: one row or several, columns that are null throughout, a diverged row."""
    for i in range(0, len(TRIALS), 3):
        store.write(tmp_path, records(TRIALS[i : i + 3]))
    (tmp_path / store.TRIALS / f"{parts.TEMPORARY}1-x.parquet").write_bytes(b"half")
    (tmp_path / store.TRIALS / f"{parts.TORN}x.parquet").write_bytes(b"torn")
    return tmp_path


def test_pandas_reads_the_directory(directory: Path) -> None:
    frame = pd.read_parquet(directory / store.TRIALS)
    assert list(frame.columns) == SCHEMA.names
    assert set(frame.trial_id) == {t.trial_id for t in TRIALS}
    assert not frame.trial_id.duplicated().any()
    full = frame[frame.method == "full"]
    assert full[["eta_B", "lr_ratio", "rank", "lora_alpha", "target_modules"]].isna().all().all()
    diverged = frame[frame.status == "diverged"]
    assert len(diverged) == 2
    assert diverged[["metric_value", "select_metric"]].isna().all().all()
    assert (frame[frame.method == "lora"].lr_ratio == 1).all()
    assert np.unpackbits(np.frombuffer(frame.eval_correct[0], dtype=np.uint8))[[0, 7]].all()
    first = {t.trial_id: outcome(t).curve[0] for t in TRIALS}
    for row in frame.itertuples():
        assert row.curve[0] == dataclasses.asdict(first[row.trial_id])


def test_datasets_reads_the_files(directory: Path) -> None:
    files = str(directory / store.TRIALS / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(directory / "cache"))
    assert loaded.column_names == SCHEMA.names
    assert sorted(loaded["trial_id"]) == sorted(t.trial_id for t in TRIALS)
    assert {row["eta_B"] for row in loaded if row["method"] == "full"} == {None}


def test_a_row_says_every_setting_of_its_trial() -> None:
    one = trial(layers_to_transform=(0, 1), head_policy=3e-4, use_rslora=True)
    (record,) = records([one])
    row = to_row(record)
    assert list(row) == SCHEMA.names
    for name in ("task", "model", "seed", "eta_A", "eta_B", "rank", "lora_alpha", "init", "trial_id", "data_hash"):
        assert row[name] == getattr(one, name)
    assert row["max_steps"] == BUDGET.max_steps
    assert row["lr_ratio"] == 4.0
    assert json.loads(row["target_modules"]) == ["query", "value"]
    assert json.loads(row["layers_to_transform"]) == [0, 1]
    assert (row["head_policy"], row["head_learning_rate"]) == ("0.0003", 3e-4)
    assert row["source_hash"] == PROVENANCE.source_hash
    assert (row["schema_version"], row["attempt"]) == (SCHEMA_VERSION, None)


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    store.write(tmp_path, records([trial(eta_A=3e-4, eta_B=3e-3)], metric_value=value, train_seconds=5e-324))
    (row,) = store.load(tmp_path).to_pylist()
    assert (row["metric_value"], row["eta_A"], row["eta_B"], row["train_seconds"]) == (value, 3e-4, 3e-3, 5e-324)
    assert row["lr_ratio"] == 10.0


def test_the_schema_is_the_same_whatever_is_null() -> None:
    one = to_table(records([trial()], metric_value=None, curve=(), eval_correct=None, status=Status.DIVERGED))
    assert one.schema.equals(SCHEMA, check_metadata=True)
    assert to_table([]).schema.equals(SCHEMA)
    assert all(field.type != pa.null() for field in one.schema)
