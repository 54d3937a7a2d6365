"""HiRA: W' = W0 + W0 * (B A), a Hadamard product: a change of high rank of few numbers (Huang et al. 2025, ICLR,
openreview.net/forum?id=TwJrTz9cRS).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.spec import Trial
from bench.methods._base import LayerShape, Role
from bench.methods.lora import LoRA

if TYPE_CHECKING:
    from torch import Tensor


class HiRA(LoRA):
    """LoRA's factors, times the frozen weight, number by number; no scaling, as in PEFT. One rate, eta_A.

    The change has no short form, so it is made for each trial, in both passes; backward keeps none.
    """

    name = "hira"
    label = "HiRA"
    looks: ClassVar = {None: (13, "h")}
    place = 7
    source = "openreview TwJrTz9cRS"
    reads = frozenset({"rank", "lora_dropout", "init", "target_modules", "layers_to_transform"})
    adapts_embeddings = False
    needs_weight = True
    peft_type = "HIRA"
    peft_config = "HiraConfig"
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def problem(self, trial: Trial, shape: LayerShape) -> str | None:
        """Its factors are zero together at first."""
        if self.keeps_start(trial):
            return f"init must be zero_B or zero_A, but got {trial.init}"
        return None

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """2 in out: a second full product."""
        return 2 * shape.in_features * shape.out_features

    def pack_key(self, trial: Trial) -> Hashable:
        """Ranks may differ, as in LoRA's."""
        return (self.name, *super().pack_key(trial)[1:])  # type: ignore[index]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """A and B, both at eta_A."""
        return {"A": Role.M, "B": Role.M}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """None but the frozen layer."""
        return {}

    def factors(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> None:
        """Return None: the product goes through the frozen weight."""

    def delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], x_KxNxI: Tensor) -> Tensor:
        """(W0 * (B A)) x, [K, N, O]."""
        from bench.methods._on_the_fly import product

        weight_OxI = constants["frozen"].weight.to(x_KxNxI.dtype)
        return product(lambda A, B: weight_OxI * (B @ A), x_KxNxI, params["A"], params["B"])

    def weight_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], shape: LayerShape) -> Tensor:
        """W0 * (B A)."""
        BA_KxOxI = params["B"] @ params["A"]
        return constants["frozen"].weight.to(BA_KxOxI.dtype) * BA_KxOxI

    def peft_settings(self, trial: Trial) -> dict[str, Any]:
        """HiraConfig's."""
        return {"r": trial.rank, "hira_dropout": trial.lora_dropout or 0.0}

    def peft_code(self, trial: Trial) -> list[str]:
        """LoRA's init under HiRA's names."""
        return [line.replace("lora_", "hira_") for line in super().peft_code(trial)]

    def peft_saved(self, trial: Trial, shapes: Sequence[LayerShape]) -> dict[str, Any]:
        """The same."""
        return self.peft_settings(trial)

    def peft_state(
        self, trial: Trial, shape: LayerShape, own: Mapping[str, Tensor], constants: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """A [r, I] and B [O, r]."""
        return {"hira_A": own["A"], "hira_B": own["B"]}


METHOD = HiRA()
