"""What is stored and passed on: Trial, TrainBudget, Pack and Study, all frozen; and how a trial gets its id.

Nothing here reads a file, a clock or a device. Two trials are the same run exactly when their ids are equal.

A setting is added by adding its field here, with a Setting beside its type and a default that leaves older ids as
they are (see bench/core/settings.py). A setting of a method is read by the methods whose `reads` names it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from bench.core import ids, registry, rules
from bench.core.rules import round_rate
from bench.core.settings import Setting

Precision = Literal["fp64", "fp32", "tf32", "bf16", "fp16"]
BasePrecision = Literal["same", "nf4"]
Schedule = Literal["linear", "constant", "cosine"]
Init = Literal["zero_B", "zero_A", "nonzero", "pissa", "olora", "milora"]

PRECISIONS: tuple[Precision, ...] = ("fp64", "fp32", "tf32", "bf16", "fp16")
BASE_PRECISIONS: tuple[BasePrecision, ...] = ("same", "nf4")
SCHEDULES: tuple[Schedule, ...] = ("linear", "constant", "cosine")
INITS: tuple[Init, ...] = ("zero_B", "zero_A", "nonzero", "pissa", "olora", "milora")
SERIES = ("method", "mora_type")  # the fields of Trial that say what it is compared as: a method, or a type of one
MORA_TYPES = (1, 2, 3, 4, 6)  # the official code has no type 5

SPEC_VERSION = 2  # part of every trial_id: raised only when the meaning of a field changes


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBudget:
    """How a trial is trained, the same for every member of a pack."""

    max_steps: Annotated[int, Setting(
        swept=True, check=rules.whole(1), flags=("--steps", "--max-steps"), help="training steps of each trial",
        meaning="updates planned", unit="steps",
    )]  # fmt: skip
    # the curve has a point every eval_steps steps and at the last one
    eval_steps: Annotated[int, Setting(
        check=rules.whole(1), flags=("--eval-steps",), help="evaluate every so many steps, and at the last one",
    )]  # fmt: skip
    batch_size: Annotated[int, Setting(
        swept=True, check=rules.whole(1), flags=("--batch", "--batch-size", "--per-device-train-batch-size"),
        help="examples in a step", meaning="examples in a step of one trial",
    )] = 32  # fmt: skip
    max_length: Annotated[int, Setting(  # shorter texts are never padded to it
        swept=True, check=rules.whole(4), flags=("--max-length",), help="cut longer texts, in tokens",
        meaning="longer texts are cut", unit="tokens",
    )] = 128  # fmt: skip
    optimizer: Annotated[str, Setting(  # a file of bench/engine/optimizers/
        swept=True, check=rules.choice(*registry.names_in("engine/optimizers")),
        meaning="adamw (torch.optim.AdamW's update), sgd, or muon: for hidden matrices, with adamw for the rest",
    )] = "adamw"  # fmt: skip
    momentum: Annotated[float, Setting(check=rules.number(0, 1), meaning="of sgd; null: an older row, 0")] = 0.0
    muon_momentum: Annotated[float, Setting(check=rules.number(0, 1), meaning="of muon; null: an older row")] = 0.95
    adam_beta1: Annotated[float, Setting(check=rules.number(0, 1), meaning="AdamW beta 1")] = 0.9
    adam_beta2: Annotated[float, Setting(check=rules.number(0, 1), meaning="AdamW beta 2", swept=True)] = 0.999
    adam_eps: Annotated[float, Setting(check=rules.number(0), meaning="AdamW epsilon")] = 1e-8
    weight_decay: Annotated[float, Setting(
        swept=True, check=rules.number(0), flags=("--weight-decay",), help="decoupled weight decay",
        meaning="decoupled weight decay; none on biases and norms",
    )] = 0.0  # fmt: skip
    lr_scheduler_type: Annotated[Schedule, Setting(
        swept=True, check=rules.choice(*SCHEDULES), flags=("--lr-scheduler-type", "--schedule"),
        help="linear, constant or cosine",
        meaning="linear, constant or cosine, as in transformers",
    )] = "linear"  # fmt: skip
    warmup_steps: Annotated[int, Setting(
        swept=True, check=rules.warmup_steps, flags=("--warmup-steps",), help="steps, or below 1 a share of the steps",
        meaning="linear warm-up", unit="steps",
    )] = 0  # fmt: skip
    max_grad_norm: Annotated[float | None, Setting(
        swept=True, check=rules.max_grad_norm, flags=("--max-grad-norm",), help="clip each trial's gradient; 0: do not",
        meaning="each trial's gradient is clipped to this norm; null: not clipped",
    )] = 1.0  # fmt: skip
    precision: Annotated[Precision, Setting(
        check=rules.choice(*PRECISIONS), flags=("--precision",), help="fp64, fp32, tf32, bf16 or fp16",
        default_words="bf16 on a GPU that multiplies in it, else fp32",
        meaning="fp64, fp32, bf16 or fp16 of the base; tf32: fp32, multiplied in TF32; adapters are at least fp32",
    )] = "fp32"  # fmt: skip
    base_precision: Annotated[BasePrecision, Setting(
        check=rules.choice(*BASE_PRECISIONS), flags=("--base-precision",), help="same, or nf4: frozen base in 4 bits",
        meaning="same: the base in `precision`; nf4: its Linear layers in 4 bits; null: an older row",
    )] = "same"  # fmt: skip
    n_select: Annotated[int, Setting(  # at most; in a trial the real number
        check=rules.whole(0), flags=("--n-select",), help="training examples held out for choosing; 0: none",
        meaning="training examples held out for choosing",
    )] = 1000  # fmt: skip
    train_share: Annotated[float, Setting(
        swept=True, check=rules.share, flags=("--train-share",), help="train on this share of the examples",
        meaning="share of the training examples that are trained on, drawn by the seed; a smaller one is in a larger",
    )] = 1.0  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What feeds and scores a trial beside its settings, its data and its base model: the same in a whole study.

    Each field is a column of the row under the same name, so that a mismatch can be told in words.
    """

    metric_name: str = ""
    tokenizer_hash: Annotated[str, "hash of the tokenizer's files"] = ""
    encoding_version: Annotated[int, "how texts become token ids: special tokens, cutting"] = 0
    template: Annotated[str | None, "the prompt of a causal task, with {prompt} in it; null: no prompts"] = None
    select_by: Annotated[str | None, "how they were chosen; null where none are held out"] = None
    n_left_out: Annotated[int, "training examples left out for sharing texts with those held out"] = 0


