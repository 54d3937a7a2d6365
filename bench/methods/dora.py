"""DoRA: W' = m (W0 + s B A) / ||W0 + s B A||, a norm for each output (Liu et al. 2024, arXiv:2402.09353, section 4)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.devices import widest_float
from bench.core.spec import Trial
from bench.methods._base import LayerShape, Role
from bench.methods.lora import LoRA

if TYPE_CHECKING:
    from torch import Generator, Tensor


class DoRA(LoRA):
    """LoRA's factors and a magnitude m for each output, at eta_A; the norm gets no gradient (section 4.3), as in PEFT.

    Trained is m's change, zero at first: AdamW takes the same steps, and the model is the base to the last bit. The
    norm is put together from ||W0||^2, W0 A^T and A A^T, so that no trial has a weight of its own in memory.
    """

    name = "dora"
    label = "DoRA"
    looks: ClassVar = {None: (11, "s")}
    place = 4
    source = "arXiv:2402.09353"
    adds = False
    adapts_embeddings = False
    needs_weight = True
    timed: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def flop_per_token(self, trial: Trial, shape: LayerShape) -> int:
        """LoRA's; the norm's products depend on no token, and the frozen product is there already."""
        return 2 * super().n_trainable(trial, shape)

    def n_trainable(self, trial: Trial, shape: LayerShape) -> int:
        """r (in + out) + out."""
        return super().n_trainable(trial, shape) + shape.out_features

    def pack_key(self, trial: Trial) -> Hashable:
        """Ranks may differ, as in LoRA's."""
        return (self.name, *super().pack_key(trial)[1:])  # type: ignore[index]

    def roles(self, shape: LayerShape) -> dict[str, Role]:
        """A, B and the magnitude's change."""
        return {**super().roles(shape), "magnitude": Role.VECTOR}

    def init(self, trial: Trial, shape: LayerShape, generator: Generator, weight: Tensor | None) -> dict[str, Tensor]:
        """LoRA's, and no change of the magnitude."""
        import torch

        return {**super().init(trial, shape, generator, weight), "magnitude": torch.zeros(shape.out_features)}

    def stack(self, per_trial: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Ranks are padded."""
        import torch

        return {**super().stack(per_trial), "magnitude": torch.stack([params["magnitude"] for params in per_trial])}

    def unstack(self, trial: Trial, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut the padding off."""
        return {**super().unstack(trial, params), "magnitude": params["magnitude"]}

    def constants(self, trials: Sequence[Trial], shape: LayerShape, weight: Tensor | None) -> dict[str, Tensor | int]:
        """The scaling, and ||W0||^2 of each output."""
        if weight is None:
            raise ValueError("DoRA is a map of the frozen weight")
        return {
            **super().constants(trials, shape, weight),
            "square_O": weight.to(widest_float(weight.device)).square().sum(1),
        }

    def output(
        self, params: Mapping[str, Tensor], constants: Mapping[str, Any], h: Tensor, x: Tensor, *, dropped: bool = False
    ) -> Tensor:
        """h + (g - 1) W0 x + g s B A x, g = m / ||W0 + s B A||; with dropout W0 x is that of the dropped input."""
        from torch.nn.functional import linear

        frozen = constants["frozen"]
        without_bias = h if frozen.bias is None else h - frozen.bias
        base = linear(x, frozen.weight) if dropped else without_bias
        change_Kx1xO = self.change(params, constants)[:, None]
        lora = self.delta(self.computed(params, constants, x), constants, x)
        return h + change_Kx1xO.to(x.dtype) * base + (1 + change_Kx1xO).to(x.dtype) * lora

    def change(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> Tensor:
        """Return g - 1, [K, O]."""
        norm_KxO, start_O = self._norm(params, constants), constants["square_O"].sqrt()
        change: Tensor = (start_O - norm_KxO + params["magnitude"]) / norm_KxO
        return change

    def _norm(self, params: Mapping[str, Tensor], constants: Mapping[str, Any]) -> Tensor:
        """Return ||W0 + s B A||, [K, O], without gradient."""
        import torch

        detached = {name: params[name].detach() for name in ("A", "B")}
        A, B = self.computed(detached, constants, detached["A"]).values()
        B = B * constants["scaling"][:, None, None]
        WA_KxOxR = (A @ constants["frozen"].weight.to(A.dtype).T).transpose(1, 2)
        square = constants["square_O"] + (B * (2 * WA_KxOxR + B @ (A @ A.transpose(1, 2)))).sum(-1)
        return square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()

    def weight_delta(self, params: Mapping[str, Tensor], constants: Mapping[str, Any], shape: LayerShape) -> Tensor:
        """(g - 1) W0 + g s B A."""
        change_KxOx1 = self.change(params, constants)[..., None]
        lora = super().weight_delta(params, constants, shape)
        return change_KxOx1 * constants["frozen"].weight.to(lora.dtype) + (1 + change_KxOx1) * lora

    def peft_settings(self, trial: Trial) -> dict[str, Any]:
        """LoraConfig's, with use_dora."""
        return {**super().peft_settings(trial), "use_dora": True}

    def peft_state(
        self, trial: Trial, shape: LayerShape, own: Mapping[str, Tensor], constants: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """LoRA's, and m as PEFT holds it, not its change."""
        magnitude = constants["square_O"].sqrt() + own["magnitude"]
        return {**super().peft_state(trial, shape, own, constants), "lora_magnitude_vector": magnitude}


METHOD = DoRA()
