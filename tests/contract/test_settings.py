"""A setting is declared in one place: a field that is added to spec.py is everywhere that settings are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core import keys, record
from bench.core.settings import Setting
from bench.core.spec import TrainBudget, Trial
from bench.study.overrides import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
LAST_OF_BUDGET = "    n_select: Annotated["
LAST_OF_TRIAL = "    budget: TrainBudget\n    meaning"
MADE_UP = {  # field -> where spec.py is edited, and the field
    "label_smoothing": (LAST_OF_BUDGET, """\
    label_smoothing: Annotated[float, Setting(
        check=rules.number(0, 1), flags=("--label-smoothing",), help="share of other labels", meaning="made up",
        unit="share",
    )] = 0.0
"""),
    "temper": (LAST_OF_TRIAL, """\
    temper: Annotated[float | None, Setting(
        check=rules.number(0, open_low=True), flags=("--tempers", "--temper"), help="a made-up axis", usual=1.0,
        every_method=True, meaning="made up, too", axis="varied", log=True,
    )] = 1.0
"""),
    "places": (LAST_OF_TRIAL, """\
    places: Annotated[tuple[int, ...] | None, Setting(
        check=rules.layers, flags=("--places",), help="a list in itself", every_method=True, meaning="made up",
    )] = None
"""),
}  # fmt: skip
SEEN = """
import contextlib, io, sys
from bench import cli, study
from bench.core import keys, record, spec
from bench.export import recommend
from bench.study import as_toml, varying
from bench.sweep.optuna_mirror import space
from tests.support.sweep_helpers import grid, outcome, PROVENANCE

help = io.StringIO()
with contextlib.redirect_stdout(help):
    cli.main(["sweep", "--help"])
assert "share of other labels" in help.getvalue() and "--tempers" in help.getvalue()
argv = cli._make.arguments(cli.typer.main.get_command(cli.app()).commands, "plan",
                           ["LABEL_SMOOTHING=0.1", "TEMPER=1,2"], {})
assert sorted(argv) == ["--label-smoothing=0.1", "--tempers=1,2"], argv
texts = {"label_smoothing": "0.1", "temper": "1,4", "places": "3,1", "methods": "lora", "eta_A": "1e-3", "seeds": "0"}
loaded, merged = study.trace("demo", overrides=texts)
written = as_toml.text(loaded, merged)
assert "label_smoothing = 0.1" in written and "temper = [1.0, 4.0]" in written and "places = [" in written
trials = study.expand(loaded, data_hash="", model_hash="", default_targets=("query",))
assert {(t.budget.label_smoothing, t.temper, t.places) for t in trials} == {(0.1, 1.0, (1, 3)), (0.1, 4.0, (1, 3))}
row = record.to_row(record.Record(study="s", trial=trials[-1], pack_id="p", pack_size=1, outcome=outcome(trials[-1]),
                                  provenance=PROVENANCE))
assert (row["label_smoothing"], row["temper"], row["places"]) == (0.1, 4.0, "[1, 3]")
types = {name: str(record.SCHEMA.field(name).type) for name in ("label_smoothing", "temper", "places")}
assert types == {"label_smoothing": "double", "temper": "double", "places": "string"}
assert record.columns("label_smoothing")[0].unit == "share"
assert recommend.trial_of_row(row, trials[-1]) == trials[-1]
assert recommend.trial_of_row({**row, "temper": None, "places": None, "trial_id": ""}, trials[-1]) is None
written = recommend.study_toml(trials[-1], [0], task="demo", model="tiny-roberta", comment="c")
assert "label_smoothing = 0.1" in written and "temper = 4.0" in written and "places = [[1, 3]]" in written
lora = [t for t in trials if t.rank == trials[-1].rank]
assert varying.of_trials(lora) == ("temper",)
found = space.space_of([space.settings_of(t) for t in lora], loaded.grids[0]).axes
assert [(a.name, a.low, a.high, a.log) for a in found if a.name == "temper"] == [("temper", 1.0, 4.0, True)]
print(*(t.trial_id for t in grid()))
"""


def test_a_setting_is_added_by_one_edit(tmp_path: Path) -> None:
    for name in ("bench", "plots", "studies", "tests/support"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    spec = tmp_path / "bench" / "core" / "spec.py"
    code = "from tests.support.sweep_helpers import grid; print(*(t.trial_id for t in grid()))"
    before = said(code, tmp_path)
    for place, field in MADE_UP.values():
        text = spec.read_text("utf-8")
        assert text.count(place) == 1
        spec.write_text(text.replace(place, field + place), "utf-8")
    assert said(SEEN, tmp_path) == before, "a trial that does without the new settings keeps its id"


def said(code: str, directory: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("key", sorted({*keys.GRID, *keys.TRAIN, *keys.TOP}))
def test_a_declared_setting_says_what_it_is(key: str) -> None:
    every: dict[str, Setting] = {**keys.GRID, **keys.TRAIN, **keys.TOP}
    setting = every[key]
    assert setting.key == key
    assert setting.check is not None
    assert setting.help or (setting.meaning and not setting.flags), "an option has a help text, a key some text"
    assert all(flag.startswith("--") for flag in setting.flags)
    if setting.flags:
        assert [o.key for o in OPTIONS if set(o.flags) & set(setting.flags)] == [key]
    if key in keys.GRID and key not in keys.RATES and setting.usual not in (None, "rank"):
        assert setting.values(setting.usual, key) == (setting.usual,), "the usual value passes the check"
    if key in record.SETTINGS and key not in keys.TOP:
        assert record.columns(key)[0].meaning == setting.meaning


def test_every_field_of_a_trial_is_a_setting() -> None:
    assert {*Trial.__dataclass_fields__} - {*keys.TRIAL} == {"budget", "meaning"}
    assert {*TrainBudget.__dataclass_fields__} == {*keys.TRAIN}
