"""One contract for every study file: it loads and expands under each profile, says nothing twice, can be drawn."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from bench import study, tasks
from bench.core import rules
from bench.study import as_toml, files, inherit, layer
from bench.study.files import STUDIES_DIR
from bench.study.layer import Layer, Source
from tests.support import study_digests

NAMES = study.names()
CASES = list(itertools.product(NAMES, rules.PROFILES))
# with grids, and the toy with an init, of their own
OTHERS = [name for name in NAMES if tasks.get(study.load(name).task).kind != tasks.TEXT_CLASSIFICATION]
DEFAULTS = [name for name in NAMES if study.load(name).name != name and name not in OTHERS]  # of a task
BASES = sorted(path.stem for path in STUDIES_DIR.glob("_*.toml"))
HEIRS = [path.stem for path in sorted(STUDIES_DIR.glob("*.toml")) if files.read(path, "").base is not None]
DEFAULT_CASES = list(itertools.product(DEFAULTS, rules.PROFILES))


def test_there_are_studies() -> None:
    assert {"demo", "sst2", "cola", "mrpc"} <= set(NAMES)
    assert {"demo", "sst2", "cola", "mrpc"} <= set(DEFAULTS)


@pytest.mark.parametrize("name", NAMES)
def test_line_one_says_which_figure_or_table(name: str) -> None:
    first = (STUDIES_DIR / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# .*\b(Fig\.|Figs\.|Figure|Table|docs/claims\.md)", first)
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
    assert rules.NAME.fullmatch(study.load(name, profile=profile).name)


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


def test_no_study_has_changed_unseen() -> None:
    """Base files are shared: an edit of one may change a paper's study that nobody looked at."""
    kept = json.loads(study_digests.KEPT.read_text(encoding="utf-8"))
    now = study_digests.current(kept["fields"])
    changed = sorted(name for name in {*now, *kept["digests"]} if now.get(name) != kept["digests"].get(name))
    assert changed == [], "if this is meant: python -m tests.support.study_digests, and look at its diff"


def test_digests_tell_any_two_studies_and_any_setting_apart() -> None:
    kept = json.loads(study_digests.KEPT.read_text(encoding="utf-8"))
    assert len({(name, d) for name, of in kept["digests"].items() for d in of.values()}) > len(NAMES)
    one = study.load("sst2-reference")
    options = [{}, {"rank": "4"}, {"seeds": "0"}, {"eta_A": "1e-3"}, {"weight_decay": "0.1"}, {"pack_size": "2"}]
    changed = [study.load("sst2-reference", overrides=given) for given in options]
    assert changed[0] == one
    assert len({study_digests.digest(each, kept["fields"]) for each in changed}) == len(options)


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_inherited_from_and_is_no_study(name: str) -> None:
    chains = [files.chain(STUDIES_DIR / f"{heir}.toml", STUDIES_DIR) for heir in HEIRS]
    heirs = [chain[-1].path.stem for chain in chains if name in [file.path.stem for file in chain[:-1]]]
    assert set(heirs) & set(NAMES), "no study inherits from it"
    assert name not in NAMES


@pytest.mark.parametrize("name", HEIRS)
def test_an_heir_says_only_what_its_base_does_not(name: str) -> None:
    """What a file repeats hides what it is about; and it would not follow when its base is mended."""
    chain = files.chain(STUDIES_DIR / f"{name}.toml", STUDIES_DIR)
    own = layer.read(chain[-1].raw, Source(name))
    below = {p: layer.merge(inherit.merged(chain[:-1], p), Layer(drop=own.drop)) for p in rules.PROFILES}
    repeated = [key for key, value in said(own).items() if all(said(b).get(key) == value for b in below.values())]
    for profile, raw in chain[-1].profiles.items():
        under = said(layer.merge(below[profile], own))
        mine = said(layer.read(raw, Source(name, profile)))
        repeated += [f"profile.{profile}.{key}" for key, value in mine.items() if under.get(key) == value]
    assert set(repeated) <= {"clip"}, "clip is read off each figure, and may be the same there"


def said(one: Layer) -> dict[str, Any]:
    """Every value of a layer, by dotted name."""
    tables = {"": one.settings, "train.": one.train, "adapter.": one.adapter}
    tables |= {f"grid.{name}.": axes for name, axes in one.grids.items()}
    return {prefix + key: value for prefix, table in tables.items() for key, value in table.items()}


@pytest.mark.parametrize(("name", "profile"), CASES)
def test_printed_and_saved_it_is_the_same_study(name: str, profile: str, tmp_path: Path) -> None:
    loaded, merged = study.trace(name, profile=profile)
    path = tmp_path / f"{name}.toml"
    path.write_text(as_toml.text(loaded, merged), encoding="utf-8")
    assert study.load(path, profile=profile) == loaded


def expand_one(name: str, profile: str):
    loaded = study.load(name, profile=profile)
    return study.expand(loaded, data_hash="d", model_hash="m", default_targets=("query", "value"))
