"""Study files and overrides -> trials: identities of the expansion, and one line for every kind of bad input."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from bench import study
from bench.core.errors import BadInput
from bench.core.rules import round_rate
from bench.core.spec import Meaning, Study, Trial

MINIMAL = """# a figure
task = "demo"
[train]
max_steps = 20
[grid.lora]
eta_A = [1e-4, 3e-4]
"""


@pytest.fixture
def load(tmp_path: Path):
    """Return a function that loads a study from TOML text, written to x.toml."""

    def load_text(text: str, **overrides: str) -> Study:
        (tmp_path / "x.toml").write_text(text, encoding="utf-8")
        return study.load("x", overrides=overrides, studies_dir=tmp_path)

    return load_text


def expand(loaded: Study) -> tuple[Trial, ...]:
    return study.expand(loaded, data_hash="d", model_hash="m", default_targets=("query", "value"))


def grid(text: str) -> str:
    return MINIMAL.partition("[grid.lora]")[0] + text


def test_lora_plus_at_ratio_one_is_lora_and_runs_once(load) -> None:
    text = MINIMAL + '[grid."lora+"]\neta_A = [1e-4, 3e-4]\nlr_ratio = [1, 10]\n'
    trials = expand(load(text))
    assert [(t.method, t.eta_A, t.eta_B) for t in trials] == [
        ("lora", 1e-4, 1e-4),
        ("lora", 3e-4, 3e-4),
        ("lora+", 1e-4, 1e-3),
        ("lora+", 3e-4, 3e-3),
    ]
    assert trials[0].loraplus_lr_embedding is None
    assert trials[2].loraplus_lr_embedding == 1e-6
    assert [t.lr_ratio for t in trials] == [1, 1, 10, 10]


@pytest.mark.parametrize("targets", ['["query", "word_embeddings"]', '".*"', '"model.embed_tokens|.*query"'])
def test_lora_plus_at_ratio_one_stays_itself_where_an_embedding_is_adapted(load, targets: str) -> None:
    text = MINIMAL + f'[grid."lora+"]\neta_A = 1e-4\nlr_ratio = 1\n[adapter]\ntarget_modules = {targets}\n'
    assert [t.method for t in expand(load(text))] == ["lora", "lora", "lora+"]


def test_rates_given_as_ratio_or_as_eta_B_are_the_same_cells(load) -> None:
    by_ratio = load(grid('[grid."lora+"]\neta_A = [3e-4, 1e-5]\nlr_ratio = [10]\n'))
    by_rate = load(grid('[grid."lora+"]\neta_A = [3e-4]\neta_B = [3e-3]\n'))
    assert 3e-4 * 10 != 3e-3, "the trap that rounding is for"
    assert expand(by_rate)[0].trial_id == expand(by_ratio)[0].trial_id


def test_pairs_below_the_smallest_ratio_are_left_out(load) -> None:
    both = '[grid."lora+"]\neta_A = [1e-4, 3e-4]\neta_B = [1e-4, 3e-4, 3e-3]\n'
    text = grid(both + "[grid.mora]\neta_A = 1e-3\n")
    kept = expand(load("min_lr_ratio = 1\n" + text))
    assert [(t.method, t.eta_A, t.eta_B) for t in kept] == [
        ("lora", 1e-4, 1e-4), ("lora+", 1e-4, 3e-4), ("lora+", 1e-4, 3e-3), ("lora", 3e-4, 3e-4),
        ("lora+", 3e-4, 3e-3), ("mora", 1e-3, None),
    ]  # fmt: skip
    assert [t.lr_ratio for t in expand(load(text)) if t not in kept] == [round_rate(1 / 3)]


def test_fields_that_a_method_does_not_read_are_none(load) -> None:
    text = MINIMAL + "[grid.mora]\neta_A = 1e-3\n[grid.full]\neta_A = 1e-5\n[adapter]\nlora_alpha = 16\n"
    by_method = {t.method: t for t in expand(load(text))}
    lora, mora, full = by_method["lora"], by_method["mora"], by_method["full"]
    assert (lora.mora_type, lora.lora_alpha, lora.init) == (None, 16, "zero_B")
    assert (mora.rank, mora.mora_type, mora.eta_B, mora.lora_alpha, mora.init) == (8, 6, None, None, None)
    assert (full.rank, full.eta_B, full.target_modules, full.lora_dropout) == (None, None, None, None)


def test_an_axis_that_a_method_does_not_read_multiplies_nothing(load) -> None:
    text = MINIMAL + "[grid.full]\neta_A = 1e-5\n[adapter]\ninit = ['zero_B', 'zero_A']\n"
    methods = [t.method for t in expand(load(text))]
    assert (methods.count("lora"), methods.count("full")) == (4, 1)


def test_alpha_is_the_rank_unless_it_is_a_number(load) -> None:
    text = grid('[grid.lora]\neta_A = 1e-4\nrank = [2, 8]\nlora_alpha = ["rank", 16]\n')
    assert [(t.rank, t.lora_alpha) for t in expand(load(text))] == [(2, 2), (2, 16), (8, 8), (8, 16)]


def test_a_list_of_modules_is_one_value_and_a_list_of_lists_an_axis(load) -> None:
    one = grid('[grid.lora]\neta_A = 1e-4\ntarget_modules = ["query", "key"]\nlayers_to_transform = [1, 0]\n')
    several = grid('[grid.lora]\neta_A = 1e-4\ntarget_modules = [["query", "key"], "all-linear"]\n')
    assert [(t.target_modules, t.layers_to_transform) for t in expand(load(one))] == [(("query", "key"), (0, 1))]
    assert [t.target_modules for t in expand(load(several))] == [("query", "key"), "all-linear"]


def test_order_is_the_same_each_time_and_seeds_are_innermost(load) -> None:
    text = MINIMAL.replace("[train]", "seeds = [3, 1]\n[train]")
    trials = expand(load(text))
    assert [(t.eta_A, t.seed) for t in trials] == [(1e-4, 3), (1e-4, 1), (3e-4, 3), (3e-4, 1)]
    assert trials == expand(load(text))


def test_a_profile_replaces_what_it_names_and_keeps_the_rest(load) -> None:
    text = MINIMAL + "[profile.full.train]\nmax_steps = 90\n[profile.full.grid.lora]\nrank = 4\n"
    quick, full = load(text), load(text, profile="full")
    assert (quick.budget.max_steps, full.budget.max_steps) == (20, 90)
    assert [t.rank for t in expand(full)] == [4, 4]
    assert [t.eta_A for t in expand(full)] == [1e-4, 3e-4]


def test_a_profile_that_gives_eta_B_drops_the_ratio(load) -> None:
    text = grid('[grid."lora+"]\neta_A = 1e-4\nlr_ratio = 4\n[profile.full.grid."lora+"]\neta_B = 1e-3\n')
    assert [t.eta_B for t in expand(load(text, profile="full"))] == [1e-3]


def test_warmup_below_one_is_a_share_of_the_steps(load) -> None:
    text = MINIMAL.replace("max_steps = 20", "max_steps = 25\nwarmup_steps = {}")
    assert load(text.format("0.1")).budget.warmup_steps == 3
    assert load(text.format("7")).budget.warmup_steps == 7
    assert load(text.format("0.0")).budget.warmup_steps == 0


def test_clipping_at_zero_is_no_clipping(load) -> None:
    assert load(MINIMAL.replace("max_steps = 20", "max_steps = 20\nmax_grad_norm = 0")).budget.max_grad_norm is None
    assert load(MINIMAL).budget.max_grad_norm == 1.0


def test_line_one_is_the_figure(load) -> None:
    assert load(MINIMAL).figure == "a figure"
    assert load(MINIMAL.partition("\n")[2]).figure == ""


def test_overrides_replace_axes_of_the_methods_that_read_them(load) -> None:
    text = MINIMAL + '[grid."lora+"]\neta_A = 1e-4\nlr_ratio = [2, 4]\n[grid.full]\neta_A = 1e-5\n'
    loaded = load(text, rank="2,4", lr_ratio="16", eta_A="1e-3", seeds="0,1", max_steps="10", batch_size="8")
    cells = {(t.method, t.rank, t.eta_A, t.lr_ratio) for t in expand(loaded)}
    assert cells == {
        ("lora", 2, 1e-3, 1), ("lora", 4, 1e-3, 1), ("lora+", 2, 1e-3, 16), ("lora+", 4, 1e-3, 16),
        ("full", None, 1e-3, None),
    }  # fmt: skip
    assert (loaded.seeds, loaded.budget.max_steps, loaded.budget.batch_size) == ((0, 1), 10, 8)


def test_eta_B_on_the_command_line_replaces_ratios(load) -> None:
    text = grid('[grid."lora+"]\neta_A = 1e-4\nlr_ratio = [2, 4]\n')
    assert [t.eta_B for t in expand(load(text, eta_B="1e-3,2e-3"))] == [1e-3, 2e-3]


def test_fewer_steps_lower_eval_steps_with_them(load) -> None:
    text = MINIMAL.replace("max_steps = 20", "max_steps = 20\neval_steps = 10")
    assert load(text, max_steps="5").budget.eval_steps == 5
    assert load(text, max_steps="40").budget.eval_steps == 10


def test_methods_choose_grids(load) -> None:
    text = MINIMAL + "[grid.mora]\neta_A = 1e-3\n[grid.full]\neta_A = 1e-5\n"
    assert [g.method for g in load(text, methods="full,lora").grids] == ["full", "lora"]


@pytest.mark.parametrize(
    ("given", "got"),
    [("query,value", ("query", "value")), ("query", ("query",)), ("all-linear", "all-linear"), (".*query", ".*query")],
)
def test_target_modules_on_the_command_line(load, given: str, got: object) -> None:
    assert {t.target_modules for t in expand(load(MINIMAL, target_modules=given))} == {got}


def test_names_of_results(load, tmp_path: Path) -> None:
    assert load(MINIMAL).name == "x"
    assert study.load(overrides={}).name == "demo-tiny-roberta"
    assert study.load("sst2", overrides={"model": "minilm"}).name == "sst2-minilm"
    hub = study.load(overrides={"task": "sst2", "model": "FacebookAI/roberta-base"})
    assert hub.name == "sst2-facebookai-roberta-base"
    (tmp_path / "My Model").mkdir()
    assert study.load(overrides={"task": "sst2", "model": str(tmp_path / "My Model")}).name == "sst2-my-model"


def test_a_task_without_a_file_has_the_default_grids() -> None:
    rte = study.load(overrides={"task": "rte"})
    assert (rte.name, rte.task) == ("rte-roberta-base", "rte")
    assert {g.method for g in rte.grids} == {"lora", "lora+", "mora", "full"}


def test_identity_of_a_trial_does_not_move(load) -> None:
    """A changed id reruns everyone's sweeps: raise SPEC_VERSION on purpose, never by accident."""
    text = MINIMAL + '[grid."lora+"]\neta_A = 1e-4\nlr_ratio = 4\n'
    text += "[grid.mora]\neta_A = 1e-3\n[grid.full]\neta_A = 1e-5\n"
    found = load(text)
    trials = expand(found)
    assert [t.trial_id for t in trials] == PINNED
    assert [t.as_version_1(found.budget.n_select).trial_id for t in trials] == PINNED_1, (
        "stored rows bear these for ever"
    )


