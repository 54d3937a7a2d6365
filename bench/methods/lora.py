"""LoRA: h = W0 x + (lora_alpha / rank) B A x (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
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
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"lora_dropout": 0.1})

    def problem(self, trial: Trial, shape: LayerShape) -> str | None:
        """Any rank fits any layer, as in PEFT: above its smaller side it adds parameters and no freedom."""
        if trial.init == "nonzero":
            return 'init must be zero_B or zero_A, but got "nonzero", which moves the model before it is trained'
        return None

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """2 r (in + out)."""
        return 2 * self.n_trainable(trial, shape)

    def peft_settings(self, trial: Trial) -> dict[str, Any]:
        """LoraConfig's rank, scaling and dropout."""
        return {
            "r": trial.rank,
            "lora_alpha": trial.lora_alpha,
            "use_rslora": bool(trial.use_rslora),
            "lora_dropout": trial.lora_dropout or 0.0,
        }

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """r (in + out)."""
        return rank_of(trial) * (shape.in_features + shape.out_features)

    def pack_key(self, trial: Trial) -> Hashable:
        """LoRA and LoRA+ differ by learning rates only, so they share packs, whatever their ranks."""
        return ("lora", *super().pack_key(trial)[1:])  # type: ignore[index]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """A and B, or an embedding's A and B."""
        if shape.kind == "embedding":
            return {"A": Role.EMBEDDING_A, "B": Role.EMBEDDING_B}
        return {"A": Role.A, "B": Role.B}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """zero_B: A ~ U(+-1/sqrt(I)), B = 0, PEFT's default. zero_A: B ~ U(+-1/sqrt(R)), A = 0, the LoRA+ paper's.

        Both are kaiming_uniform(a=sqrt(5)), that is U(+-1/sqrt(fan_in)). An embedding's B is N(0, 1) and its A zero
        under zero_B, as in PEFT's update_layer for nn.Embedding; under zero_A the two change places.
        """
        import torch

        rank = rank_of(trial)
        A_RxI, B_OxR = torch.zeros(rank, shape.in_features), torch.zeros(shape.out_features, rank)
        drawn, fan_in = (A_RxI, shape.in_features) if trial.init == "zero_B" else (B_OxR, rank)
        if shape.kind == "embedding":
            (B_OxR if trial.init == "zero_B" else A_RxI).normal_(generator=generator)
        else:
            bound = 1 / math.sqrt(fan_in)
            drawn.uniform_(-bound, bound, generator=generator)
        return {"A": A_RxI, "B": B_OxR}

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

        A_KxRxI, B_KxOxR = params["A"], params["B"] * constants["scaling"].to(params["B"].dtype)[:, None, None]
        if not x_KxNxI.is_floating_point():  # ids of an embedding
            ids = x_KxNxI
            z = [embedding(ids if ids.ndim == 1 else ids[k], A.T) for k, A in enumerate(A_KxRxI)]
            return torch.bmm(torch.stack(z), B_KxOxR.transpose(1, 2))
        z_KxNxR = torch.matmul(x_KxNxI, A_KxRxI.transpose(1, 2))
        return torch.bmm(z_KxNxR, B_KxOxR.transpose(1, 2))

    def unstack(self, trial: Trial, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut the padding off."""
        rank = rank_of(trial)
        return {"A": params["A"][:rank], "B": params["B"][:, :rank]}


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
