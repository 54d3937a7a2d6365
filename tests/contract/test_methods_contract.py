"""What every file of bench/methods/ says of itself, and that nobody else tests for a method's name or its type."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from transformers.pytorch_utils import Conv1D

from bench import methods
from bench.core.record import SCHEMA
from bench.core.spec import SERIES
from bench.engine import count
from bench.engine.layers import frozen_weight
from bench.export import as_code
from bench.methods import LayerShape
from plots import style
from tests.support.engine_helpers import member, tiny_model

ROOT = Path(__file__).resolve().parents[2]
# What each is called and looks like: stored rows, published figures and saved comparisons have it.
KNOWN = {  # arm: series, label, place in style.COLORS, marker
    "lora": ("lora", "LoRA", 0, "o"),
    "lora+": ("lora+", "LoRA+", 3, "s"),
    "mora type 1": ("mora-1", "MoRA type 1", 1, "v"),
    "mora type 2": ("mora-2", "MoRA type 2", 4, "<"),
    "mora type 3": ("mora-3", "MoRA type 3", 8, ">"),
    "mora type 4": ("mora-4", "MoRA type 4", 9, "P"),
    "mora type 6": ("mora-6", "MoRA type 6", 2, "^"),
    "full": ("full", "full fine-tuning", 7, "D"),
    "bitfit": ("bitfit", "BitFit", 5, "X"),
    "head": ("head", "head only", 6, "*"),
    "subspace": ("subspace", "random subspace", 10, "h"),
}
WITHOUT_FORMULA = {
    "bitfit",
    "ln-tuning",
    "subspace",
}  # of the FLOP: additions only; a product with a matrix made on the fly


# --- what a method says of itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", methods.names())
def test_a_method_has_a_name_a_label_and_a_look_for_each_of_its_types(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert method.label
    assert method.looks, "colour and marker, or figures choose them by its name"
    for kind in method.looks:
        one = method.identity(kind)
        assert (kind is None) == (one.arm == one.series == name)
        assert methods.named(one.arm) == methods.named(one.series) == one
        assert methods.identity(dict(zip(SERIES, (name, kind), strict=True))) == one
        assert style.look(one.series).label == one.label == methods.label(one.arm)
        assert style.COLORS[method.looks[kind][0]] == style.look(one.series).color


def test_names_and_looks_are_those_of_rows_and_figures_there_are() -> None:
    found = {one.arm: (one.series, one.label, *(one.look or ())) for one in _identities()}
    assert {arm: found[arm] for arm in KNOWN} == KNOWN
    assert len({one.look for one in _identities()}) == len(found), "no two look alike"
    in_order = sorted(_identities(), key=lambda one: (one.place, one.series))
    assert [one.arm for one in in_order][:8] == list(KNOWN)[:8]


def _identities() -> list[methods.Identity]:
    return [methods.get(name).identity(kind) for name in methods.names() for kind in methods.get(name).looks]


def test_rows_of_a_method_that_is_not_here_keep_their_name() -> None:
    assert methods.identity({"method": "oft", "mora_type": float("nan")}).label == "oft"
    assert methods.identity({"method": "mora", "mora_type": 6.0}).arm == "mora type 6"  # as pandas reads it
    assert methods.label("of-another-version") == "of-another-version"


@pytest.mark.parametrize("name", methods.names())
def test_a_method_says_what_a_token_costs_or_that_no_formula_is_known(name: str) -> None:
    shape = LayerShape(path="layer", in_features=24, out_features=16)
    flop = methods.get(name).flop_per_token(member(name), shape)
    assert (flop is None) == (name in WITHOUT_FORMULA)
    assert flop is None or flop >= 0


@pytest.mark.parametrize("name", methods.names())
def test_a_method_says_what_peft_calls_it_or_leaves_as_a_merged_model(name: str) -> None:
    method, one = methods.get(name), member(name)
    if method.peft_type is None:
        said = as_code.plain_code(one)
        assert ("AdamW" if method.trains_base else "merged") in said
        with pytest.raises(ValueError, match="PEFT has no"):
            as_code.peft_code(one, modules_to_save=())
        return
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method.peft_type)](**method.peft_settings(one))
    assert config.peft_type == method.peft_type
    compile(as_code.peft_code(one, modules_to_save=()), name, "exec")


@pytest.mark.parametrize("name", methods.names())
def test_what_a_method_derives_has_columns(name: str) -> None:
    shape = LayerShape(path="layer", in_features=24, out_features=16)
    assert set(methods.get(name).derived(member(name), [shape])) <= set(SCHEMA.names)


def test_the_family_shares_what_is_trained_and_differs_by_rates() -> None:
    assert [methods.get(name).at_equal_rates for name in methods.FAMILY] == [None, methods.BASELINE]
    two_rates = {name for name in methods.names() if methods.get(name).at_equal_rates is not None}
    assert two_rates == set(methods.FAMILY) - {methods.BASELINE}
    keys = {methods.get(name).pack_key(member(name)) for name in methods.FAMILY}
    assert len(keys) == 1


# --- nobody else tests for a name ------------------------------------------------------------------------------------

# Words that are a method's name too: profiles, forms of figures, HTML's <head>, the head's layers in a cache key.
WORDS = {
    "bench/core/devices.py": {"full"}, "bench/core/rules.py": {"full"}, "bench/commands/plot.py": {"full"},
    "plots/figures.py": {"full"}, "plots/page.py": {"full"}, "bench/report/page/document.py": {"head"},
    "bench/engine/guard.py": {"head"}, "bench/core/spec.py": {"pissa", "olora", "milora"},
}  # fmt: skip
# Where the setting mora_type is declared or listed beside all others: field, rule, column, option, axis of a search.
DECLARED = {
    "bench/core/ids.py", "bench/core/keys.py", "bench/core/spec.py", "bench/core/rules.py",
    "bench/core/record.py", "bench/study/overrides.py",
    "bench/store/rows.py", "bench/timing/methods/rows.py", "bench/models/_outline.py", "bench/checks/verify.py",
    "bench/comparison/compare.py", "bench/commands/_last.py", "bench/commands/params.py",
    "bench/sweep/optuna_mirror/mirror.py", "bench/sweep/optuna_mirror/space.py",
}  # fmt: skip
ABOUT = {"plots/figures/dimension.py": {"full", "head", "subspace"}}  # a figure of these methods has their names
FORMS = {"plots/figures/__init__.py": {"full"}}  # where "full" is the form of a figure


def test_no_file_outside_the_registry_names_a_method_or_reads_its_type() -> None:
    named = {name for one in _identities() for name in (one.arm, one.series)}
    names = frozenset({*methods.names(), *named})
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in _outside()
        for file in [path.relative_to(ROOT).as_posix()]
        for line, what in _tests_for(path.read_text("utf-8"), file, names - FORMS.get(file, set()))
    ]
    assert found == []


@pytest.mark.parametrize("line", [
    'if trial.method == "lora": pass',
    'x = trial.method in ("mora", "other")',
    'match method:\n    case "bitfit": pass',
    'table.eq("subspace")',
    '{"lora+": 1}[method]',
    "trial.mora_type",
    'row["mora_type"]',
    'cell.get("mora_type")',
    "from bench.methods.mora import METHOD",
    "from bench.methods import mora",
])  # fmt: skip
def test_each_way_of_testing_for_one_is_found(line: str) -> None:
    assert list(_tests_for(line, "bench/other.py", frozenset(methods.names())))


def _outside() -> Iterator[Path]:
    # A file for the configs of another tool says which of that tool's words is which method.
    inside = {ROOT / "bench" / "methods", ROOT / "bench" / "study" / "formats"}
    found = (path for top in ("bench", "plots") for path in (ROOT / top).rglob("*.py"))
    yield from (path for path in found if inside.isdisjoint(path.parents))


def _tests_for(source: str, file: str, names: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each method's name, each read of mora_type, each import of a method itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in names - WORDS.get(file, set()):
            yield node.lineno, repr(node.value)
        elif isinstance(node, ast.Attribute) and node.attr == "mora_type":
            yield node.lineno, ".mora_type"
        elif isinstance(node, ast.Constant) and node.value == "mora_type" and file not in DECLARED:
            yield node.lineno, "mora_type"
        elif isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "'mora_type'":
            yield node.lineno, "['mora_type']"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench.methods"):
            modules = {name.replace("+", "_plus") for name in names} - ABOUT.get(file, set())
            if found := {alias.name for alias in node.names} & {"METHOD", *modules}:
                yield node.lineno, f"import of {', '.join(sorted(found))}"


# --- a method that depends on the frozen weight ----------------------------------------------------------------------


def test_parameters_are_counted_without_the_weights_numbers() -> None:
    config, one = tiny_model().model.config.to_dict(), member("lora", rank=5)
    plain = count.count(config, one)
    for init in ("pissa", "olora", "milora"):
        assert count.count(config, replace(one, init=init)).rows == plain.rows


def test_the_weight_is_out_by_in_whatever_the_layer_stores() -> None:
    conv = Conv1D(12, 4)
    shape = LayerShape(path="c", in_features=4, out_features=12, kind="conv1d")
    assert torch.equal(frozen_weight(conv, shape), conv.weight.T)  # type: ignore[arg-type]
    linear = torch.nn.Linear(4, 12)
    assert frozen_weight(linear, replace(shape, kind="linear")) is not linear.weight, "detached: no gradient gets there"
    assert torch.equal(frozen_weight(linear, replace(shape, kind="linear")), linear.weight)  # type: ignore[arg-type]
    bare = torch.nn.LayerNorm(4, elementwise_affine=False)
    assert frozen_weight(bare, replace(shape, kind="layernorm")) is None