def test_a_setting_that_version_1_lacked_counts_only_where_it_is_set(load) -> None:
    """So that a setting can be added without running every stored trial again."""
    trial = expand(load(MINIMAL))[0]
    told = replace(trial, meaning=replace(trial.meaning, metric_name="f1"))
    assert replace(trial, meaning=Meaning()).trial_id == trial.trial_id
    assert told.trial_id != trial.trial_id


def test_the_id_is_kept_and_is_no_part_of_the_trial(load) -> None:
    trial = expand(load(MINIMAL))[0]
    fresh = replace(trial)
    assert trial.trial_id is trial.trial_id
    assert (fresh, hash(fresh)) == (trial, hash(trial)), "one has its id worked out, the other not"
    assert replace(trial, seed=trial.seed + 1).trial_id != trial.trial_id
    assert pickle.loads(pickle.dumps(fresh)).trial_id == trial.trial_id


PINNED_1 = ["1692ed5a7d232b77", "f85c056a333a90ea", "637d2b013a3bb58a", "7789d968bff552c3", "a27c6f51c32136ab"]

PINNED = ["9e9a0079853c2c31", "a38e609efa873623", "285637a06155cda9", "749f7253c56c38dc", "9eaa5076a233d6e6"]

BAD_FILES = [
    # (text, start of the line, a part of the rule)
    ("", "task: ", "must be given"),
    ("task = 1\n", "task: ", "text"),
    ("task = ''\n", "task: ", "not empty"),
    (MINIMAL.replace("demo", "demmo"), "task: ", "must be one of"),
    ("task = \n", ": ", "TOML"),
    ("x = " + "[" * 5000, ": ", "must"),
    (MINIMAL + "[grid.nosuch]\neta_A = 1\n", "[grid.nosuch]: ", "must be one of"),
    (MINIMAL + "[gird.lora]\neta_A = 1\n", ": ", "known keys"),
    (MINIMAL + "rnak = 8\n", "[grid.lora]: ", "'rnak'"),
    (MINIMAL + "eta_B = 1e-3\n", "[grid.lora]: ", "'eta_B'"),
    (MINIMAL + "mora_type = 1\n", "[grid.lora]: ", "'mora_type'"),
    (MINIMAL + "rank = 0\n", "[grid.lora].rank: ", "whole number >= 1, but got 0"),
    (MINIMAL + "rank = -1\n", "[grid.lora].rank: ", "whole number >= 1"),
    (MINIMAL + "rank = 8.0\n", "[grid.lora].rank: ", "whole number"),
    (MINIMAL + "rank = true\n", "[grid.lora].rank: ", "whole number"),
    (MINIMAL + "rank = '8'\n", "[grid.lora].rank: ", "whole number"),
    (MINIMAL + "rank = []\n", "[grid.lora].rank: ", "not be empty"),
    (MINIMAL + "rank = [8, 8]\n", "[grid.lora].rank: ", "8 again"),
    (MINIMAL + f"rank = {10**400}\n", "[grid.lora].rank: ", "whole number"),
    (MINIMAL + "lora_alpha = 0\n", "[grid.lora].lora_alpha: ", "> 0"),
    (MINIMAL + f"lora_alpha = {10**400}\n", "[grid.lora].lora_alpha: ", "finite"),
    (MINIMAL + "lora_dropout = 1.0\n", "[grid.lora].lora_dropout: ", "< 1"),
    (MINIMAL + "init = 'zero'\n", "[grid.lora].init: ", "zero_B"),
    (MINIMAL + "use_rslora = 1\n", "[grid.lora].use_rslora: ", "true or false"),
    (MINIMAL + "head_policy = 'eta_C'\n", "[grid.lora].head_policy: ", "known values"),
    (MINIMAL + "head_policy = 0.0\n", "[grid.lora].head_policy: ", "> 0"),
    (MINIMAL + "target_modules = []\n", "[grid.lora].target_modules: ", "empty"),
    (MINIMAL + "target_modules = ['query', 'query']\n", "[grid.lora].target_modules: ", "again"),
    (MINIMAL + "target_modules = ''\n", "[grid.lora].target_modules: ", "not empty"),
    (MINIMAL + "layers_to_transform = [-1]\n", "[grid.lora].layers_to_transform: ", ">= 0"),
    (grid("[grid.lora]\n"), "[grid.lora].eta_A: ", "must be given"),
    (grid("[grid.lora]\neta_A = 0\n"), "[grid.lora].eta_A: ", "> 0"),
    (grid("[grid.lora]\neta_A = -1e-4\n"), "[grid.lora].eta_A: ", "> 0"),
    (grid("[grid.lora]\neta_A = nan\n"), "[grid.lora].eta_A: ", "finite"),
    (grid("[grid.lora]\neta_A = inf\n"), "[grid.lora].eta_A: ", "finite"),
    (grid("[grid.lora]\neta_A = [1e-4, 0.0001]\n"), "[grid.lora].eta_A: ", "0.0001 again"),
    (grid("[grid.lora]\neta_A = [[1e-4]]\n"), "[grid.lora].eta_A: ", "number"),
    (grid("[grid]\n"), "[grid]: ", "must hold a grid"),
    ("grid = 3\n", "[grid]: ", "must be a table"),
    ("train = 3\n", "[train]: ", "must be a table"),
    (grid("[grid]\nlora = 3\n"), "[grid.lora]: ", "must be a table"),
    (grid("[grid.mora]\neta_A = 1\nmora_type = 5\n"), "[grid.mora].mora_type: ", "1, 2, 3, 4, 6"),
    (grid("[grid.mora]\neta_A = 1\neta_B = 1\n"), "[grid.mora]: ", "'eta_B'"),
    (grid("[grid.full]\neta_A = 1\nrank = 1\n"), "[grid.full]: ", "'rank'"),
    (grid('[grid."lora+"]\neta_A = 1\n'), '[grid."lora+"].lr_ratio: ', "must be given"),
    (grid('[grid."lora+"]\neta_A = 1\nlr_ratio = 4\neta_B = 1\n'), '[grid."lora+"]: ', "not both"),
    (grid('[grid."lora+"]\neta_A = 1e300\nlr_ratio = 1e300\n'), '[grid."lora+"].lr_ratio: ', "finite rate"),
    (grid('[grid."lora+"]\neta_A = 1e-300\nlr_ratio = 1e-300\n'), '[grid."lora+"].lr_ratio: ', "finite rate"),
    (MINIMAL.replace("max_steps = 20", ""), "[train].max_steps: ", "must be given"),
    (MINIMAL.replace("20", "0"), "[train].max_steps: ", ">= 1"),
    (MINIMAL.replace("20", "20\neval_steps = 21"), "[train].eval_steps: ", "<= max_steps (20)"),
    (MINIMAL.replace("20", "20\nwarmup_steps = 21"), "[train].warmup_steps: ", "<= max_steps (20)"),
    (MINIMAL.replace("20", "20\nwarmup_steps = [2, 21]"), "[train].warmup_steps: ", "<= max_steps (20)"),
    (MINIMAL + "warmup_steps = [2, 21]\n", "[grid.lora].warmup_steps: ", "<= max_steps (20)"),
    (MINIMAL.replace("20", "20\nwarmup_steps = 1.5"), "[train].warmup_steps: ", "< 1"),
    (MINIMAL.replace("20", "20\nadam_beta2 = 1.0"), "[train].adam_beta2: ", "< 1"),
    (MINIMAL.replace("20", "20\nweight_decay = -0.1"), "[train].weight_decay: ", ">= 0"),
    (MINIMAL.replace("20", "20\nlr_scheduler_type = 'step'"), "[train].lr_scheduler_type: ", "linear"),
    (MINIMAL.replace("20", "20\nprecision = 'fp8'"), "[train].precision: ", "bf16"),
    (MINIMAL.replace("20", "20\nepochs = 3"), "[train]: ", "'epochs'"),
    ("seeds = []\n" + MINIMAL, "seeds: ", "empty"),
    ("seeds = [0, 0]\n" + MINIMAL, "seeds: ", "0 again"),
    ("seeds = [-1]\n" + MINIMAL, "seeds: ", ">= 0"),
    ("sampler = 'cmaes'\n" + MINIMAL, "sampler: ", "tpe"),
    ("sampler = 'tpe'\n" + MINIMAL, "n_trials: ", "must be given"),
    ("n_trials = 5\n" + MINIMAL, "n_trials: ", "left out"),
    ("rows_from = '../other'\n" + MINIMAL, "rows_from: ", "name must be"),
    ("min_lr_ratio = 0\n" + MINIMAL, "min_lr_ratio: ", "> 0"),
    ("min_lr_ratio = 2\n" + MINIMAL, "min_lr_ratio: ", "[grid.lora]"),
    ("min_lr_ratio = 5\n" + grid('[grid."lora+"]\neta_A = 1e-4\nlr_ratio = 4\n'), "min_lr_ratio: ", "is 4,"),
    ("sampler = 'tpe'\nn_trials = 5\nmin_lr_ratio = 1\n" + MINIMAL, "min_lr_ratio: ", "left out"),
    ("pack_size = 0\n" + MINIMAL, "pack_size: ", ">= 1"),
    (MINIMAL + "[adapter]\nrank = 4\n", "[adapter]: ", "'rank'"),
    (MINIMAL + "[profile.fast]\n", "[profile]: ", "quick, full"),
    ("profile = 3\n" + MINIMAL, "profile: ", "tables"),
    (MINIMAL + "[profile.quick.grid.lora]\nrank = 0\n", "[profile.quick.grid.lora].rank: ", ">= 1"),
    (MINIMAL + "[profile.full.grid.lora]\nrank = 0\n", "[profile.full.grid.lora].rank: ", ">= 1"),
    (MINIMAL + "[profile.quick]\ncolour = 1\n", "[profile.quick]: ", "'colour'"),
    (MINIMAL.replace("[train]", f"seeds = {list(range(1001))}\n[train]")
     + f"rank = {list(range(1, 601))}\n", "[grid]: ", "1,000,000 trials"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "rule"), BAD_FILES)
