"""The options that say which study is meant, the same for every command that works on one."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.core import devices
from bench.core.errors import BadInput
from bench.core.settings import Setting
from bench.core.spec import Study
from bench.study import overrides
from bench.study.layer import Axes, Layer
from bench.study.overrides import BY_KEY, OPTIONS

RESULTS_DIR = "results"
LONGEST_NAME, LONGEST_PATH = 255, 3500  # bytes; the latter leaves room for the files below it

# what `study_command` gives a command: the names of its parameters
STUDY_OPTIONS = (*(option.key for option in OPTIONS), "data_dir", "results_dir")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What the options chose: overrides as text, and the directories."""

    overrides: Mapping[str, str]
    data_dir: Path | None
    results_dir: Path

    def study(self) -> Study:
        """Return the study that is meant; BadInput if there is none or it breaks a rule."""
        return self.trace()[0]

    def trace(self) -> tuple[Study, Layer]:
        """Return the study that is meant, and the layer that says where each of its values was written."""
        from bench import study

        device = overrides.read(self.overrides).device
        data_dir = None if self.data_dir is None else str(self.data_dir)
        profile = devices.default_profile(device)
        return study.trace(overrides=self.overrides, profile=profile, data_dir=data_dir, advise=self._advise,
                           precision=devices.default_precision(device))  # fmt: skip

    def _advise(self, base: Study) -> Mapping[str, Axes]:
        from bench.comparison import advised

        return advised.grids_of(base, self.results_dir)

    def of_study(self, name: str) -> Selection:
        """Return the same options with the study that is named; BadInput if --study names another one."""
        if self.overrides.get("study", name) != name:
            rule, way_out = "must not be given together with another NAME", "give one of them"
            raise BadInput("--study", rule, got=repr(self.overrides["study"]), way_out=way_out)
        return replace(self, overrides={**self.overrides, "study": name})

    def directory(self, study: Study) -> Path:
        """Return the study's own directory below the results directory."""
        return self.results_dir / study.name


def study_command(run: Callable[..., int]) -> Callable[..., int]:
    """Return `run` as a command that has every option of a study and gets them as `selection`.

    Its own parameters become options beside them, as typer makes them.
    """

    return _command(run, OPTIONS)


def some_options(*keys: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return a decorator like `study_command` for a command that reads only these options, beside the directories."""
    return lambda run: _command(run, tuple(BY_KEY[key] for key in keys))


def _command(run: Callable[..., int], options: Sequence[Setting]) -> Callable[..., int]:
    @functools.wraps(run)
    def command(**given: Any) -> int:
        texts = {option.key: given.pop(option.key) for option in options}
        data_dir, results_dir = given.pop("data_dir"), given.pop("results_dir")
        selection = Selection(
            overrides={key: text for key, text in texts.items() if text is not None},
            data_dir=_directory(data_dir, "--data-dir"),
            results_dir=_directory(results_dir, "--results-dir") or Path(RESULTS_DIR),
        )
        return run(selection=selection, **given)

    parameters = inspect.signature(run, eval_str=True).parameters.values()
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters if p.name != "selection"]
    command.__signature__ = inspect.Signature([*_parameters(options), *own])  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def _parameters(options: Sequence[Setting]) -> list[inspect.Parameter]:
    named: list[tuple[str, tuple[str, ...], str, str | None]]
    named = [(option.key, option.flags, option.help, None) for option in options]
    named.append(("data_dir", ("--data-dir",), "where <task>/train.tsv and others lie", "LORASWEEP_DATA"))
    named.append(("results_dir", ("--results-dir",), "where results go [default: results]", None))
    return [
        inspect.Parameter(
            key,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option(*flags, help=text, envvar=variable, show_default=False)],
        )
        for key, flags, text, variable in named
    ]


def _directory(text: str | None, flag: str) -> Path | None:
    if text is None:
        return None
    if not text.strip() or "\0" in text:
        raise BadInput(flag, "must name a directory", got=repr(text), way_out=f"give one or leave {flag} out")
    path = Path(text).expanduser()
    if len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise BadInput(flag, "must be a path that the system can have", got=f"{text[:40]}...", way_out="shorten it")
    return path
