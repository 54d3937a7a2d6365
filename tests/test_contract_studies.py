"""One contract for every study file: it loads and expands under each profile, and its grids can be drawn."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from bench import study, tasks
from bench.settings import fields
from bench.settings.files import STUDIES_DIR

NAMES = study.names()
CASES = list(itertools.product(NAMES, fields.PROFILES))
# with grids, and the toy with an init, of their own
OTHERS = [name for name in NAMES if tasks.get(study.load(name).task).kind != tasks.TEXT_CLASSIFICATION]
DEFAULTS = [name for name in NAMES if study.load(name).name != name and name not in OTHERS]  # of a task
DEFAULT_CASES = list(itertools.product(DEFAULTS, fields.PROFILES))


def test_there_are_studies() -> None:
    assert {"demo", "sst2", "cola", "mrpc"} <= set(NAMES)
    assert {"demo", "sst2", "cola", "mrpc"} <= set(DEFAULTS)


@pytest.mark.parametrize("name", NAMES)
def test_line_one_says_which_figure_or_table(name: str) -> None:
    first = (STUDIES_DIR / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# .*\b(Fig\.|Figs\.|Figure|Table)", first)
    assert re.search(r"arXiv:\d{4}\.\d{5}", first)
    assert study.load(name).figure == first[2:]


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_trials_are_distinct_and_the_same_each_time(name: str, profile: str) -> None:
    loaded = study.load(name, profile=profile)
    first, again = (
        study.expand(loaded, data_hash="d", model_hash="m", default_targets=("query", "value")) for _ in range(2)
    )
    assert first == again
    assert len({trial.trial_id for trial in first}) == len(first) > 0


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_names_stay_in_the_results_directory(name: str, profile: str) -> None:
    assert fields.NAME.fullmatch(study.load(name, profile=profile).name)


@pytest.mark.parametrize(("name", "profile"), DEFAULT_CASES)
def test_default_grids_share_one_log_step(name: str, profile: str) -> None:
    """Then cells of different lr_ratio fall on shared eta_B, and the (eta_A, eta_B) view has few rows."""
    grids = {grid.method: grid for grid in study.load(name, profile=profile).grids}
    assert set(grids) == {"lora", "lora+", "mora", "full"}
    axes = [grid.axis("eta_A") for grid in grids.values()] + [grids["lora+"].axis("lr_ratio")]
    steps = {round(math.log(b / a), 9) for values in axes if values for a, b in itertools.pairwise(values)}
    assert len(steps) == 1
    plus = grids["lora+"]
    eta_B = {t.eta_B for t in expand_one(name, profile) if t.method in ("lora", "lora+")}
    n_rows = len(plus.axis("eta_A") or ()) + len(plus.axis("lr_ratio") or ()) - 1
    assert len(eta_B) <= n_rows + 1


@pytest.mark.parametrize(("name", "profile"), DEFAULT_CASES)
def test_default_studies_spell_out_the_defaults(name: str, profile: str) -> None:
    for trial in expand_one(name, profile):
        if trial.method in ("lora", "lora+"):
            assert (trial.lora_alpha, trial.init, trial.lora_dropout) == (trial.rank, "zero_B", 0)
        assert trial.head_policy == "eta_A"


def expand_one(name: str, profile: str):
    loaded = study.load(name, profile=profile)
    return study.expand(loaded, data_hash="d", model_hash="m", default_targets=("query", "value"))