NO_MEANING = Meaning()  # of trials that are never stored


@dataclass(frozen=True, kw_only=True)  # no slots: its id is worked out once and kept
class Trial:
    """One fine-tuning run, wholly described. A field that the method does not read is None.

    eta_A is the learning rate of A, and of every trained weight where there is no B; eta_B that of B. Both are
    rounded by `round_rate`; lambda = eta_B / eta_A is derived (Hayou et al. 2024, arXiv:2402.12354).
    """

    task: Annotated[str, Setting(meaning="name of the task")]
    model: Annotated[str, Setting(meaning="registered name, Hub id or last part of a local directory")]
    data_hash: Annotated[str, Setting(meaning="hash of the task's data")]
    model_hash: Annotated[str, Setting(meaning="hash of the base model's files, or its Hub revision")]
    method: Annotated[str, Setting(meaning="file name in bench/methods; LoRA+ at lr_ratio 1 is stored as lora")]
    seed: Annotated[int, Setting(meaning="keys data order, dropout and initialisation")]
    eta_A: Annotated[float, Setting(
        check=rules.rate, flags=("--eta-A", "--learning-rate"), help="learning rates of A, or of all weights",
        default_words="must be given",
        meaning="learning rate of A; of every trained weight where there is no B", axis="rate", log=True,
    )]  # fmt: skip
    eta_B: Annotated[float | None, Setting(
        check=rules.rate, flags=("--eta-B",), help="LoRA+: learning rates of B, instead of ratios",
        default_words="must be given, or lr_ratio",
        meaning="learning rate of B", axis="rate", log=True,
    )] = None  # fmt: skip
    rank: Annotated[int | None, Setting(
        check=rules.whole(1), flags=("--ranks", "--rank"), help="ranks; of MoRA the LoRA rank of its size",
        usual=8, in_adapter=False,
        meaning="r; MoRA: the LoRA rank that it is as large as; subspace: its dimension", axis="always", log=True,
    )] = None  # fmt: skip
    init: Annotated[Init | None, Setting(
        check=rules.choice(*INITS), flags=("--init",), help="zero_B, zero_A, nonzero, pissa, olora, milora",
        usual="zero_B", meaning="zero_B (PEFT's), zero_A (the LoRA+ paper's), nonzero, pissa, olora or milora",
    )] = None  # fmt: skip
    lora_alpha: Annotated[float | None, Setting(
        check=rules.lora_alpha, flags=("--lora-alpha",), help='number, or "rank"', usual="rank",
        meaning="PEFT's lora_alpha: the update is scaled by lora_alpha / rank", axis="varied", log=True,
    )] = None  # fmt: skip
    use_rslora: Annotated[bool | None, Setting(
        check=rules.flag, flags=("--use-rslora",), help="true or false: scale by lora_alpha / sqrt(rank)", usual=False,
        meaning="scale by lora_alpha / sqrt(rank) instead",
    )] = None  # fmt: skip
    lora_dropout: Annotated[float | None, Setting(
        check=rules.number(0, 1), flags=("--lora-dropout",), help="dropout on the adapter's input", usual=0.0,
        meaning="dropout on the adapter's input", unit="probability", axis="varied",
    )] = None  # fmt: skip
    # a grid without it has the architecture's, see bench/models/_targets.py
    target_modules: Annotated[str | tuple[str, ...] | None, Setting(
        check=rules.target_modules, parse=rules.modules, flags=("--target-modules",),
        help="suffixes a,b,c; a regular expression; or all-linear", default_words="the architecture's",
        meaning="JSON: PEFT's target_modules, resolved",
    )] = None  # fmt: skip
    layers_to_transform: Annotated[tuple[int, ...] | None, Setting(
        check=rules.layers, flags=("--layers-to-transform",), help="layer numbers from 0", default_words="all",
        meaning="JSON: the layers that are adapted; null: all",
    )] = None  # fmt: skip
    head_policy: Annotated[str | float, Setting(
        check=rules.head_policy, flags=("--head-policy",), help="rate of new modules: eta_A, peft, paper or a number",
        usual="eta_A", every_method=True, meaning="rate of newly initialised modules: eta_A, a number, peft or paper",
    )] = "eta_A"  # fmt: skip
    reinit_head: Annotated[bool, Setting(
        check=rules.flag, flags=("--reinit-head",), help="draw anew a head that the checkpoint has", usual=False,
        every_method=True, meaning="draw anew a head that the checkpoint has; null: a row older than this",
    )] = False  # fmt: skip
    loraplus_lr_embedding: Annotated[float | None, Setting(
        check=rules.rate, flags=("--loraplus-lr-embedding",), help="LoRA+: rate of embeddings", usual=1e-6,
        meaning="LoRA+: the rate of embedding adapters", axis="varied", log=True,
    )] = None  # fmt: skip
    mora_type: Annotated[int | None, Setting(
        check=rules.choice(*MORA_TYPES), flags=("--mora-types", "--mora-type"), help="MoRA: 1, 2, 3, 4 or 6", usual=6,
        meaning="MoRA's operator: 1, 2, 3, 4 or 6, as in the official code", axis="always", searched=False,
    )] = None  # fmt: skip
    mora_rounding: Annotated[Literal["floor", "nearest"] | None, Setting(
        check=rules.choice("floor", "nearest"), flags=("--mora-rounding",), help="MoRA: floor or nearest",
        usual="floor", meaning="of r_hat: floor (the paper) or nearest (the official code)",
    )] = None  # fmt: skip
    adapter_activation: Annotated[Literal["relu", "gelu", "silu", "tanh"] | None, Setting(
        check=rules.choice("relu", "gelu", "silu", "tanh"), flags=("--adapter-activation",),
        help="adapters: relu, gelu, silu or tanh", usual="relu", meaning="adapters: what lies in the bottleneck",
    )] = None  # fmt: skip
    adapter_gate: Annotated[bool | None, Setting(
        check=rules.flag, flags=("--adapter-gate",), help="adapters: true or false: a factor that starts at 0",
        usual=False, meaning="adapters: a learnt factor, 0 at first, in place of a zero up-projection",
    )] = None  # fmt: skip
    layer_decay: Annotated[float, Setting(
        check=rules.number(0, open_low=True), flags=("--layer-decay",), help="rates fall by this factor per layer",
        usual=1.0, every_method=True, meaning="each rate is multiplied by it once for each layer from the top one down",
        axis="varied",
    )] = 1.0  # fmt: skip
    budget: TrainBudget
    meaning: Meaning = NO_MEANING
    # 1: of a stored row of that version, never of a new run
    spec_version: Annotated[int, Setting(
        every_method=True, meaning="version of trial_id: what it is a hash of; null: 1",
    )] = SPEC_VERSION  # fmt: skip

    @functools.cached_property
    def trial_id(self) -> str:
        """16 hex digits: the hash of every setting of the resolved trial, of its data, base model and meaning."""
        if self.spec_version == 1:
            return ids.digest(
                {"spec_version": 1, **ids.named(self, ids.TRIAL_1), "budget": ids.named(self.budget, ids.BUDGET_1)}
            )
        # As asdict, which copies deeply and takes four times as long.
        settings = ids.told(self, ids.TRIAL_1)
        settings["budget"] = ids.told(self.budget, ids.BUDGET_1)
        settings["meaning"] = ids.told(self.meaning, ())
        return ids.digest({**settings, "spec_version": self.spec_version})

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


