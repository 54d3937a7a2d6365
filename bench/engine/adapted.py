"""A frozen layer plus what a method adds for each of K trials, on every path through the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bench.core.errors import BadInput
from bench.engine.dropout import MaskKeys, drop_rows, drop_table
from bench.methods._base import LayerShape, Method


class AdaptedLayer(nn.Module):
    """A frozen Linear, Conv1D, LayerNorm or Embedding plus what the method adds for each trial."""

    def __init__(
        self,
        layer: nn.Module,
        shape: LayerShape,
        method: Method,
        weights: Mapping[str, Tensor],
        constants: Mapping[str, Any],
        dropout: float,
        keys: MaskKeys,
    ) -> None:
        super().__init__()
        self.layer, self.shape, self.method, self.dropout, self.keys = layer, shape, method, dropout, keys
        self.weights, self.constants = dict(weights), dict(constants)
        self.n_trials = next(iter(weights.values())).shape[0]

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for models that ask a layer for its dtype."""
        return self.layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, for models that add it by themselves (Mamba), as they do under PEFT."""
        return getattr(self.layer, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the adapters' added, for x [K * b, ..., in].

        Raises:
            BadInput: where the rows are no multiple of K * b.
        """
        if self.keys.rows is not None:
            h = self.layer(x)
            return self.keys.rows.each(self.output, h, x).reshape(h.shape)
        if self.keys.table_trial is None:
            self._check_rows(x)
        x = shared_part(x, self.n_trials, self.keys)
        h = self.layer(x)
        mask_path = f"{self.shape.path}.lora_dropout"
        if self.keys.table_trial is not None:
            k = self.keys.table_trial
            return self.output(h, drop_table(x, self.dropout, mask_path, self.keys), dropped=self._drops)[k : k + 1]
        seen = drop_rows(x, self.dropout, mask_path, self.keys) if self._drops else x
        if self._is_shared(x):
            return self.output(h, seen, self._drops)
        by_trial = (self.n_trials, -1)
        y_KxNxO = self.output(h.reshape(*by_trial, h.shape[-1]), seen.reshape(*by_trial, x.shape[-1]), self._drops)
        return y_KxNxO.view_as(h)

    def output(self, h: Tensor, seen: Tensor, dropped: bool = False, *, overwrite: bool = False) -> Tensor:
        """Return each trial's output, [K, N, O], of the frozen layer's, [K or 1, N, O]: every path ends here.

        `seen` [K or 1, N, I] is what the adapters see, with `dropped` the layer's input after dropout. With `overwrite`
        h is a product of which no gradient is made, and may be lost.
        """
        if not self.method.adds:
            return self.method.output(self.weights, self.constants, h, seen, dropped=dropped)
        return add(h, self.delta(seen)) if overwrite else h + self.delta(seen)

    def delta(self, x_KxNxI: Tensor) -> Tensor:
        """Return the adapters' part for each trial, [K, N, O], in x's dtype; x may be shared, [1, N, I]."""
        params = self.method.computed(self.weights, self.constants, x_KxNxI)
        return self.method.delta(params, self.constants, x_KxNxI)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the method's two factors in x's type, or None where it does not add a product of two."""
        if not self.method.adds:
            return None
        return self.method.factors(self.method.computed(self.weights, self.constants, x), self.constants)

    def mask(self, x_SxNxI: Tensor) -> Tensor | None:
        """Return the mask of the adapter's input, a packed stream, that is drawn now: [1, N, I]; None: no dropout."""
        if not self._drops or self.keys.token_key is None:
            return None
        path = f"{self.shape.path}.lora_dropout"
        return self.keys.mask(path, self.dropout, self.keys.token_key, x_SxNxI.shape[-1], x_SxNxI.dtype)

    def output_of(self, h: Tensor, x_SxNxI: Tensor) -> Tensor:
        """Return each trial's output for a packed stream, dropout included, of the frozen layer's: [K, N, O]."""
        mask = self.mask(x_SxNxI)
        return self.output(h, x_SxNxI if mask is None else x_SxNxI * mask, mask is not None)

    def _check_rows(self, x: Tensor) -> None:
        """Refuse an input whose leading axis is not that of the chunk's examples: trials could not be told apart."""
        b = 1 if self.keys.first_key is None else self.keys.first_key.shape[0]
        if x.shape[0] % (self.n_trials * b) and not self._is_shared(x):
            rule = f"K * b rows must come in, for K={self.n_trials} trials and b={b} examples"
            way_out = "leave it out of target_modules, or use another architecture"
            raise BadInput(f"model, layer {self.shape.path}", rule, got=f"shape {tuple(x.shape)}", way_out=way_out)

    def _is_shared(self, x: Tensor) -> bool:
        """Return whether x is a packed stream that is the same for all trials: [1, N, ...]."""
        return self.keys.lengths is not None and x.shape[0] == 1 and self.n_trials > 1

    @property
    def _drops(self) -> bool:
        return self.dropout > 0 and self.keys.training


def shared_part(x: Tensor, n_trials: int, keys: MaskKeys) -> Tensor:
    """Return x[:1] where x is one packed stream seen K times over, without a step between trials; else x."""
    is_one = keys.lengths is not None and n_trials > 1 and x.ndim > 2 and x.shape[0] == n_trials and x.stride(0) == 0
    return x[:1] if is_one else x


class AdaptedEmbedding(AdaptedLayer):
    """A frozen Embedding plus what the method adds for each trial; there is no dropout on ids."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embedding with the adapters' added, for ids [K * b, T]."""
        if self.keys.rows is not None:
            return self.layer(ids) + self.keys.rows.each(self.delta, ids)
        self._check_rows(ids)
        h = self.layer(ids)
        if self._is_shared(ids):
            return h + self.delta(ids[0])
        return h + self.delta(ids.reshape(self.n_trials, -1)).view_as(h)

    def delta(self, x_KxNxI: Tensor) -> Tensor:
        """Return the adapters' part for each trial and id, [K, N, O]."""
        return scaled_as(self.layer, super().delta(x_KxNxI))


def scaled_as(table: nn.Module, delta: Tensor) -> Tensor:
    """Return an embedding's delta times what the table multiplies its rows by (Gemma), as PEFT does: a merge has it."""
    scale = getattr(table, "embed_scale", None)
    return delta if scale is None else delta * (scale.to(delta.dtype) if isinstance(scale, Tensor) else scale)


def add(h_SxNxO: Tensor, delta_KxNxO: Tensor) -> Tensor:
    """Return the sum of a product, which may be overwritten since no gradient is made of it, and another stream."""
    if h_SxNxO.shape[0] < delta_KxNxO.shape[0] or h_SxNxO.dtype != delta_KxNxO.dtype:
        return h_SxNxO + delta_KxNxO
    return h_SxNxO.add_(delta_KxNxO)


def converted(constants: Mapping[str, Any], like: Tensor, known: dict[int, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return a layer's constants in the parameters' precision and place; the frozen layer stays as it is."""
    found: dict[str, Any] = {}
    for name, value in constants.items():
        if isinstance(value, Mapping):
            found[name] = converted(value, like, known)
        elif isinstance(value, Tensor):
            dtype = like.dtype if value.is_floating_point() else value.dtype
            found[name] = known.setdefault(id(value), (value, value.to(like.device, dtype)))[1]
        else:
            found[name] = value
    return found
