"""What is stored and passed on: Trial, TrainBudget, Pack and Study, all frozen; and how a trial gets its id.

Nothing here reads a file, a clock or a device. Two trials are the same run exactly when their ids are equal.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

Precision = Literal["fp64", "fp32", "bf16", "fp16"]
Schedule = Literal["linear", "constant", "cosine"]
Init = Literal["zero_B", "zero_A", "nonzero"]

PRECISIONS: tuple[Precision, ...] = ("fp64", "fp32", "bf16", "fp16")
SCHEDULES: tuple[Schedule, ...] = ("linear", "constant", "cosine")
INITS: tuple[Init, ...] = ("zero_B", "zero_A", "nonzero")
SERIES = ("method", "mora_type")  # the fields of Trial that say what it is compared as: a method, or a type of one
HEAD_POLICIES = ("eta_A", "peft", "paper")  # or a number

SPEC_VERSION = 2  # part of every trial_id: raised only when the meaning of a field changes
# What an id of version 1 is made of. Frozen: rows of that version are found by it (see `Trial.as_version_1`).
_TRIAL_1 = (
    "task", "model", "data_hash", "model_hash", "method", "seed", "eta_A", "eta_B", "rank", "lora_alpha", "use_rslora",
    "lora_dropout", "init", "target_modules", "layers_to_transform", "loraplus_lr_embedding", "mora_type",
    "mora_rounding", "head_policy",
)  # fmt: skip
_BUDGET_1 = (
    "max_steps", "batch_size", "max_length", "optimizer", "adam_beta1", "adam_beta2", "adam_eps", "weight_decay",
    "lr_scheduler_type", "warmup_steps", "max_grad_norm", "precision", "eval_steps", "n_select",
)  # fmt: skip


def round_rate(rate: float) -> float:
    """Return a learning rate rounded to 12 significant digits.

    3e-4 * 10 != 3e-3 in floats, and the difference would split a heatmap column: a rate is rounded when it enters.
    """
    return float(f"{rate:.12g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBudget:
    """How a trial is trained, the same for every member of a pack."""

    max_steps: int
    batch_size: int = 32
    max_length: int = 128  # tokens; longer texts are cut, shorter ones are never padded to it
    optimizer: str = "adamw"  # a file of bench/engine/optimizers/
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    weight_decay: float = 0.0  # decoupled; never on biases and norms
    lr_scheduler_type: Schedule = "linear"
    warmup_steps: int = 0
    max_grad_norm: float | None = 1.0  # per trial; None: no clipping
    precision: Precision = "fp32"
    eval_steps: int  # the curve has a point every eval_steps steps and at the last one
    n_select: int = 1000  # training examples held out for choosing, at most; in a trial the real number; 0: none


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What feeds and scores a trial beside its settings, its data and its base model: the same in a whole study.

    Each field is a column of the row under the same name, so that a mismatch can be told in words.
    """

    metric_name: str = ""
    tokenizer_hash: str = ""
    encoding_version: int = 0  # how texts become token ids: text.ENCODING_VERSION
    template: str | None = None  # the prompt of a causal task
    select_by: str | None = None  # how the held-out part was chosen; None: nothing is held out
    n_left_out: int = 0  # training examples left out because they have texts in common with the held-out part


NO_MEANING = Meaning()  # of trials that are never stored


