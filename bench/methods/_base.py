"""What a method is: which settings it reads, the parameters it adds to a layer, and one linear map of them.

A method is data plus one map. The merged weight is that map applied to the identity, so a forward pass and a merge
cannot disagree. Parameters of K trials are stacked along a leading axis, shape suffixes say how: K trials, N rows
(tokens), I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench.core.errors import BadInput
from bench.core.spec import Precision, Trial

if TYPE_CHECKING:
    from torch import Generator, Tensor, dtype


class Role(StrEnum):
    """What a trained parameter is; its learning rate follows from it (see `rate_of`)."""

    A = "A"
    B = "B"
    M = "M"
    EMBEDDING_A = "embedding_A"
    EMBEDDING_B = "embedding_B"
    BIAS = "bias"  # 1-D, added to a layer's own
    VECTOR = "vector"  # 1-D, what outputs or factors are multiplied by
    FROZEN = "frozen"  # of a method, but never trained: LoRA-FA's A
    BASE = "base"  # a pretrained weight
    HEAD_WEIGHT = "head_weight"  # 2-D, newly initialised
    HEAD_BIAS = "head_bias"  # 1-D, newly initialised
    FROZEN_HEAD = "frozen_head"  # newly initialised and, under head_policy "paper", never trained


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShape:
    """The shape of one layer that can be adapted; `path` is its dotted name in the model."""

    path: str
    in_features: int  # rows of the table, for an embedding
    out_features: int
    kind: Literal["linear", "conv1d", "embedding", "layernorm"] = "linear"
    widest_in: int = 0  # of all layers that are adapted together; 0: this one is alone
    widest_out: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """The frozen layer that an adapter stands on, as the model holds it; the map finds it in `constants["frozen"]`."""

    weight: Tensor | None = None  # [O, I], a view where the layer stores it transposed; see `Method.init`
    bias: Tensor | None = None  # [O]
    eps: float = 0.0  # of a norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a method, or one type of a method that has several, is called and looks like where it is compared."""

    arm: str  # in comparisons and on the terminal: lora+, mora type 6
    series: str  # in figures: lora+, mora-6
    label: str  # in texts: LoRA+, MoRA type 6
    look: tuple[int, str] | None = None  # place in COLORS of plots/looks.py, and a marker; None: by the name
    place: int = 9  # in legends and tables, equals by name


