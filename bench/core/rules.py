"""What each key of a study may hold: one check per key, for values out of TOML and out of command-line text alike.

A check takes a value and where it was written, and returns it in its final form (rates rounded, lists as tuples);
anything else is BadInput.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from bench.core import registry
from bench.core.errors import BadInput
from bench.core.spec import HEAD_POLICIES, INITS, PRECISIONS, SCHEDULES, round_rate

Check = Callable[[Any, str], Any]

MAX_WHOLE = 2**31 - 1  # fits every integer column and every seed of torch and numpy
MORA_TYPES = (1, 2, 3, 4, 6)  # the official code has no type 5
PROFILES = ("quick", "full")
NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,99}")


def plain_name(name: str, where: str) -> str:
    """Return `name` if it is one plain file name, so that what is named by it cannot leave its directory."""
    if not NAME.fullmatch(name):
        raise BadInput(
            where,
            "a name must be 1 to 100 characters out of a-z 0-9 . _ + -, beginning with a letter or digit",
            got=shown(name),
            way_out="choose another name",
        )
    return name


def shown(value: object) -> str:
    """Return a value as an error shows it: its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(low: int) -> Check:
    """Return a check for an integer from `low` to 2^31 - 1."""

    def check(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= MAX_WHOLE:
            raise BadInput(where, f"must be a whole number >= {low}", got=shown(value), way_out="write one")
        return value

    return check


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Check:
    """Return a check for a finite number in [low, high), or (low, high) with `open_low`."""
    bound = f"{'>' if open_low else '>='} {low:g}" + (f" and < {high:g}" if high < math.inf else "")

    def check(value: Any, where: str) -> float:
        given = _as_float(value)
        if given is None or not (given > low if open_low else given >= low) or not given < high:
            raise BadInput(where, f"must be a finite number {bound}", got=shown(value), way_out="write one, as in 3e-4")
        return given

    return check


def rate(value: Any, where: str) -> float:
    """Return a learning rate (or a ratio of two) > 0, rounded to 12 significant digits."""
    return round_rate(number(0, open_low=True)(value, where))


def choice(*options: object) -> Check:
    """Return a check for one of a closed set of values."""

    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(option) and value == option for option in options):
            known = ", ".join(str(option) for option in options)
            raise BadInput(where, "must be one of the known values", got=shown(value), way_out=f"known: {known}")
        return value

    return check


