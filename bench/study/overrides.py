"""What the command line can change in a study: one table of options, and text -> layer.

The table gives every option its flags, its make variable and the study key that it replaces, so that the three cannot
drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bench import methods
from bench.core import rules
from bench.core.errors import BadInput, one_of
from bench.study import layer
from bench.study.layer import Axes, Layer, Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option: the study key it replaces, where that lies, its flags (the first is shown) and make variable."""

    key: str
    place: Literal["choice", "setting", "train", "grid"]
    flags: tuple[str, ...]
    variable: str
    help: str
    several: bool = False  # a comma list of values


def _option(
    key: str,
    place: Literal["choice", "setting", "train", "grid"],
    flags: str,
    help: str,
    *,
    variable: str = "",
    several: bool = False,
) -> Option:
    # The variable is the flag in capitals unless said otherwise.
    shown = tuple(flags.split())
    name = variable or shown[0].removeprefix("--").replace("-", "_").upper()
    return Option(key=key, place=place, flags=shown, variable=name, help=help, several=several)


OPTIONS: tuple[Option, ...] = (
    _option("study", "choice", "--study", "a file in studies/ by name, or the path of a TOML file"),
    _option("task", "choice", "--task", "task name, or the path of a task TOML file [default: demo]"),
    _option("model", "setting", "--model --model-name-or-path", "registered name, Hub id or local directory"),
    _option("methods", "choice", "--methods --method", "only these methods of the study", several=True),
    _option("rank", "grid", "--ranks --rank", "ranks", several=True),
    _option("seeds", "setting", "--seeds --seed", "seeds, each listed: 0,1,2", several=True),
    _option("eta_A", "grid", "--eta-A --learning-rate", "learning rates of A, or of all weights", several=True),
    _option("lr_ratio", "grid", "--lambda --lr-ratio --loraplus-lr-ratio", "LoRA+: eta_B / eta_A", several=True),
    _option("eta_B", "grid", "--eta-B", "LoRA+: learning rates of B, instead of ratios", several=True),
    _option("max_steps", "train", "--steps --max-steps", "training steps of each trial"),
    _option("batch_size", "train", "--batch --batch-size --per-device-train-batch-size", "examples in a step"),
    _option("eval_steps", "train", "--eval-steps", "evaluate every so many steps"),
    _option("max_length", "train", "--max-length", "cut longer texts, in tokens"),
    _option("precision", "train", "--precision", "fp64, fp32, bf16 or fp16"),
    _option("lr_scheduler_type", "train", "--lr-scheduler-type --schedule", "linear, constant or cosine"),
    _option("warmup_steps", "train", "--warmup-steps", "steps, or below 1 a share of the steps"),
    _option("weight_decay", "train", "--weight-decay", "decoupled weight decay"),
    _option("max_grad_norm", "train", "--max-grad-norm", "clip each trial's gradient; 0: do not"),
    _option("n_select", "train", "--n-select", "training examples held out for choosing; 0: none"),
    _option("init", "grid", "--init", "zero_B or zero_A", several=True),
    _option("lora_alpha", "grid", "--lora-alpha", 'number, or "rank"', several=True),
    _option("use_rslora", "grid", "--use-rslora", "true or false: scale by lora_alpha / sqrt(rank)", several=True),
    _option("lora_dropout", "grid", "--lora-dropout", "dropout on the adapter's input", several=True),
    _option("target_modules", "grid", "--target-modules", "suffixes a,b,c; a regular expression; or all-linear"),
    _option("layers_to_transform", "grid", "--layers-to-transform", "layer numbers from 0"),
    _option(
        "head_policy", "grid", "--head-policy", "rate of new modules: eta_A, peft, paper or a number", several=True
    ),
    _option("reinit_head", "grid", "--reinit-head", "draw anew a head that the checkpoint has", several=True),
    _option("loraplus_lr_embedding", "grid", "--loraplus-lr-embedding", "LoRA+: rate of embeddings", several=True),
    _option("mora_type", "grid", "--mora-types --mora-type", "MoRA: 1, 2, 3, 4 or 6", several=True),
    _option("mora_rounding", "grid", "--mora-rounding", "MoRA: floor or nearest", several=True),
    _option("sampler", "setting", "--sampler", "grid or tpe"),
    _option("n_trials", "setting", "--n-trials", "tpe: trials of each method"),
    _option("pack_size", "setting", "--pack-size", "trials trained together at most"),
    _option("profile", "choice", "--profile", "quick or full [default: quick on a CPU, full on a GPU]"),
    _option("device", "choice", "--device", "auto, cpu, cuda or cuda:N"),
)
BY_KEY: Mapping[str, Option] = {option.key: option for option in OPTIONS}
_SUFFIXES = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(\s*,\s*[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandLine:
    """The options that were given, each value checked and in its final form."""

    study: str | None = None
    task: str | None = None
    profile: str | None = None
    device: str = "auto"
    methods: tuple[str, ...] | None = None
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
        over = {name: self._axes_of(name) for name in grids}
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

    def _axes_of(self, method: str) -> Axes:
        allowed = layer.grid_keys(method, "--methods")
        return {key: values for key, values in self.axes.items() if key in allowed}


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
        chosen[BY_KEY[key].place][key] = _value(BY_KEY[key], text.strip())
    return CommandLine(**chosen["choice"], settings=chosen["setting"], train=chosen["train"], axes=chosen["grid"])


def _value(option: Option, text: str) -> Any:
    where = option.flags[0]
    if option.place == "choice":
        return _choice(option, text)
    if option.key in ("model", "sampler"):
        return rules.setting(option.key, text, where)
    if option.key == "target_modules":
        given: Any = [_split(text, where)] if _SUFFIXES.fullmatch(text) and text != "all-linear" else text
        return rules.axis(option.key, given, where)
    if option.key == "layers_to_transform":
        return rules.axis(option.key, [[scalar(item) for item in _split(text, where)]], where)
    items = [scalar(item) for item in _split(text, where)] if option.several else scalar(text)
    match option.place:
        case "setting":
            return rules.setting(option.key, items, where)
        case "train":
            return rules.TRAIN_KEYS[option.key](items, where)
        case "grid":
            return rules.axis(option.key, items, where)


def _choice(option: Option, text: str) -> Any:
    where = option.flags[0]
    match option.key:
        case "methods":
            return tuple(dict.fromkeys(_split(text, where)))
        case "profile":
            return rules.choice(*rules.PROFILES)(text, where)
        case "device":
            if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
                raise BadInput(
                    where, "must be a known device", got=rules.shown(text), way_out="known: auto, cpu, cuda, cuda:N"
                )
            return text
    return rules.word(text, where)


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


def _split(text: str, where: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise BadInput(where, "a list must not have an empty item", got=rules.shown(text), way_out="write it as a,b,c")
    return items