# Derived, so no field; a grid may give it instead of eta_B.
LR_RATIO = Setting(
    check=rules.rate, flags=("--lambda", "--lr-ratio", "--loraplus-lr-ratio"), help="LoRA+: eta_B / eta_A",
    default_words="must be given, or eta_B",
    meaning="lambda = eta_B / eta_A, derived", axis="rate", log=True, key="lr_ratio", type=float | None,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """K trials trained in one forward and backward over one frozen base, in slot order.

    A pack of `start` > 0 goes on from the kept states of its trials at that step; one with `until` pauses at that step
    and keeps theirs (bench/engine/state.py).
    """

    trials: tuple[Trial, ...]
    start: int = 0
    until: int | None = None  # None: trains to the end

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
    return ids.digest(sorted(trial_ids))


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
    task: Annotated[str, Setting(check=rules.word, help="task name, or the path of a task TOML file")]
    model: Annotated[str, Setting(
        check=rules.word, parse=rules.as_text, flags=("--model", "--model-name-or-path"),
        help="registered name, Hub id or local directory", default_words="the task's",
    )]  # fmt: skip
    seeds: Annotated[tuple[int, ...], Setting(
        check=rules.whole(0), flags=("--seeds", "--seed"), help="seeds, each listed: 0,1,2",
    )]  # fmt: skip
    grids: tuple[MethodGrid, ...]
    budget: TrainBudget
    profile: str
    device: str = "auto"  # auto | cpu | cuda | cuda:N | mps | cuda:all | cpu:N
    figure: str = ""  # what it reproduces: the comment on line 1 of the file
    sampler: Annotated[str, Setting(  # a file of bench/searches/
        check=rules.choice(*registry.names_in("searches")), parse=rules.as_text, flags=("--sampler",),
        help="grid, halving or tpe",
    )] = "grid"  # fmt: skip
    # halving: None is the search's own
    rungs: Annotated[tuple[float, ...] | None, Setting(
        check=rules.number(0, 1, open_low=True), flags=("--rungs",),
        help="halving: shares of the steps at which cells are left out", default_words="the search's own",
    )] = None  # fmt: skip
    keep: Annotated[float | None, Setting(
        check=rules.number(0, 1, open_low=True), flags=("--keep",),
        help="halving: share of a method's cells that go on from a rung", default_words="the search's own",
    )] = None  # fmt: skip
    # None: with halving and tpe only
    widen: Annotated[bool | None, Setting(
        check=rules.flag, flags=("--widen",), help="true or false: add trials where the best one lies on the border",
        default_words="true with halving and tpe",
    )] = None  # fmt: skip
    max_extra: Annotated[float, Setting(
        check=rules.number(0), flags=("--max-extra",),
        help="widen: trials added at most, as a share of the grid's or of n_trials",
    )] = 0.3  # fmt: skip
    # of each method, for a search that chooses between the grid's bounds
    n_trials: Annotated[int | None, Setting(
        check=rules.whole(1), flags=("--n-trials",), help="tpe: trials of each method",
        default_words="must be given with tpe",
    )] = None  # fmt: skip
    # None: every trial that a search chooses trains to its end
    pruner: Annotated[str | None, Setting(  # a file of bench/pruners/
        check=rules.choice(*registry.names_in("pruners")), parse=rules.as_text, flags=("--pruner",),
        help="tpe: hyperband or median stops trials at evaluations", default_words="none: trials train to their end",
    )] = None  # fmt: skip
    # None: the planner decides
    pack_size: Annotated[int | None, Setting(
        check=rules.whole(1), flags=("--pack-size",), help="trials trained together at most",
        default_words="measured ([packs](../concepts/packs.md))",
    )] = None  # fmt: skip
    # None: the planner decides
    gradient_checkpointing: Annotated[bool | None, Setting(
        check=rules.flag, flags=("--gradient-checkpointing",),
        help="true or false: layers compute again in backward, which saves memory",
        default_words="where a pack would be smaller than 4",
    )] = None  # fmt: skip
    # figures in the paper's form: cells worse than this metric share one colour
    clip: Annotated[float | None, Setting(
        check=rules.number(0), help="lower end of a figure's colours; scores stay as they are",
    )] = None  # fmt: skip
    # cells of a smaller eta_B / eta_A are left out of the grid
    min_lr_ratio: Annotated[float | None, Setting(
        check=rules.rate, help="cells of a smaller eta_B / eta_A are left out",
    )] = None  # fmt: skip
    # a figure study may name the study whose rows it draws
    rows_from: Annotated[str | None, Setting(
        check=rules.study_name, help="the study whose rows are drawn", default_words="its own",
    )] = None  # fmt: skip
    precision_by_device: bool = field(default=False, compare=False)  # neither file nor option states one
    data_dir: str | None = field(default=None, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # see `where`

    def where(self, key: str) -> str | None:
        """Return where a key of the study stands, as errors name it: file, table and key.

        None where no file gives it; several places, joined by `or`, where grids differ.
        """
        places = [place for name, place in self.origins.items() if name.rpartition(".")[2] == key]
        return " or ".join(dict.fromkeys(places)) or None