@dataclass(frozen=True, kw_only=True)  # no slots: its id is worked out once and kept
class Trial:
    """One fine-tuning run, wholly described. A field that the method does not read is None.

    eta_A is the learning rate of A, and of every trained weight where there is no B; eta_B that of B. Both are
    rounded by `round_rate`; lambda = eta_B / eta_A is derived (Hayou et al. 2024, arXiv:2402.12354).
    """

    task: str
    model: str
    data_hash: str
    model_hash: str
    method: str
    seed: int
    eta_A: float
    eta_B: float | None = None
    rank: int | None = None
    lora_alpha: float | None = None
    use_rslora: bool | None = None
    lora_dropout: float | None = None
    init: Init | None = None
    target_modules: str | tuple[str, ...] | None = None
    layers_to_transform: tuple[int, ...] | None = None
    loraplus_lr_embedding: float | None = None
    mora_type: int | None = None
    mora_rounding: Literal["floor", "nearest"] | None = None
    head_policy: str | float = "eta_A"
    reinit_head: bool = False  # draw anew what the checkpoint has of a head that fits the task, too
    budget: TrainBudget
    meaning: Meaning = NO_MEANING
    spec_version: int = SPEC_VERSION  # 1: of a stored row of that version, never of a new run

    @functools.cached_property
    def trial_id(self) -> str:
        """16 hex digits: the hash of every setting of the resolved trial, of its data, base model and meaning."""
        if self.spec_version == 1:
            return _digest({"spec_version": 1, **_named(self, _TRIAL_1), "budget": _named(self.budget, _BUDGET_1)})
        # As asdict, which copies deeply and takes four times as long.
        settings = _told(self, _TRIAL_1)
        settings["budget"] = _told(self.budget, _BUDGET_1)
        settings["meaning"] = _told(self.meaning, ())
        return _digest({**settings, "spec_version": self.spec_version})

    def as_version_1(self, n_select: int) -> Trial:
        """Return the trial as version 1 had it: its id knew no meaning, and held the `n_select` that was asked for."""
        meaning = Meaning(metric_name=self.meaning.metric_name)
        return replace(self, spec_version=1, meaning=meaning, budget=replace(self.budget, n_select=n_select))

    @property
    def lr_ratio(self) -> float | None:
        """lambda = eta_B / eta_A, for reading and drawing; None where there is no B."""
        return None if self.eta_B is None else round_rate(self.eta_B / self.eta_A)

    @property
    def head_learning_rate(self) -> float:
        """The rate of the newly initialised weight matrices (see head_policy)."""
        return self.eta_A if isinstance(self.head_policy, str) else float(self.head_policy)

    @property
    def cell(self) -> tuple[Any, ...]:
        """What the trials of one grid cell share: everything but the seed."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """K trials trained in one forward and backward over one frozen base, in slot order."""

    trials: tuple[Trial, ...]

    @property
    def pack_id(self) -> str:
        """16 hex digits: the hash of the sorted member ids."""
        return pack_id_of(t.trial_id for t in self.trials)

    @property
    def size(self) -> int:
        """K."""
        return len(self.trials)


def pack_id_of(trial_ids: Iterable[str]) -> str:
    """Return the pack_id of the members with these ids, in whatever order they come."""
    return _digest(sorted(trial_ids))


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodGrid:
    """The cells of one method: the product of its axes.

    `axes` maps a Trial field (or `lr_ratio`, instead of eta_B) to the values it takes; a field that is missing takes
    the method's default.
    """

    method: str
    axes: tuple[tuple[str, tuple[Any, ...]], ...]

    def axis(self, name: str) -> tuple[Any, ...] | None:
        """Return the values of one axis, or None where the grid does not name it."""
        return dict(self.axes).get(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study file, read and resolved: profile applied, overrides applied, every value checked."""

    name: str
    task: str
    model: str
    seeds: tuple[int, ...]
    grids: tuple[MethodGrid, ...]
    budget: TrainBudget
    profile: str
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    sampler: str = "grid"  # a file of bench/searches/
    n_trials: int | None = None  # of each method, for a search that chooses between the grid's bounds
    pack_size: int | None = None  # None: the planner decides
    figure: str = ""  # what it reproduces: the comment on line 1 of the file
    rows_from: str | None = None  # a figure study may name the study whose rows it draws
    min_lr_ratio: float | None = None  # cells of a smaller eta_B / eta_A are left out of the grid
    clip: float | None = None  # figures in the paper's form: cells worse than this metric share one colour
    data_dir: str | None = field(default=None, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # see `where`

    def where(self, key: str) -> str | None:
        """Return where a key of the study stands, as errors name it: file, table and key.

        None where no file gives it; several places, joined by `or`, where grids differ.
        """
        places = [place for name, place in self.origins.items() if name.rpartition(".")[2] == key]
        return " or ".join(dict.fromkeys(places)) or None


def _named(source: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _told(source: Any, always: Collection[str]) -> dict[str, Any]:
    """Return the fields named in `always`, and of the others those that differ from their default.

    So a setting that is added later leaves the ids of trials that do without it as they are.
    """
    values = ((f, getattr(source, f.name)) for f in fields(source))
    return {f.name: value for f, value in values if f.name in always or value != f.default}


def _digest(value: object) -> str:
    """Return 16 hex digits of sha256 over canonical JSON: sorted keys, floats by repr, tuples as lists."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