def test_bad_files_are_refused_in_one_line(load, text: str, where: str, rule: str) -> None:
    with pytest.raises(BadInput) as refusal:
        load(text)
    line = str(refusal.value)
    assert line.startswith(f"studies/x.toml{where}" if where == ": " else f"studies/x.toml {where}")
    assert len(line) < 500
    assert rule in line
    assert "\n" not in line
    assert "; " in line, "a way out"


BAD_OPTIONS = [
    ({"eta_A": ""}, "--eta-A: must not be empty"),
    ({"task": " "}, "--task: must not be empty"),
    ({"study": "../x"}, "--study: a name must be"),
    ({"study": "none"}, "--study: must be a study"),
    ({"study": "none.toml"}, "none.toml: must be a readable"),
    ({"task": "demmo"}, "--task: must be one of the tasks"),
    ({"model": "a\nb"}, "--model: must be a text"),
    ({"methods": "nosuch"}, "--methods: must be one of the methods"),
    ({"methods": "mora"}, "--methods: must have a grid"),
    ({"methods": "lora,,full"}, "--methods: a list must not have an empty item"),
    ({"mora_type": "1"}, "--mora-types: must be read by one of the methods"),
    ({"lr_ratio": "4"}, "--lambda: must be read by one of the methods"),
    ({"lr_ratio": "4", "eta_B": "1"}, "--eta-B: must not be given together with --lambda"),
    ({"eta_A": "0"}, "--eta-A: must be a finite number > 0"),
    ({"eta_A": "1e-4,1e-4"}, "--eta-A: a list must not hold a value twice"),
    ({"eta_A": "1e-4,abc"}, "--eta-A: must be a finite number"),
    ({"eta_A": "nan"}, "--eta-A: must be a finite number"),
    ({"rank": "0"}, "--ranks: must be a whole number >= 1"),
    ({"rank": "8.5"}, "--ranks: must be a whole number >= 1"),
    ({"seeds": "-1"}, "--seeds: must be a whole number >= 0"),
    ({"max_steps": "0"}, "--steps: must be a whole number >= 1"),
    ({"max_steps": "many"}, "--steps: must be a whole number >= 1"),
    ({"eval_steps": "21"}, "--eval-steps: must be <= max_steps (20)"),
    ({"precision": "fp8"}, "--precision: must be one of the known values"),
    ({"profile": "slow"}, "--profile: must be one of the known values"),
    ({"device": "tpu"}, "--device: must be a known device"),
    ({"sampler": "tpe"}, "n_trials: must be given"),
    ({"layers_to_transform": "a"}, "--layers-to-transform: must be a whole number"),
]


@pytest.mark.parametrize(("options", "line"), BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(load, options: dict[str, str], line: str) -> None:
    named = {"study", "task"} & options.keys()
    with pytest.raises(BadInput) as refusal:
        study.load(overrides=options) if named else load(MINIMAL, **options)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"x\.toml: must be a readable UTF-8 file"):
        study.load(tmp_path / "x.toml")
    with pytest.raises(BadInput, match="must be a readable"):
        study.load(f"{tmp_path}/directory.toml")
