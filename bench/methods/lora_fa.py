"""LoRA-FA: LoRA whose A stays as it was drawn (Zhang et al. 2023, arXiv:2308.03303, section 3)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from bench.core.spec import Trial
from bench.methods._base import LayerShape, Role, rank_of
from bench.methods.lora import LoRA


class LoRAFA(LoRA):
    """B alone is trained, at eta_A: backward keeps A x, r numbers a token, and not x.

    PEFT's create_lorafa_optimizer also multiplies B's gradient by (A A^T)^-1 / s^2; this is the paper's plain B.
    """

    name = "lora-fa"
    label = "LoRA-FA"
    looks: ClassVar = {None: (12, "o")}
    place = 5
    source = "arXiv:2308.03303"
    reads = LoRA.reads - {"eta_B"}
    adapts_embeddings = False
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def problem(self, trial: Trial, shape: LayerShape) -> str | None:
        """A that is zero would stay so, and nothing would be learnt."""
        if trial.init == "zero_A":
            return "init must leave A random, which is not trained, but got zero_A"
        return super().problem(trial, shape)

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """2 r (in + out), as LoRA's forward pass."""
        return 2 * self.n_added(trial, shape)

    def peft_code(self, trial: Trial) -> list[str]:
        """LoRA's, and A frozen."""
        return [
            *super().peft_code(trial),
            "for name, parameter in model.named_parameters():  # LoRA-FA: A stays as it was drawn",
            '    if ".lora_A." in name:',
            "        parameter.requires_grad_(False)",
        ]

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """r out."""
        return rank_of(trial) * shape.out_features

    def n_added(self, trial: Trial, shape: LayerShape) -> int:
        """r (in + out)."""
        return super().n_trainable(trial, shape)

    def pack_key(self, trial: Trial) -> Hashable:
        """Ranks may differ, as in LoRA's."""
        return (self.name, *super().pack_key(trial)[1:])  # type: ignore[index]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """B is trained at eta_A, A is not."""
        return {"A": Role.FROZEN, "B": Role.M}


METHOD = LoRAFA()