def flag(value: Any, where: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise BadInput(where, "must be true or false", got=shown(value), way_out="write true or false, without quotes")
    return value


def word(value: Any, where: str) -> str:
    """Return a text that is not empty, without white space at its ends and control characters."""
    if not isinstance(value, str) or not value or value != value.strip() or not value.isprintable():
        raise BadInput(where, "must be a text that is not empty", got=shown(value), way_out="write one in quotes")
    return value


def lora_alpha(value: Any, where: str) -> Any:
    """Return a number > 0, or "rank", which means: equal to the rank."""
    return value if value == "rank" else number(0, open_low=True)(value, where)


def head_policy(value: Any, where: str) -> Any:
    """Return eta_A, peft, paper, or a learning rate > 0."""
    return choice(*HEAD_POLICIES)(value, where) if isinstance(value, str) else rate(value, where)


def target_modules(value: Any, where: str) -> str | tuple[str, ...]:
    """Return PEFT's target_modules: suffixes as a tuple, in the order given, or one text: a regex or "all-linear"."""
    if not isinstance(value, list | tuple):
        return word(value, where)
    suffixes = tuple(word(item, where) for item in value)
    _check_items(suffixes, where)
    return suffixes


def layers(value: Any, where: str) -> tuple[int, ...]:
    """Return PEFT's layers_to_transform, sorted: layer numbers from 0."""
    given = value if isinstance(value, list | tuple) else [value]
    numbers = tuple(whole(0)(item, where) for item in given)
    _check_items(numbers, where)
    return tuple(sorted(numbers))


def warmup_steps(value: Any, where: str) -> Any:
    """Return a whole number of steps, or a share of max_steps in [0, 1), as in transformers 5."""
    return number(0, 1)(value, where) if isinstance(value, float) else whole(0)(value, where)


def max_grad_norm(value: Any, where: str) -> float | None:
    """Return the norm each trial's gradient is clipped to; 0 means no clipping, as in transformers."""
    return number(0)(value, where) or None


GRID_KEYS: Mapping[str, Check] = {
    "rank": whole(1),
    "mora_type": choice(*MORA_TYPES),
    "mora_rounding": choice("floor", "nearest"),
    "init": choice(*INITS),
    "lora_alpha": lora_alpha,
    "use_rslora": flag,
    "lora_dropout": number(0, 1),
    "target_modules": target_modules,
    "layers_to_transform": layers,
    "head_policy": head_policy,
    "reinit_head": flag,
    "loraplus_lr_embedding": rate,
    "eta_A": rate,
    "eta_B": rate,
    "lr_ratio": rate,
}
METHOD_DEFAULTS: Mapping[str, Any] = {  # what a grid does not name
    "rank": 8,
    "lora_alpha": "rank",
    "use_rslora": False,
    "lora_dropout": 0.0,
    "init": "zero_B",
    "target_modules": None,  # the architecture's, see bench/models/_targets.py
    "layers_to_transform": None,
    "loraplus_lr_embedding": 1e-6,
    "mora_type": 6,
    "mora_rounding": "floor",
    "head_policy": "eta_A",
    "reinit_head": False,
}
EVERY_METHOD = ("head_policy", "reinit_head")  # what a grid may hold whatever its method reads
LISTS = ("target_modules", "layers_to_transform")  # one value is itself a list; several are a list of lists
RATE_AXES = ("eta_A", "eta_B", "lr_ratio")
ADAPTER_KEYS: Mapping[str, Check] = {key: GRID_KEYS[key] for key in GRID_KEYS if key not in (*RATE_AXES, "rank")}
TRAIN_KEYS: Mapping[str, Check] = {
    "max_steps": whole(1),
    "eval_steps": whole(1),
    "batch_size": whole(1),
    "max_length": whole(4),
    "optimizer": choice(*registry.names_in("engine/optimizers")),
    "adam_beta1": number(0, 1),
    "adam_beta2": number(0, 1),
    "adam_eps": number(0),
    "weight_decay": number(0),
    "lr_scheduler_type": choice(*SCHEDULES),
    "warmup_steps": warmup_steps,
    "max_grad_norm": max_grad_norm,
    "precision": choice(*PRECISIONS),
    "n_select": whole(0),
}
SETTING_KEYS: Mapping[str, Check] = {
    "task": word,
    "model": word,
    "seeds": whole(0),
    "sampler": choice(*registry.names_in("searches")),
    "n_trials": whole(1),
    "pack_size": whole(1),
    "clip": number(0),
    "min_lr_ratio": rate,
    "rows_from": lambda value, where: plain_name(word(value, where), where),
}
SETTING_LISTS = ("seeds",)


def axis(key: str, value: Any, where: str) -> tuple[Any, ...]:
    """Return the values of one grid axis, each checked: one value, or a list of different ones."""
    several = isinstance(value, list) and (key not in LISTS or any(isinstance(item, list) for item in value))
    values = tuple(GRID_KEYS[key](item, where) for item in (value if several else [value]))
    _check_items(values, where)
    return values


def setting(key: str, value: Any, where: str) -> Any:
    """Return the value of one top-level key, checked; seeds as a tuple."""
    check = SETTING_KEYS[key]
    if key not in SETTING_LISTS:
        return check(value, where)
    values = tuple(check(item, where) for item in (value if isinstance(value, list) else [value]))
    _check_items(values, where)
    return values


def listed(value: Any, where: str) -> tuple[str, ...]:
    """Return a text, or a list of different ones, as a tuple."""
    texts = tuple(word(item, where) for item in (value if isinstance(value, list) else [value]))
    _check_items(texts, where)
    return texts


def _check_items(values: tuple[Any, ...], where: str) -> None:
    if not values:
        raise BadInput(where, "a list must not be empty", way_out="give it a value or leave the key out")
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise BadInput(
            where, "a list must not hold a value twice", got=f"{shown(twice[0])} again", way_out="remove one"
        )


def _as_float(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        given = float(value)
    except OverflowError:
        return None
    return given if math.isfinite(given) else None
