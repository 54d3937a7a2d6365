"""Whatever a study file or an option holds, loading it ends in trials or in one line of BadInput."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import study
from bench.core.errors import BadInput
from bench.study import as_toml
from bench.study.overrides import OPTIONS
from tests.support.study_texts import BASE, KEYS, SCALARS, TABLES, VALUES, toml

RELAXED = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def ends_well(text: str, directory: Path, **overrides: str) -> None:
    (directory / "x.toml").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        loaded, merged = study.trace("x", overrides=overrides, studies_dir=directory)
    except BadInput as error:
        refusal = str(error)
    else:
        trials = study.expand(loaded, data_hash="", model_hash="", default_targets=("query",))
        refusal = ""
        assert trials
        assert all(trial.eta_A > 0 for trial in trials)
        (directory / "printed").mkdir(exist_ok=True)
        (directory / "printed" / "x.toml").write_text(as_toml.text(loaded, merged), encoding="utf-8")
        again = study.load("x", profile=loaded.profile, studies_dir=directory / "printed")
        assert replace(again, device=loaded.device) == loaded, "printed and read again it is the same study"
    assert "\n" not in refusal


@pytest.mark.parametrize("place", ["train", "lora"])
@pytest.mark.parametrize("value", ["0", "[0]", "[0, 1.0]"])
def test_no_clipping_is_printed_as_0_alone_and_in_a_list(place: str, value: str, tmp_path: Path) -> None:
    lines = {"top": "", "train": "", "lora": "", place: f"max_grad_norm = {value}"}
    ends_well(BASE.format(**lines), tmp_path)
    told = "0" if value == "[0]" else value
    assert f"max_grad_norm = {told} " in (tmp_path / "printed" / "x.toml").read_text(encoding="utf-8")


@RELAXED
@given(place=st.sampled_from(["top", "train", "lora"]), key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_of_any_key(place: str, key: str, value: Any, tmp_path: Path) -> None:
    lines = {"top": "", "train": "", "lora": "", place: f"{key} = {toml(value)}"}
    ends_well(BASE.format(**lines), tmp_path)


@RELAXED
@given(
    tables=st.lists(
        st.tuples(st.sampled_from(TABLES), st.sampled_from(KEYS), VALUES), max_size=6, unique_by=lambda t: t[0]
    )
)
def test_any_tables(tables: list[tuple[str, str, Any]], tmp_path: Path) -> None:
    ends_well("\n".join(f"{table}\n{key} = {toml(value)}" for table, key, value in tables), tmp_path)


@RELAXED
@given(
    tables=st.lists(
        st.tuples(st.sampled_from(TABLES), st.sampled_from(KEYS), VALUES), max_size=4, unique_by=lambda t: t[0]
    ),
    drop=st.lists(st.sampled_from(["task", "train", "grid.lora", "grid.lora.eta_A", "train.max_steps", "grid", "x"])),
)
def test_any_heir(tables: list[tuple[str, str, Any]], drop: list[str], tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(BASE.format(top="pack_size = 2", train="", lora="rank = 4"), encoding="utf-8")
    own = "\n".join(f"{table}\n{key} = {toml(value)}" for table, key, value in sorted(tables, key=lambda t: t[0]))
    ends_well('base = "p"\n' + (f"drop = {toml(drop)}\n" if drop else "") + own, tmp_path)


@RELAXED
@given(at=st.integers(0, 70), cut=st.integers(0, 5), put=st.text(max_size=4))
def test_any_typing_error(at: int, cut: int, put: str, tmp_path: Path) -> None:
    text = BASE.format(top="", train="", lora="rank = [2, 8]")
    ends_well(text[:at] + put + text[at + cut :], tmp_path)


@RELAXED
@given(
    key=st.sampled_from([o.key for o in OPTIONS if o.key != "study"]),
    text=st.one_of(st.text(max_size=8), SCALARS.map(str)),
)
def test_any_text_of_any_option(key: str, text: str, tmp_path: Path) -> None:
    ends_well(BASE.format(top="", train="", lora=""), tmp_path, **{key: text})


@pytest.mark.parametrize("text", ["[" * 100_000, "x = " + "[" * 20_000, "\ufeff", "task = 'a\x00b'", "x=" + "9" * 5000])
def test_awkward_files(text: str, tmp_path: Path) -> None:
    ends_well(text, tmp_path)
