"""BERT and RoBERTa encoders as a token stream: no padding outside attention, shared work done once.

Exact, up to float order, with three savings over the model's own forward pass:
- everything before the first adapted module is the same for all K trials and computed once, without a trial axis;
- no gradient flows below the first adapted layer's adapters, since nothing there is trained;
- in the last layer only the first token's row is needed past the keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention
from transformers import PretrainedConfig

from bench.engine import waiting
from bench.engine.adapted import AdaptedEmbedding, AdaptedLayer, add
from bench.engine.bank import Bank
from bench.engine.batching import Chunk
from bench.engine.dropout import MaskKeys, attention_mask_of, threshold_and_scale, token_key
from bench.engine.heads import Layout
from bench.engine.normed_sum import is_by_kernel, normed_sum
from bench.engine.products import is_faster, products_attention
from bench.engine.spans import Drop, Spans, spans_of
from bench.engine.stacked import StackedEmbedding, StackedLayerNorm, StackedLinear

MODEL_TYPES = ("bert", "roberta", "xlm-roberta")
TOKENS, LENGTH = 8, 4  # see UnpaddedPath.shaped


class UnpaddedPath:
    """Forward pass over [S, N, d] streams, S = 1 while all trials agree and K from the first adapter on."""

    name = "unpadded"

    def __init__(self, bank: Bank) -> None:
        self.bank, self.keys = bank, bank.keys
        self.encoder = bank.model.base_model
        self.config = bank.model.config
        self.n_heads = int(self.config.num_attention_heads)
        # RoBERTa numbers positions from padding_idx + 1 (fairseq's convention), BERT from 0
        self.first_position = 0 if self.config.model_type == "bert" else int(self.config.pad_token_id) + 1
        self.few_shapes = waiting.may_ask(bank.device) and bank.is_half

    def logits(self, chunk: Chunk) -> Tensor:
        """Return the logits of every trial for the chunk's examples: [K, b, n_labels]."""
        with self.bank.precision():
            logits = self._logits(self.shaped(chunk))[:, : chunk.n_examples]
        return logits.to(self.bank.params.values.dtype)

    def losses(self, chunk: Chunk, at_M: Tensor, wanted_M: Tensor) -> Tensor:
        """Refuse: these encoders are no language models.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{self.config.model_type} continues no texts")

    def shaped(self, chunk: Chunk) -> Chunk:
        """Return what goes through the model for a chunk: itself or, in half precision on a CPU, filled up a little.

        There oneDNN compiles a kernel for each shape of a product, for milliseconds and megabytes, and every chunk is
        of another one; multiples of TOKENS tokens and of LENGTH positions come again (docs/log.md). A chunk of few
        tokens, in a pack of many trials, has few lengths anyway: nothing is added beyond a sixteenth of it.
        """
        if not self.few_shapes:
            return chunk
        tokens = min(TOKENS, 1 << max(0, (chunk.n_tokens // 16).bit_length() - 1))
        return chunk.rounded(tokens=tokens, length=LENGTH)

    def _logits(self, chunk: Chunk) -> Tensor:
        key_N = token_key(chunk.example_b[chunk.row_N], chunk.position_N)
        self.keys.start_chunk(key_N, key_N[chunk.first_b])
        x_SxNxD = self._embed(chunk)
        spans = spans_of(chunk, key_N, x_SxNxD.shape[-1] // self.n_heads, x_SxNxD.dtype)
        layout = Layout(chunk, key_N, self.n_heads) if spans is None else spans
        layers = self.encoder.encoder.layer
        for layer in layers[:-1]:
            x_SxNxD = self._layer(layer, x_SxNxD, layout, first_only=False)
        first_SxbxD = self._layer(layers[-1], x_SxNxD, layout, first_only=True)
        first_KxbxD = first_SxbxD.expand(self.bank.n_trials, -1, -1)
        return self._classify(first_KxbxD.flatten(0, 1)).unflatten(0, (self.bank.n_trials, chunk.n_examples))

    def _embed(self, chunk: Chunk) -> Tensor:
        parts = self.encoder.embeddings
        type_ids = torch.zeros_like(chunk.ids_N) if chunk.type_ids_N is None else chunk.type_ids_N
        x_SxNxD = (
            _look_up(parts.word_embeddings, chunk.ids_N)
            + _look_up(parts.token_type_embeddings, type_ids)
            + _look_up(parts.position_embeddings, chunk.position_N + self.first_position)
        )
        return self._drop(_norm(parts.LayerNorm, x_SxNxD), parts.dropout, self.keys.token_key)

    def _layer(self, layer: Any, x_SxNxD: Tensor, layout: Layout | Spans, *, first_only: bool) -> Tensor:
        """Return the layer's output, of all tokens or of each example's first: [S, N, d] or [S, b, d]."""
        attention, keys = layer.attention, self.keys.token_key
        if first_only:
            keys = self.keys.first_key
        mixed, x = self._attend(attention.self, x_SxNxD, layout, first_only=first_only)
        x = self._output(attention.output, mixed, x, keys)
        inner = layer.intermediate.intermediate_act_fn(_apply(layer.intermediate.dense, x, self.keys, keys))
        return self._output(layer.output, inner, x, keys)

    def _output(self, module: Any, inner: Tensor, x: Tensor, key: Tensor | None) -> Tensor:
        """Return norm(x + dropout(dense(inner))) of half a layer."""
        out, p = _apply(module.dense, inner, self.keys, key), float(module.dropout.p)
        mask = None
        if self.keys.training and p > 0 and key is not None:
            mask = self.keys.mask(module.dropout.path, p, key, out.shape[-1], out.dtype)
        if is_by_kernel(module.LayerNorm, out):
            return normed_sum(module.LayerNorm, x, out, mask)
        return _norm(module.LayerNorm, add(out, x) if mask is None else torch.addcmul(x, out, mask))

    def _attend(
        self, module: Any, x_SxNxD: Tensor, layout: Layout | Spans, *, first_only: bool
    ) -> tuple[Tensor, Tensor]:
        """Return attention's output and its input on the rows that go on: all, or each example's first."""
        rows, token_key = x_SxNxD, self.keys.token_key
        if first_only:
            rows = x_SxNxD[:, layout.first_b]
            q = _apply(module.query, rows, self.keys, self.keys.first_key)
            k, v = _apply_all((module.key, module.value), x_SxNxD, self.keys, token_key)
        else:
            q, k, v = _apply_all((module.query, module.key, module.value), x_SxNxD, self.keys, token_key)
        if isinstance(layout, Spans):
            from bench.engine.kernels.attention import span_attention

            return span_attention(q, k, v, layout, self._drop_of(module), self.n_heads), rows
        k, v = layout.heads(k), layout.heads(v)
        q = q.unflatten(-1, (self.n_heads, -1))[..., None, :] if first_only else layout.heads(q)  # [S, b, H, Q, d_head]
        n_streams = max(q.shape[0], k.shape[0], v.shape[0])
        q, k, v = (t.expand(n_streams, -1, -1, -1, -1).flatten(0, 1) for t in (q, k, v))
        mixed = self._mix(q, k, v, module, layout, layout.first_query_key if first_only else layout.query_key)
        mixed = mixed.unflatten(0, (n_streams, layout.n_examples))  # [S, b, H, Q, d_head]
        return (mixed.flatten(2) if first_only else layout.stream(mixed)), rows

    def _drop_of(self, module: Any) -> Drop:
        p = float(module.dropout.p) if self.keys.training else 0.0
        if p == 0:
            return Drop()
        threshold, scale = threshold_and_scale(p)
        salt = self.keys.salt_on(f"{module._keyed_path}.attention", self.bank.device)
        return Drop(salt=salt, threshold=threshold, scale=scale)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, module: Any, layout: Layout, query_key: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(d)) v over [S*b, H, ., d_head], with the keyed dropout of the weights."""
        p = float(module.dropout.p) if self.keys.training else 0.0
        if p == 0 and not is_faster(q, k):
            mask = layout.mask_bx1x1xT
            if mask is not None:
                mask = mask.repeat(q.shape[0] // layout.n_examples, 1, 1, 1)
            return scaled_dot_product_attention(q, k, v, attn_mask=mask)
        kept = None
        if p > 0:
            kept = attention_mask_of(
                self.keys, f"{module._keyed_path}.attention", p, query_key,
                n_heads=self.n_heads, n_keys=k.shape[2], dtype=q.dtype,
            )  # fmt: skip
        return products_attention(q, k, v, layout.start(q.dtype), kept)

    def _drop(self, x: Tensor, dropout: Any, key: Tensor | None) -> Tensor:
        return drop_stream(x, float(dropout.p), dropout.path, self.keys, key)

    def _classify(self, first_KbxD: Tensor) -> Tensor:
        """Return the logits that the model's own pooler and head make of the first tokens: [K*b, n_labels]."""
        model = self.bank.model
        if self.config.model_type == "bert":
            pooled = model.bert.pooler(first_KbxD[:, None])
            return model.classifier(model.dropout(pooled))
        return model.classifier(first_KbxD[:, None])


def drop_stream(x_SxNxD: Tensor, p: float, path: str, keys: MaskKeys, key_N: Tensor | None) -> Tensor:
    """Return x times the mask of its rows, the same for each trial."""
    if not keys.training or p == 0 or key_N is None:
        return x_SxNxD
    return x_SxNxD * keys.mask(path, p, key_N, x_SxNxD.shape[-1], x_SxNxD.dtype)


def _look_up(table: Any, ids_N: Tensor) -> Tensor:
    """Return embeddings as a stream: [1, N, d], or [K, N, d] where they are adapted."""
    if isinstance(table, StackedEmbedding):
        return table.look_up(ids_N)
    if not isinstance(table, AdaptedEmbedding):
        rows: Tensor = table(ids_N)
        return rows[None]
    return table.layer(ids_N)[None] + table.delta(ids_N)


def _apply(layer: Any, x_SxNxI: Tensor, keys: MaskKeys, key_N: Tensor | None) -> Tensor:
    """Return the layer's output; the base product is done once for a shared stream."""
    if isinstance(layer, StackedLinear):  # the layers below it may be frozen, and their stream shared
        return layer(x_SxNxI.expand(len(layer.weight_KxOxI), -1, -1))
    base = _base_of(layer)
    return _adapt(layer, linear(x_SxNxI, base.weight, base.bias), x_SxNxI, keys, key_N)


def _apply_all(layers: Sequence[Any], x_SxNxI: Tensor, keys: MaskKeys, key_N: Tensor | None) -> list[Tensor]:
    """Return the outputs of several layers of one input, whose gradient the frozen products add up as they go."""
    bases = [_base_of(layer) for layer in layers]
    if any(isinstance(base, StackedLinear) or base.weight.requires_grad for base in bases):
        return [_apply(layer, x_SxNxI, keys, key_N) for layer in layers]
    streams = _FrozenProducts.apply(x_SxNxI, *(t for base in bases for t in (base.weight, base.bias)))
    return [_adapt(layer, h, x_SxNxI, keys, key_N) for layer, h in zip(layers, streams, strict=True)]


def _base_of(layer: Any) -> Any:
    return layer.layer if isinstance(layer, AdaptedLayer) else layer


def _adapt(layer: Any, h: Tensor, x_SxNxI: Tensor, keys: MaskKeys, key_N: Tensor | None) -> Tensor:
    """Return the frozen product, which may be overwritten, with what the method adds to it."""
    if not isinstance(layer, AdaptedLayer):
        return h
    seen = drop_stream(x_SxNxI, layer.dropout, f"{layer.shape.path}.lora_dropout", keys, key_N)
    return layer.output(h, seen, seen is not x_SxNxI, overwrite=True)


class _FrozenProducts(torch.autograd.Function):
    """x W^T + b, [S, N, O], for several frozen (W, b). autograd would pass over x again to add up its gradients.

    The outputs are no views: what is added in place to a view passes over its gradient twice more in backward.
    """

    @staticmethod
    def forward(ctx: Any, x_SxNxI: Tensor, *weights_and_biases: Tensor) -> tuple[Tensor, ...]:
        ctx.weights, ctx.shape = weights_and_biases[::2], x_SxNxI.shape
        x_MxI = x_SxNxI.flatten(0, 1)
        products = []
        for weight_OxI, bias in zip(ctx.weights, weights_and_biases[1::2], strict=True):
            h_SxNxO = x_SxNxI.new_empty(*x_SxNxI.shape[:2], len(weight_OxI))
            _product_into(h_SxNxO.flatten(0, 1), x_MxI, weight_OxI, bias)
            products.append(h_SxNxO)
        return tuple(products)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first_MxO, *others = (grad.flatten(0, 1) for grad in grads)
        total_MxI = first_MxO @ ctx.weights[0]
        for grad_MxO, weight_OxI in zip(others, ctx.weights[1:], strict=True):
            total_MxI.addmm_(grad_MxO, weight_OxI)
        return total_MxI.view(ctx.shape), *[None] * (2 * len(grads))


def _product_into(h_MxO: Tensor, x_MxI: Tensor, weight_OxI: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        torch.mm(x_MxI, weight_OxI.T, out=h_MxO)
    else:
        torch.addmm(bias, x_MxI, weight_OxI.T, out=h_MxO)


def _norm(module: Any, x: Tensor) -> Tensor:
    if isinstance(module, StackedLayerNorm):
        return module(x)
    norm: Any = module.layer if isinstance(module, AdaptedLayer) else module
    h = layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return module.output(h, x) if isinstance(module, AdaptedLayer) else h


def problem(config: PretrainedConfig) -> str | None:
    """Return why a model of this config cannot take the unpadded path, or None."""
    if config.model_type not in MODEL_TYPES:
        return f"{config.model_type} is neither BERT nor RoBERTa"
    if getattr(config, "is_decoder", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "only encoders with absolute positions"
    return None
