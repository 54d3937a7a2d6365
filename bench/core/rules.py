"""What a key of a study may hold: checks for values out of TOML and out of command-line text alike, and that text read.

A check takes a value and where it was written, and returns it in its final form (rates rounded, lists as tuples);
anything else is BadInput. Which setting has which check is declared in bench/core/spec.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from bench.core.errors import BadInput

Check = Callable[[Any, str], Any]

MAX_WHOLE = 2**31 - 1  # fits every integer column and every seed of torch and numpy
HEAD_POLICIES = ("eta_A", "peft", "paper")  # or a number
PROFILES = ("quick", "full")  # of study files
ADVISED = "advised"  # the profile of the device, with the narrow grids that stored rows advise
NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,99}")
_SUFFIXES = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(\s*,\s*[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)*")


def round_rate(rate: float) -> float:
    """Return a learning rate rounded to 12 significant digits.

    3e-4 * 10 != 3e-3 in floats, and the difference would split a heatmap column: a rate is rounded when it enters.
    """
    return float(f"{rate:.12g}")


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


def share(value: Any, where: str) -> float:
    """Return a number > 0 and <= 1."""
    given = _as_float(value)
    if given is None or not 0 < given <= 1:
        raise BadInput(where, "must be a number > 0 and <= 1", got=shown(value), way_out="write one, as in 0.1")
    return given


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
    check_items(suffixes, where)
    return suffixes


def layers(value: Any, where: str) -> tuple[int, ...]:
    """Return PEFT's layers_to_transform, sorted: layer numbers from 0."""
    given = value if isinstance(value, list | tuple) else [value]
    numbers = tuple(whole(0)(item, where) for item in given)
    check_items(numbers, where)
    return tuple(sorted(numbers))


def warmup_steps(value: Any, where: str) -> Any:
    """Return a whole number of steps, or a share of max_steps in [0, 1), as in transformers 5."""
    return number(0, 1)(value, where) if isinstance(value, float) else whole(0)(value, where)


def max_grad_norm(value: Any, where: str) -> float | None:
    """Return the norm each trial's gradient is clipped to; 0 means no clipping, as in transformers."""
    return number(0)(value, where) or None


def device(value: Any, where: str) -> str:
    """Return auto, cpu, cuda, cuda:N, mps, or what means several: cuda:all, cpu:N."""
    if not re.fullmatch(r"auto|mps|cpu(:[1-9]\d{0,2})?|cuda(:\d{1,3}|:all)?", value):
        known = "known: auto, cpu, cuda, cuda:N, mps, cuda:all, cpu:N"
        raise BadInput(where, "must be a known device", got=shown(value), way_out=known)
    return str(value)


def study_name(value: Any, where: str) -> str:
    """Return the name of a study."""
    return plain_name(word(value, where), where)


def listed(value: Any, where: str) -> tuple[str, ...]:
    """Return a text, or a list of different ones, as a tuple."""
    texts = tuple(word(item, where) for item in (value if isinstance(value, list) else [value]))
    check_items(texts, where)
    return texts


def check_items(values: tuple[Any, ...], where: str) -> None:
    """Refuse a list that is empty or holds a value twice."""
    if not values:
        raise BadInput(where, "a list must not be empty", way_out="give it a value or leave the key out")
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise BadInput(
            where, "a list must not hold a value twice", got=f"{shown(twice[0])} again", way_out="remove one"
        )


def scalar(text: str) -> Any:
    """Return text as TOML would read it without quotes: true, false, an integer, a float; anything else as text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def split(text: str, where: str) -> list[str]:
    """Return the items of a comma list; none may be empty."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise BadInput(where, "a list must not have an empty item", got=shown(text), way_out="write it as a,b,c")
    return items


def scalars(text: str, where: str) -> list[Any]:
    """Return the items of a comma list, each as `scalar` reads it."""
    return [scalar(item) for item in split(text, where)]


def names(text: str, where: str) -> list[str]:
    """Return the items of a comma list as texts, each once."""
    return list(dict.fromkeys(split(text, where)))


def as_text(text: str, _where: str) -> str:
    """Return the text as it stands: a name made of digits is no number."""
    return text


def modules(text: str, where: str) -> Any:
    """Return target_modules: suffixes a,b,c as one list in a list of values; all-linear and a regex as they stand."""
    return [split(text, where)] if _SUFFIXES.fullmatch(text) and text != "all-linear" else text


def _as_float(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        given = float(value)
    except OverflowError:
        return None
    return given if math.isfinite(given) else None
