"""`make <command> VARIABLE=value` as a command line: a variable is an option of the command, its flag in capitals."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.errors import BadInput, one_of

SHORT = {"DATA_DIR": "DATA", "RESULTS_DIR": "RESULTS"}
SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def arguments(
    commands: Mapping[str, Any], command: str, words: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the options that make's command line and the environment give; `commands` are click's, by name.

    `words` are make's goals and each VARIABLE=value of its command line. A variable that another goal has an option
    for is left to that one. Any flag of an option names its variable; in the environment the first one only, since
    names such as RANK and SEED are those of other programs, too.

    Raises:
        BadInput: for a variable that no goal has an option for, and a switch that is neither on nor off.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    known = {name: option for option in _options(commands[command]) for name in variables(option)}
    others = {name for goal in words if goal in commands for one in _options(commands[goal]) for name in variables(one)}
    for name in given:
        if name not in known and name not in others and not name.startswith("LORASWEEP_"):
            raise _unknown(name, command, tuple(known))
    by_default = {variables(option)[0] for option in known.values()} & environment.keys()
    texts = {name: environment[name] for name in by_default} | given
    # an alias on make's command line counts, not what the environment says of the same option
    taken = {id(known[name]) for name in given if name in known}
    ordered = [name for name in known if name in given or (name in texts and id(known[name]) not in taken)]
    return [word for name in ordered for word in _words(known[name], name, texts[name])]


def _options(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option"]


def variables(option: Any) -> list[str]:
    """Return the variables of an option, that of its first flag first."""
    names = [flag.lstrip("-").replace("-", "_").upper() for flag in option.opts]
    return [SHORT[names[0]], *names] if names[0] in SHORT else names


def _words(option: Any, name: str, text: str) -> list[str]:
    if not option.is_flag:
        return [f"{option.opts[0]}={text}"]
    if text.strip().lower() not in SWITCH:
        raise BadInput(name, "must be 1 or 0", got=repr(text), way_out=f"write {name}=1 or leave it out")
    return [option.opts[0]] if SWITCH[text.strip().lower()] else []


def _unknown(name: str, command: str, known: Sequence[str]) -> BadInput:
    near = difflib.get_close_matches(name.upper(), known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {one_of(known)}"
    return BadInput(
        f"make {command}",
        "must be given variables of its own options",
        got=repr(name),
        way_out=f"{hint} For a variable of the environment, write {name}=... before make",
    )
