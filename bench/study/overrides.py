"""What the command line can change in a study: the options, which the settings declare, and text -> layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from bench import methods
from bench.core import keys, rules, settings
from bench.core.errors import BadInput, one_of
from bench.core.settings import Setting
from bench.study import layer
from bench.study.layer import Axes, Layer, Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandLine:
    """The options that were given, each value checked and in its final form."""

    study: Annotated[str | None, Setting(
        check=rules.word, parse=rules.as_text, flags=("--study",),
        help="a file in studies/ by name, or the path of a TOML file",
    )] = None  # fmt: skip
    task: Annotated[str | None, Setting(
        check=rules.word, parse=rules.as_text, flags=("--task",),
        help="task name, or the path of a task TOML file [default: demo]",
    )] = None  # fmt: skip
    methods: Annotated[tuple[str, ...] | None, Setting(
        check=rules.word, parse=rules.names, flags=("--methods", "--method"), help="only these methods of the study",
    )] = None  # fmt: skip
    profile: Annotated[str | None, Setting(
        check=rules.choice(*rules.PROFILES, rules.ADVISED), parse=rules.as_text, flags=("--profile",),
        help="quick, full or advised, narrow grids from stored rows [default: full on a CUDA GPU, else quick]",
    )] = None  # fmt: skip
    device: Annotated[str, Setting(
        check=rules.device, parse=rules.as_text, flags=("--device",),
        help="auto, cpu, cuda, cuda:N, mps; several at once: cuda:all, cpu:N",
    )] = "auto"  # fmt: skip
    settings: Mapping[str, Any]
    train: Mapping[str, Any]
    axes: Axes

    def apply(self, base: Layer) -> Layer:
        """Return `base` with these options in place of its own values.

        An axis replaces that of every grid whose method reads it. Fewer steps lower eval_steps with them, unless that
        is given too.

        Raises:
            BadInput: for a method without a grid in the study, and for an axis that none of its methods reads.
        """
        grids = self._chosen_grids(base)
        over = {name: self._axes_of(name) | self._values_of(axes) for name, axes in grids.items()}
        for key in self.axes:
            if not any(key in axes for axes in over.values()):
                readers = [name for name in methods.names() if key in layer.grid_keys(name, "--methods")]
                rule = f"must be read by one of the methods that run ({one_of(grids)})"
                way_out = f"leave it out, or add one that reads it: {one_of(readers)}"
                raise BadInput(BY_KEY[key].flags[0], rule, way_out=way_out)
        train = dict(self.train)
        if "max_steps" in train and "eval_steps" in base.train and "eval_steps" not in train:
            train["eval_steps"] = min(base.train["eval_steps"], train["max_steps"])
        settings = self.settings if self.task is None else {**self.settings, "task": self.task}
        own = Layer(settings=settings, train=train, grids=over)
        return layer.merge(replace(base, grids=grids), layer.with_origins(own, self._origin))

    def _origin(self, _table: str, key: str) -> Origin:
        """Return the option that gave a key; --steps may have lowered eval_steps."""
        given = "max_steps" if key == "eval_steps" and key not in self.train else key
        flag = BY_KEY[given].flags[0]
        return Origin(where=flag, source=flag)

    def _chosen_grids(self, base: Layer) -> Mapping[str, Axes]:
        if self.methods is None:
            return base.grids
        for name in self.methods:
            methods.get(name, where="--methods")
            if name not in base.grids:
                rule = "must have a grid in the study"
                raise BadInput("--methods", rule, got=rules.shown(name), way_out=f"grids here: {one_of(base.grids)}")
        return {name: base.grids[name] for name in self.methods}

    def _values_of(self, axes: Axes) -> dict[str, Any]:
        """Return the values of [train] that are given and that a grid has an axis of its own for."""
        return {key: (value,) for key, value in self.train.items() if key in keys.SWEPT and key in axes}

    def _axes_of(self, method: str) -> dict[str, Any]:
        allowed = layer.grid_keys(method, "--methods")
        return {key: values for key, values in self.axes.items() if key in allowed}


_SHOWN_FIRST = (
    "study", "task", "model", "methods", "rank", "seeds", "eta_A", "lr_ratio", "eta_B", "max_steps", "batch_size",
    "eval_steps", "max_length", "precision", "lr_scheduler_type", "warmup_steps",
)  # fmt: skip
# A task is an option of its own: it may choose the study file, too.
_BY_PLACE = {**keys.TRAIN, **keys.TRIAL, **keys.TOP, **settings.of(CommandLine, "choice")}
BY_KEY: Mapping[str, Setting] = {
    key: _BY_PLACE[key] for key in dict.fromkeys((*_SHOWN_FIRST, *_BY_PLACE)) if _BY_PLACE[key].flags
}
OPTIONS = tuple(BY_KEY.values())


def read(texts: Mapping[str, str]) -> CommandLine:
    """Return the options given as text, by key.

    Raises:
        BadInput: for an empty value and for one that its key cannot hold.
    """
    for key, text in texts.items():
        if not text.strip():
            option = BY_KEY[key]
            way_out = f"give it a value, or leave {option.flags[0]} (make: {option.variable}) out"
            raise BadInput(option.flags[0], "must not be empty", way_out=way_out)
    if "eta_B" in texts and "lr_ratio" in texts:
        raise BadInput(
            "--eta-B", "must not be given together with --lambda", way_out="give one: eta_B = lambda * eta_A"
        )
    chosen: dict[str, dict[str, Any]] = {"choice": {}, "setting": {}, "train": {}, "grid": {}}
    for key, text in texts.items():
        found = BY_KEY[key].read(text.strip())
        chosen["grid" if key in keys.SWEPT and isinstance(found, tuple) else BY_KEY[key].place][key] = found
    return CommandLine(**chosen["choice"], settings=chosen["setting"], train=chosen["train"], axes=chosen["grid"])