class Method:
    """A way of fine-tuning. A subclass in its own file is a new method; the class attributes describe it.

    `reads` names the fields of Trial, beside eta_A, seed and head_policy, that the method uses: every other method
    field of its trials is None.
    """

    name: ClassVar[str]
    label: ClassVar[str]  # in texts and on figures
    looks: ClassVar[Mapping[int | None, tuple[int, str]]] = {}  # of each of its types, None where it has but one
    place: ClassVar[int] = 9  # in legends and tables
    reads: ClassVar[frozenset[str]]
    at_equal_rates: ClassVar[str | None] = None  # what a trial with eta_B = eta_A is stored as; eta_B is an axis
    peft_type: ClassVar[str | None] = None  # of PEFT's config; None: it leaves as a merged model
    peft_config: ClassVar[str] = "LoraConfig"  # PEFT's class of that type
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ()  # the settings, beside rank and rates, that `bench speed` times
    trains_base: ClassVar[bool] = False  # pretrained weights are trained, one trial at a time
    adapts: ClassVar[Literal["targets", "biases", "norms"]] = "targets"  # what target_modules names, or every one such
    in_place: ClassVar[frozenset[str]] = frozenset()  # the layer's own parameters, whose change is what is trained
    adapts_embeddings: ClassVar[bool] = False
    shared: ClassVar[frozenset[str]] = frozenset()  # parameters that all adapted layers of a trial have in common
    adds: ClassVar[bool] = True  # the layer's output is h + delta(x); else `output` says what it is
    merges: ClassVar[bool] = True  # there are weights with which the plain layer does the same
    needs_weight: ClassVar[bool] = False  # computes with the frozen weight's numbers: not in a base of packed bits
    own_init: ClassVar[str | None] = None  # of a method that is an init of another one
    own_rank: ClassVar[bool] = False  # its rank counts something else than LoRA's: they are not compared as equal
    source: ClassVar[str] = ""  # the paper

    def identity(self, kind: int | None = None) -> Identity:
        """Return what the method is called and looks like, or one type of it."""
        return replace(self.identity_of(self.name, kind, label=self.label), look=self.looks.get(kind), place=self.place)

    @staticmethod
    def identity_of(name: str, kind: int | None = None, *, label: str | None = None) -> Identity:
        """Return the identity of a method of this name, in this directory or not."""
        label = name if label is None else label
        if kind is None:
            return Identity(arm=name, series=name, label=label)
        return Identity(arm=f"{name} type {kind}", series=f"{name}-{kind}", label=f"{label} type {kind}")

    @property
    def leaves_as(self) -> str:
        """What a trained model can be saved as, in words."""
        if self.peft_type is not None:
            return f"PEFT's {self.peft_config}, merged"
        return "merged" if self.merges else "nothing"

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int | None:
        """Return the FLOP of the adapter's products for one token forward; a step takes three times as many.

        A multiplication and an addition count two; sums, rotations and copies are no products. None: no formula.
        """
        return None if self.roles(shape) else 0

    def derived(self, trial: Trial, shapes: Sequence[LayerShape]) -> dict[str, int]:
        """Return what rows tell beside the settings, by column."""
        return {}

    def peft_settings(self, trial: Trial) -> dict[str, Any]:
        """Return the settings of PEFT's config that are the method's own, where it has a `peft_type`."""
        return {}

    def peft_code(self, trial: Trial) -> list[str]:
        """Return the lines of Python that do what PEFT has no switch for, to a PEFT model called `model`."""
        return []

    def peft_saved(self, trial: Trial, shapes: Sequence[LayerShape]) -> dict[str, Any]:
        """Return those of the adapter that is saved, where they are others."""
        return self.peft_settings(trial)

    def peft_state(
        self, trial: Trial, shape: LayerShape, own: Mapping[str, Tensor], constants: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Return one trial's tensors of a layer by the names that PEFT gives them behind the layer's path.

        A name with a leading dot is not the layer's but the whole model's.
        """
        raise NotImplementedError(f"PEFT has no {self.name}")

    def problem(self, trial: Trial, shape: LayerShape) -> str | None:
        """Return the rule that `trial` breaks at a layer of this shape, with what was got, or None."""
        return None

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """Return how many parameters the method trains at a layer of this shape, beside the shared ones."""
        return 0

    def n_shared(self, trial: Trial) -> int:
        """Return how many numbers the shared parameters hold, once for the model."""
        return 0

    def n_added(self, trial: Trial, shape: LayerShape) -> int:
        """Return how many of them the model did not have before."""
        return self.n_trainable(trial, shape)

    def pack_key(self, trial: Trial) -> Hashable:
        """Return what two trials of one pack must share; the rest of their method settings may differ.

        head_policy "paper" freezes a part of the head, the others are learning rates.
        """
        frozen_head = trial.head_policy == "paper"
        return (self.name, trial.target_modules, trial.layers_to_transform, trial.lora_dropout, frozen_head)

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """Return the role of each parameter that the method adds to a layer of this shape, by name."""
        return {}

    def absent(self, trial: Trial) -> frozenset[str]:
        """Return which of these the trial does without; alike within a pack."""
        return frozenset()

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """Return one trial's initial parameters by name, float32, at its own shapes, drawn from `generator`.

        `weight` is the frozen weight of the layer as the model holds it, its dtype and device: [O, I], [rows, O] for an
        embedding, [O] for a LayerNorm; on the meta device where shapes alone are asked for, None where there is none.
        """
        return {}

    def stack(self, per_trial: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the parameters of K trials stacked along a leading axis."""
        import torch

        return {name: torch.stack([params[name] for params in per_trial]) for name in per_trial[0]}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """Return what the map needs beside its parameters; tensors in float64, with leading axis K or none.

        `weight`: see `init`. The engine adds "frozen", the layer as `Frozen`, and "start" where `keeps_start`.
        """
        return {}

    def keeps_start(self, trial: Trial) -> bool:
        """Return whether the map needs what the parameters were at first, in `constants["start"]`, by name."""
        return False

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """Return what the adapter adds to the layer's output: [K, N, O].

        For an embedding `x_KxNxI` holds the N ids, [N] or [K, N].

        Raises:
            NotImplementedError: a method without adapters (full fine-tuning, head only) has no map.
        """
        raise NotImplementedError(f"{self.name} adds nothing to a layer")

    def output(
        self, params: Mapping[str, Tensor], constants: Mapping[str, Any], h: Tensor, x: Tensor, *, dropped: bool = False
    ) -> Tensor:
        """Return what the adapted layer puts out, [K, N, O], given what the frozen one does, h [K or 1, N, O].

        `x` [K or 1, N, I] is what the adapter sees: the layer's input, or with `dropped` that after dropout. A method
        that does not just add overrides this, with `adds` False; its parameters come in their own precision.
        """
        return h + self.delta(self.computed(params, constants, x), constants, x)

    def computed(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
        """Return the parameters as `delta` takes them: in the precision of x; as they are where x holds ids."""
        return {name: in_dtype(p, x.dtype) for name, p in params.items()} if x.is_floating_point() else dict(params)

    def factors(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Return A [K, R, I] and B [K, O, R] where a Linear's `delta` is x A^T B^T, for an engine that fuses them.

        None: the method's map is no product of two factors.
        """
        return None

    def unstack(self, trial: Trial, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one trial's parameters at its own shapes, given its slice of the stacked ones."""
        return dict(params)

    def weight_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], shape: LayerShape) -> Tensor:
        """Return what merging adds to the weight, `delta` of the identity: [K, O, I]; for an embedding [K, rows, O]."""
        import torch

        some = next(iter(params.values()))
        if shape.kind == "embedding":
            ids = torch.arange(shape.in_features, device=some.device)
            return self.delta(self.computed(params, constants, ids), constants, ids)
        eye_KxIxI = torch.eye(shape.in_features, dtype=some.dtype, device=some.device).expand(some.shape[0], -1, -1)
        return self.delta(self.computed(params, constants, eye_KxIxI), constants, eye_KxIxI).transpose(1, 2)

    def bias_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> Tensor | None:
        """Return what merging adds to the bias, `delta` of zero: [K, O]; None: nothing, the map is linear."""
        return None


def roles_of(method: Method, shape: LayerShape, trial: Trial) -> dict[str, Role]:
    """Return the roles of the parameters that the trial has at a layer of this shape, by name."""
    return {name: role for name, role in method.roles(shape).items() if name not in method.absent(trial)}


def fixed(
    method: Method, trials: Sequence[Trial], shape: LayerShape, frozen: Frozen, start: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return all constants of a layer's map: the method's own, the frozen layer, and the start where it is needed."""
    found: dict[str, Any] = {**method.constants(trials, shape, frozen.weight), "frozen": frozen}
    return {**found, "start": dict(start)} if method.keeps_start(trials[0]) else found


def rank_of(trial: Trial) -> int:
    """Return the rank of a trial whose method reads it; ValueError where it has none."""
    if trial.rank is None:
        raise ValueError(f"a {trial.method} trial has a rank")
    return trial.rank


def require_fit(method: Method, trial: Trial, shapes: Iterable[LayerShape]) -> None:
    """Refuse a trial that its method cannot put into layers of these shapes.

    Raises:
        BadInput: naming the first layer and the rule.
    """
    for shape in shapes:
        if shape.kind == "embedding" and not method.adapts_embeddings:
            rule = f"{method.name} adapts Linears only"
            raise BadInput("target_modules", rule, got=shape.path, way_out="leave it out")
        problem = method.problem(trial, shape)
        if problem is not None:
            way_out = "choose a smaller rank or other target_modules"
            raise BadInput(f"method {trial.method}", problem, way_out=way_out)


def in_dtype(parameter: Tensor, wanted: dtype) -> Tensor:
    """Return a parameter in another dtype; one of a pack may have a copy of all made beforehand (engine/params.py)."""
    made: Callable[[dtype], Tensor] | None = getattr(parameter, "in_dtype", None)
    return parameter.to(wanted) if made is None else made(wanted)


def base_precision(precision: Precision, method: Method) -> Precision:
    """Return in which precision the base model is loaded: half only where it is frozen.

    Weights that are trained stay in float32 from the checkpoint on and are computed with in half precision.
    """
    return "fp32" if method.trains_base and precision in ("bf16", "fp16") else precision


def rate_of(role: Role, trial: Trial) -> float | None:
    """Return the learning rate of a parameter with this role in this trial; None: it is not trained.

    eta_B = lambda * eta_A (Hayou et al. 2024, arXiv:2402.12354, section 2). Under head_policy "peft" and "paper" a
    newly initialised 1-D parameter has B's rate, as in PEFT's and the paper's create_loraplus_optimizer.
    """
    eta_B = trial.eta_A if trial.eta_B is None else trial.eta_B
    match role:
        case Role.A | Role.M | Role.BASE | Role.BIAS | Role.VECTOR:
            return trial.eta_A
        case Role.B:
            return eta_B
        case Role.EMBEDDING_A:
            return trial.eta_A if trial.loraplus_lr_embedding is None else trial.loraplus_lr_embedding
        case Role.EMBEDDING_B:
            return eta_B if trial.loraplus_lr_embedding is None else trial.loraplus_lr_embedding
        case Role.HEAD_WEIGHT:
            return trial.head_learning_rate
        case Role.HEAD_BIAS:
            return eta_B if trial.head_policy in ("peft", "paper") else trial.head_learning_rate
        case Role.FROZEN_HEAD | Role.FROZEN:
            return None
