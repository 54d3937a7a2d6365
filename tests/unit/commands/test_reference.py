"""The pages of the reference are made of declarations, and tell all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bench import cli
from bench.commands import _reference, dictionary
from bench.core import keys

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("page", ["commands.md", "study-keys.md"])
def test_a_page_is_up_to_date(page: str) -> None:
    path = dictionary.REFERENCE / page
    assert (ROOT / path).read_text(encoding="utf-8") == dictionary.reference()[path], "run make dictionary"


def test_every_key_of_a_study_is_told_with_its_option_and_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \| (.+?) \|", _reference.study_keys(), re.MULTILINE)
    told = {key: (meaning, option, default) for key, meaning, option, default in rows}
    assert list(told) == ["base", "drop", *keys.TOP, *keys.TRAIN, *keys.GRID]
    for setting in (*keys.TOP.values(), *keys.TRAIN.values(), *keys.GRID.values()):
        assert told[setting.key][1] == (f"`{setting.flags[0]}`" if setting.flags else "")
    assert told["batch_size"] == ("examples in a step", "`--batch`", "`32`")
    assert told["seeds"][2] == told["eta_A"][2] == "must be given"
    assert told["lora_alpha"][2] == "`rank`"


def test_the_methods_that_read_a_key_are_told() -> None:
    read = dict(
        re.findall(r"^\| `(\w+)` .* \| ([^|]+) \|$", _reference.study_keys().split("## [grid")[1], re.MULTILINE)
    )
    assert read["eta_A"] == read["head_policy"] == "all"
    assert read["eta_B"] == read["lr_ratio"] == read["loraplus_lr_embedding"] == "lora+"
    assert set(read["use_rslora"].split(", ")) >= {"lora", "lora+"}
    assert "mora" not in read["use_rslora"].split(", ")


def test_every_option_of_every_command_is_told() -> None:
    group: Any = typer.main.get_command(cli.app())
    sections = dict(re.findall(r"^## ([\w-]+)\n\n(.*?)(?=^## |\Z)", _reference.commands(), re.MULTILINE | re.DOTALL))
    assert list(sections) == list(group.commands)
    for name, command in group.commands.items():
        whole = "Takes all options of a study." in sections[name]
        for option in command.params:
            of_study = option.name in _reference.STUDY_OPTIONS
            if option.param_type_name == "option" and not (whole and of_study):
                assert f"`{option.opts[0]}`" in sections[name], f"{name} {option.opts[0]}"
