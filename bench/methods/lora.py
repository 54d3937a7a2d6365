"""LoRA: h = W0 x + (lora_alpha / rank) B A x (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
from bench.methods import _inits
from bench.methods._base import LayerShape, Method, Role, rank_of

if TYPE_CHECKING:
    from torch import Generator, Tensor


class LoRA(Method):
    """Two factors, A [R, I] and B [O, R], one learning rate. Ranks may differ within a pack: short ones are padded.

    Padded rows of A and columns of B start at zero and stay there: each one's gradient is a product with the other,
    and AdamW maps a zero gradient to 0 / (0 + eps).
    """

    name = "lora"
    label = "LoRA"
    looks: ClassVar = {None: (0, "o")}
    place = 0
    reads = frozenset({
        "eta_B", "rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules", "layers_to_transform",
    })  # fmt: skip
    adapts_embeddings = True
    peft_type = "LORA"
    source = "arXiv:2106.09685"
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"lora_dropout": 0.1})

    def problem(self, trial: Trial, shape: LayerShape) -> str | None:
        """Any rank fits any layer, as in PEFT: above its smaller side it adds parameters and no freedom."""
        return _inits.problem(self.init_of(trial), rank_of(trial), shape)

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """2 r (in + out)."""
        return 2 * self.n_trainable(trial, shape)

    def peft_settings(self, trial: Trial) -> dict[str, Any]:
        """LoraConfig's rank, scaling, dropout and init."""
        known = {"init_lora_weights": self.init_of(trial)} if self.init_of(trial) in ("pissa", "olora") else {}
        return {
            "r": trial.rank,
            "lora_alpha": trial.lora_alpha,
            "use_rslora": bool(trial.use_rslora),
            "lora_dropout": trial.lora_dropout or 0.0,
            **known,
        }

    def peft_code(self, trial: Trial) -> list[str]:
        """B random and A zero, the LoRA+ paper's init; what PEFT cannot start from is said."""
        if self.init_of(trial) in ("milora", "nonzero"):
            return [f"# PEFT has no init {self.init_of(trial)}: bench recommend --save DIR writes the trained adapter"]
        if self.init_of(trial) != "zero_A":
            return []
        return [
            "for name, parameter in model.named_parameters():  # init zero_A: PEFT has no switch for it",
            '    if ".lora_A." in name or ".lora_embedding_B." in name:',
            "        torch.nn.init.zeros_(parameter)",
            '    elif ".lora_B." in name:',
            "        torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)",
            '    elif ".lora_embedding_A." in name:',
            "        torch.nn.init.normal_(parameter)",
        ]

    def peft_saved(self, trial: Trial, shapes: Sequence[LayerShape]) -> dict[str, Any]:
        """As trained, but of rank 2 r at the same scaling where the start is taken off."""
        found = self.peft_settings(trial)
        found.pop("init_lora_weights", None)
        found["bias"] = "none"
        if self.keeps_start(trial):
            twice = math.sqrt(2) if trial.use_rslora else 2
            found |= {"r": 2 * rank_of(trial), "lora_alpha": twice * found["lora_alpha"]}
        return found

    def peft_state(
        self, trial: Trial, shape: LayerShape, own: Mapping[str, Tensor], constants: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """A [r, I] and B [O, r]; an embedding's are lora_embedding_A [r, rows] and lora_embedding_B [O, r].

        Where the init is taken off, B A - B0 A0 is an ordinary LoRA of rank 2 r.
        """
        import torch

        A_RxI, B_OxR = own["A"], own["B"]
        if self.keeps_start(trial):
            start = self.unstack(trial, {name: value[0] for name, value in constants["start"].items()})
            A_RxI, B_OxR = torch.cat([A_RxI, start["A"]]), torch.cat([B_OxR, -start["B"]], dim=1)
        if shape.kind == "embedding":
            return {"lora_embedding_A": A_RxI, "lora_embedding_B": B_OxR}
        return {"lora_A.weight": A_RxI, "lora_B.weight": B_OxR}

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """r (in + out)."""
        return rank_of(trial) * (shape.in_features + shape.out_features)

    def pack_key(self, trial: Trial) -> Hashable:
        """LoRA and LoRA+ differ by learning rates only, so they share packs, whatever their ranks."""
        key: tuple[Hashable, ...] = ("lora", *super().pack_key(trial)[1:])  # type: ignore[index]
        return (*key, "start") if self.keeps_start(trial) else key

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """A and B, or an embedding's A and B."""
        if shape.kind == "embedding":
            return {"A": Role.EMBEDDING_A, "B": Role.EMBEDDING_B}
        return {"A": Role.A, "B": Role.B}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """See `bench/methods/_inits.py`. What is not zero together is taken off in the map."""
        rank = rank_of(trial)
        if shape.kind == "embedding":
            A_RxI, B_OxR = _inits.of_embedding(self.init_of(trial), rank, shape, generator)
        else:
            scale = scaling(trial) if self.keeps_start(trial) else 1.0
            A_RxI, B_OxR = _inits.of_linear(self.init_of(trial), rank, scale, shape, generator, weight)
        return {"A": A_RxI, "B": B_OxR}

    def init_of(self, trial: Trial) -> str | None:
        """Return the init; that of a trial whose method is an init is the method's.

        Not that of `self`: methods share packs, and a pack's method is that of its first trial.
        """
        from bench import methods

        return methods.get(trial.method).own_init or trial.init

    def keeps_start(self, trial: Trial) -> bool:
        """Where the factors' product is not zero at first."""
        return self.init_of(trial) in _inits.TAKEN_OFF

    def stack(self, per_trial: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Pad every rank to the largest with zeros: A [K, R, I], B [K, O, R]."""
        import torch
        from torch.nn.functional import pad

        rank = max(params["A"].shape[0] for params in per_trial)
        A = [pad(params["A"], (0, 0, 0, rank - params["A"].shape[0])) for params in per_trial]
        B = [pad(params["B"], (0, rank - params["B"].shape[1])) for params in per_trial]
        return {"A": torch.stack(A), "B": torch.stack(B)}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """scaling [K]: lora_alpha / rank, or lora_alpha / sqrt(rank) with use_rslora (arXiv:2312.03732)."""
        import torch

        return {"scaling": torch.tensor([scaling(trial) for trial in trials], dtype=torch.float64)}

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """scaling * B A x, [K, N, O]. The scaling goes onto B, the smaller factor."""
        import torch
        from torch.nn.functional import embedding

        A_KxRxI, B_KxOxR = _scaled(params, constants)
        if not x_KxNxI.is_floating_point():  # ids of an embedding
            ids = x_KxNxI
            z = [embedding(ids if ids.ndim == 1 else ids[k], A.T) for k, A in enumerate(A_KxRxI)]
            return torch.bmm(torch.stack(z), B_KxOxR.transpose(1, 2))
        z_KxNxR = torch.matmul(x_KxNxI, A_KxRxI.transpose(1, 2))
        return torch.bmm(z_KxNxR, B_KxOxR.transpose(1, 2))

    def computed(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
        """Less the start where it is kept: B A - B0 A0 = [B - B0, B0] [A; A - A0], twice the rank.

        At first it is 0 to the last bit, and in half precision the differences keep their digits.
        """
        import torch

        found = {name: params[name] for name in ("A", "B")}
        if "start" in constants:
            A, B = found["A"], found["B"]
            A0, B0 = (constants["start"][name].to(A.dtype) for name in ("A", "B"))
            found = {"A": torch.cat([A, A - A0], dim=1), "B": torch.cat([B - B0, B0], dim=2)}
        return super().computed(found, constants, x)

    def factors(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Return A and the scaled B."""
        return _scaled(params, constants)

    def unstack(self, trial: Trial, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut the padding off."""
        rank = rank_of(trial)
        return {"A": params["A"][:rank], "B": params["B"][:, :rank]}


def _scaled(params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    return params["A"], params["B"] * constants["scaling"].to(params["B"].dtype)[:, None, None]


def scaling(trial: Trial) -> float:
    """Return what B A x is multiplied by: lora_alpha / rank, or lora_alpha / sqrt(rank) with use_rslora.

    Raises:
        ValueError: for a trial without rank or lora_alpha.
    """
    rank, alpha = rank_of(trial), trial.lora_alpha
    if alpha is None:
        raise ValueError("a LoRA trial has a lora_alpha")
    return alpha / math.sqrt(rank) if trial.use_rslora else alpha / rank


METHOD = LoRA()
