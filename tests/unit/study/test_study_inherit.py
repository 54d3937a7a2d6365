"""A study that inherits: which layer wins, what is dropped, which file an error names, what `bench study` prints."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bench import cli, study
from bench.commands import _resolve
from bench.core.errors import BadInput
from bench.core.spec import Study
from bench.study import as_toml

PARENT = """# the parent's figure
task = "demo"
seeds = [0, 1]
clip = 0.5
[adapter]
lora_dropout = 0.1
[train]
max_steps = 20
batch_size = 4
[grid.lora]
eta_A = [1e-4, 3e-4]
rank = [2, 4]
[grid."lora+"]
eta_A = 1e-4
lr_ratio = [4, 16]
[grid.full]
eta_A = 1e-5
[profile.full]
seeds = [5]
[profile.full.train]
max_steps = 90
[profile.full.grid.mora]
eta_A = 1e-3
"""


@pytest.fixture
def load(tmp_path: Path):
    """Return a function that writes files given as name=text beside parent.toml and loads child.toml."""

    def load_files(child: str, *, profile: str = "quick", **others: str) -> Study:
        for name, text in {"parent": PARENT, **others, "child": child}.items():
            (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
        return study.load("child", profile=profile, studies_dir=tmp_path)

    return load_files


def axes_of(loaded: Study, method: str) -> dict[str, tuple[object, ...]]:
    return next(dict(grid.axes) for grid in loaded.grids if grid.method == method)


def methods_of(loaded: Study) -> list[str]:
    return [grid.method for grid in loaded.grids]


def refusal(load, child: str, **others: str) -> str:
    with pytest.raises(BadInput) as caught:
        load(child, **others)
    line = str(caught.value)
    assert "\n" not in line
    assert "; " in line, "a way out"
    return line


# --- which layer wins ---------------------------------------------------------------------------------------------


def test_a_child_has_what_its_base_says_and_its_own_name_and_figure(load) -> None:
    child = load('# the child\'s figure\nbase = "parent"\n')
    assert (child.name, child.figure) == ("child", "the child's figure")
    assert (child.task, child.seeds, child.clip, child.budget.max_steps) == ("demo", (0, 1), 0.5, 20)
    assert methods_of(child) == ["lora", "lora+", "full"]
    assert axes_of(child, "lora") == {"rank": (2, 4), "lora_dropout": (0.1,), "eta_A": (1e-4, 3e-4)}


def test_a_figure_is_not_inherited(load) -> None:
    assert load('base = "parent"\n').figure == ""


def test_an_heir_draws_rows_of_its_own(load) -> None:
    parent = PARENT.replace("clip = 0.5", 'rows_from = "others"')
    assert load('base = "parent"\n', parent=parent).rows_from is None
    assert load('base = "parent"\nrows_from = "mine"\n', parent=parent).rows_from == "mine"


def test_axes_are_replaced_by_key_and_new_grids_come_last(load) -> None:
    child = load('base = "parent"\n[grid.lora]\nrank = 8\n[grid.mora]\neta_A = 1e-3\n')
    assert axes_of(child, "lora") == {"rank": (8,), "lora_dropout": (0.1,), "eta_A": (1e-4, 3e-4)}
    assert methods_of(child) == ["lora", "lora+", "full", "mora"]


def test_eta_B_of_a_child_replaces_the_ratios_of_its_base(load) -> None:
    child = load('base = "parent"\n[grid."lora+"]\neta_B = 1e-3\n')
    assert "lr_ratio" not in axes_of(child, "lora+")
    assert axes_of(child, "lora+")["eta_B"] == (1e-3,)


def test_a_child_overrides_its_base_under_every_profile(load) -> None:
    """Base file, base profile, child file, child profile: a child's plain value beats its base's profile."""
    text = 'base = "parent"\n[train]\nmax_steps = 7\n'
    assert [load(text, profile=name).budget.max_steps for name in ("quick", "full")] == [7, 7]
    text += "[profile.full.train]\nmax_steps = 8\n"
    assert [load(text, profile=name).budget.max_steps for name in ("quick", "full")] == [7, 8]


def test_what_a_child_leaves_alone_follows_the_base_s_profile(load) -> None:
    text = 'base = "parent"\n[train]\nbatch_size = 8\n'
    quick, full = load(text), load(text, profile="full")
    assert [(one.seeds, one.budget.max_steps) for one in (quick, full)] == [((0, 1), 20), ((5,), 90)]
    assert methods_of(full) == [*methods_of(quick), "mora"]


def test_options_override_every_file(load, tmp_path: Path) -> None:
    load('base = "parent"\n[grid.lora]\nrank = 8\n')
    loaded = study.load("child", overrides={"rank": "3", "methods": "lora"}, studies_dir=tmp_path)
    assert [dict(grid.axes)["rank"] for grid in loaded.grids] == [(3,)]


def test_a_chain_of_bases(load) -> None:
    middle = 'base = "parent"\nseeds = 9\n[train]\nbatch_size = 2\n'
    child = load('base = "middle"\n[train]\nmax_steps = 5\n', middle=middle)
    assert (child.seeds, child.budget.batch_size, child.budget.max_steps, child.clip) == ((9,), 2, 5, 0.5)


# --- which file is the base -----------------------------------------------------------------------------------------


def test_a_base_may_be_a_path_from_the_file_s_own_directory(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "mine.toml").write_text(PARENT, encoding="utf-8")
    (tmp_path / "here" / "child.toml").write_text('base = "../mine.toml"\nclip = 0.9\n', encoding="utf-8")
    assert study.load(tmp_path / "here" / "child.toml").clip == 0.9


def test_a_file_elsewhere_may_inherit_from_a_study_here(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "sst2"\nmodel = "minilm"\n', encoding="utf-8")
    mine, theirs = study.load(path), study.load("sst2")
    assert (mine.name, mine.model) == ("mine", "minilm")
    assert (mine.grids, mine.budget) == (theirs.grids, theirs.budget)


def test_a_file_beside_comes_before_a_study_here(tmp_path: Path) -> None:
    (tmp_path / "sst2.toml").write_text(PARENT, encoding="utf-8")
    (tmp_path / "mine.toml").write_text('base = "sst2"\n', encoding="utf-8")
    assert study.load(tmp_path / "mine.toml").task == "demo"


@pytest.mark.parametrize("base", ["parnet", "none", "../parent", "no/where.toml", "x" * 400])
def test_an_unknown_base_lists_the_known_ones(load, base: str) -> None:
    line = refusal(load, f'base = "{base}"\n')
    assert line.startswith("studies/child.toml base: must be another study, but got ")
    assert line.endswith("one of parent")
    assert ("did you mean 'parent'?" in line) == (base in ("parnet", "../parent"))


@pytest.mark.parametrize("base", ["3", "''", "[]", "['parent']", "true"])
def test_a_base_must_be_a_text(load, base: str) -> None:
    assert refusal(load, f"base = {base}\n").startswith("studies/child.toml base: must be a text")


def test_bases_in_a_circle_are_refused_with_the_chain(load) -> None:
    assert "but got child -> child;" in refusal(load, 'base = "child"\n')
    others = {"a": 'base = "b"\n', "b": 'base = "a"\n'}
    line = refusal(load, 'base = "a"\n', **others)
    assert line.startswith(
        "studies/b.toml base: must not lead back to a file of the chain, but got child -> a -> b -> a;"
    )


def test_a_profile_has_no_base(load) -> None:
    line = refusal(load, 'base = "parent"\n[profile.quick]\nbase = "parent"\n')
    assert line.startswith("studies/child.toml [profile.quick]: must hold known keys only, but got 'base'")


# --- what a child drops -----------------------------------------------------------------------------------------------


def test_a_child_drops_methods_keys_and_tables_of_its_base(load) -> None:
    child = load('base = "parent"\ndrop = ["clip", "grid.full", "grid.lora.rank", "train.batch_size", "adapter"]\n')
    assert (child.clip, child.budget.batch_size) == (None, 32)
    assert methods_of(child) == ["lora", "lora+"]
    assert axes_of(child, "lora") == {"eta_A": (1e-4, 3e-4)}


def test_a_dropped_table_makes_room_for_another_order(load) -> None:
    child = load('base = "parent"\ndrop = "grid"\n[grid.full]\neta_A = 1\n[grid.lora]\neta_A = 2\n')
    assert [(grid.method, dict(grid.axes)["eta_A"]) for grid in child.grids] == [("full", (1,)), ("lora", (2,))]


def test_what_only_a_base_s_profile_gives_can_be_dropped(load) -> None:
    text = 'base = "parent"\ndrop = "grid.mora"\n'
    assert methods_of(load(text)) == methods_of(load(text, profile="full")) == ["lora", "lora+", "full"]


def test_a_profile_can_drop_of_its_own_file(load) -> None:
    text = 'base = "parent"\npack_size = 2\n[profile.quick]\ndrop = ["pack_size", "grid.full"]\n'
    assert (load(text).pack_size, methods_of(load(text))) == (None, ["lora", "lora+"])
    assert load(text, profile="full").pack_size == 2


@pytest.mark.parametrize(
    ("drop", "rule"),
    [
        ("'rank'", "must name what a base gives, such as clip, train.precision or grid.full, but got 'rank'"),
        ("'grid.bitfit'", "but got 'grid.bitfit'"),
        ("'train.max_step'", "did you mean train.max_steps"),
        ("'grid.lor'", "but got 'grid.lor'"),
        ("['clip', 'clip']", "must not hold a value twice"),
        ("[]", "must not be empty"),
        ("3", "must be a text"),
        ("{}", "must be a text"),
    ],
)
def test_only_what_a_base_gives_can_be_dropped(load, drop: str, rule: str) -> None:
    line = refusal(load, f'base = "parent"\ndrop = {drop}\n')
    assert line.startswith("studies/child.toml drop: ")
    assert rule in line


def test_a_file_without_a_base_has_nothing_to_drop(load) -> None:
    assert refusal(load, PARENT.replace("clip = 0.5", 'clip = 0.5\ndrop = "clip"')).startswith(
        "studies/child.toml drop: "
    )


# --- which file an error names --------------------------------------------------------------------------------------

CHILD = 'base = "parent"\n'
BAD = [
    # (parent's text, child's text, where)
    (PARENT.replace("rank = [2, 4]", "rank = 0"), CHILD, "studies/parent.toml [grid.lora].rank: "),
    (PARENT, CHILD + "[grid.lora]\nrank = 0\n", "studies/child.toml [grid.lora].rank: "),
    (PARENT.replace("seeds = [5]", "seeds = [-1]"), CHILD, "studies/parent.toml [profile.full].seeds: "),
    (PARENT + "[x]\n", CHILD, "studies/parent.toml: "),
    (PARENT.replace('"demo"', '"demmo"'), CHILD, "studies/parent.toml task: "),
    (PARENT, CHILD + 'task = "demmo"\n', "studies/child.toml task: "),
    (PARENT + "x = \n", CHILD, "studies/parent.toml: must be TOML"),
    # what only shows when values of several files meet
    (PARENT.replace("batch_size = 4", "eval_steps = 15"), CHILD + "[train]\nmax_steps = 10\n",
     "studies/parent.toml [train].eval_steps: must be <= max_steps (10), but got eval_steps=15; give a smaller "
     "eval_steps or raise studies/child.toml [train].max_steps"),
    (PARENT, CHILD + "[profile.quick.train]\neval_steps = 21\n",
     "studies/child.toml [profile.quick.train].eval_steps: "),
    (PARENT, CHILD + "n_trials = 3\n", "studies/child.toml n_trials: must be left out"),
    (PARENT.replace("clip = 0.5", "n_trials = 3"), CHILD, "studies/parent.toml n_trials: must be left out"),
    (PARENT.replace("clip = 0.5", "min_lr_ratio = 99"), CHILD, "studies/parent.toml min_lr_ratio: must leave a cell"),
    (PARENT, CHILD + '[grid."lora+"]\neta_A = 1e-323\n', 'studies/parent.toml [grid."lora+"].lr_ratio: '),
    # what is missing is missed in the study itself
    (PARENT, CHILD + 'drop = "task"\n', "studies/child.toml task: must be given"),
    (PARENT, CHILD + 'drop = "train"\n', "studies/child.toml [train].max_steps: must be given"),
    (PARENT, CHILD + 'drop = "grid.lora.eta_A"\n', "studies/child.toml [grid.lora].eta_A: must be given"),
    (PARENT, CHILD + 'drop = "grid"\n', "studies/child.toml [grid]: must hold a grid"),
]  # fmt: skip


@pytest.mark.parametrize(("parent", "child", "where"), BAD)
def test_errors_name_the_file_in_which_the_value_stands(load, parent: str, child: str, where: str) -> None:
    if where.endswith("lr_ratio: "):
        parent = parent.replace("[4, 16]", "0.1")
    assert refusal(load, child, parent=parent).startswith(where)


@pytest.mark.parametrize(
    ("parent", "child", "where"),
    [
        (PARENT.replace('"demo"', '"uuid"\nmodel = "tiny-roberta"'), CHILD, "studies/parent.toml model: "),
        (
            PARENT.replace("[adapter]", '[adapter]\ntarget_modules = ["x"]'),
            CHILD,
            "studies/parent.toml [adapter].target_",
        ),
        (PARENT, CHILD + "[grid.lora]\ntarget_modules = ['x']\n", "studies/child.toml [grid.lora].target_modules: "),
        (
            PARENT.replace('"demo"', '"uuid"').replace("max_steps = 20", "max_steps = 20\nn_select = 3"),
            CHILD,
            "studies/parent.toml [train].n_select: ",
        ),
    ],
)
def test_so_do_errors_that_take_the_model_to_find(load, parent: str, child: str, where: str) -> None:
    loaded = load(child, parent=parent.replace("[profile.full.grid.mora]\neta_A = 1e-3\n", ""))
    with pytest.raises(BadInput) as caught:
        _resolve.resolve(loaded)
    assert str(caught.value).startswith(where)


# --- bench study ------------------------------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["study", *arguments]) == 0
    return capsys.readouterr().out


def test_every_value_is_followed_by_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "demo", "--profile", "full", "--batch", "16", "--steps", "10", "--methods", "lora,mora")
    origins = {
        "task": "studies/demo.toml", "model": "default of task demo", "seeds": "studies/_default.toml [profile.full]",
        "sampler": "default", "max_steps": "--steps", "eval_steps": "--steps", "batch_size": "--batch",
        "adam_eps": "default", "optimizer": "studies/_text.toml", "mora_type": "studies/_default.toml [profile.full]",
        "# use_rslora": "default", "# target_modules": "default", "mora_rounding": "studies/_text.toml",
    }  # fmt: skip
    for key, origin in origins.items():
        assert re.search(rf"^{re.escape(key)} = .*  # {re.escape(origin)}$", text, re.MULTILINE), key
    assert [line for line in text.splitlines() if line.startswith("[")] == ["[train]", "[grid.lora]", "[grid.mora]"]
    assert all("  # " in line for line in text.splitlines()[2:] if line and not line.startswith("["))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"task": "rte", "profile": "full"},
        {"study": "lora-matrices", "layers_to_transform": "0,1", "warmup_steps": "0.5"},
        {"study": "toy", "methods": "lora+"},
        {"study": "lora-full", "sampler": "tpe", "n_trials": "7", "max_grad_norm": "0", "target_modules": ".*query"},
        {"study": "loraplus-llama-mnli", "profile": "full", "eta_B": "1e-3", "use_rslora": "true,false"},
    ],
)
def test_what_is_printed_is_the_same_study_when_it_is_saved(options: dict[str, str], tmp_path: Path) -> None:
    before, merged = study.trace(overrides=options)
    stem = options.get("study") or ("_default" if "task" in options else "demo")
    path = tmp_path / f"{stem}.toml"
    path.write_text(as_toml.text(before, merged), encoding="utf-8")
    assert study.load(path, profile=before.profile) == before


def test_a_study_without_a_figure_keeps_line_one_empty(load, tmp_path: Path) -> None:
    load(CHILD)
    text = as_toml.text(*study.trace("child", studies_dir=tmp_path))
    (tmp_path / "child.toml").write_text(text, encoding="utf-8")
    assert study.load("child", studies_dir=tmp_path).figure == ""
    assert tomllib.loads(text)["task"] == "demo"


def test_long_lists_are_written_over_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "toy")
    assert max(map(len, text.splitlines()[1:])) <= 120
    assert len(tomllib.loads(text)["grid"]["lora+"]["eta_A"]) == 46


def test_a_study_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "toy") == printed(capsys, "--study", "toy") == printed(capsys, "toy", "--study", "toy")
    assert cli.main(["study", "toy", "--study", "demo"]) == cli.BAD_INPUT
    assert "--study: must not be given together with another NAME, but got 'demo'" in capsys.readouterr().err
    assert cli.main(["study", "nowhere"]) == cli.BAD_INPUT
    assert "--study: must be a study" in capsys.readouterr().err


def test_a_command_line_without_a_study_prints_the_task_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'task = "rte"            # --task' in printed(capsys, "--task", "rte")
