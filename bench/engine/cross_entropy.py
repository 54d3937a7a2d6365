"""Cross-entropy at the targets of a language model, a part of them at a time: no more logits exist at once than fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.engine.chunking import LOGITS_AT_ONCE

AT_ONCE = LOGITS_AT_ONCE
Head = Callable[[Tensor, slice], Tensor]  # hidden states [K, m, d] of a part of the targets -> logits [K, m, V]


def target_losses(head: Head, hidden_KxMxD: Tensor, wanted_M: Tensor, *, trains_head: bool) -> Tensor:
    """Return -log softmax(head(hidden))[wanted] in nats: [K, M], in at least float32.

    Where nothing in the head is trained, the gradient of the hidden states is made with the loss, while the logits
    exist: the head's product is not computed again. A trained head is: each part is a checkpoint.
    """
    if not torch.is_grad_enabled() or not (hidden_KxMxD.requires_grad or trains_head):
        parts = _parts(head, hidden_KxMxD)
        return torch.cat([_log_p(head(_cut(hidden_KxMxD, p), p), wanted_M[p])[1] for p in parts], dim=1).neg_()
    if trains_head:
        return torch.cat([_again(head, hidden_KxMxD, wanted_M, part) for part in _parts(head, hidden_KxMxD)], dim=1)
    losses: Tensor = _FrozenHead.apply(hidden_KxMxD, wanted_M, head)
    return losses


def _cut(hidden_KxMxD: Tensor, part: slice) -> Tensor:
    """Return a part of the targets without gaps: else torch multiplies trial by trial, and reads the head K times."""
    return hidden_KxMxD[:, part].contiguous()


def _parts(head: Head, hidden_KxMxD: Tensor) -> Iterator[slice]:
    """Yield the parts of the targets; how wide the logits are is seen at the first target."""
    n_trials, n_targets, _ = hidden_KxMxD.shape
    with torch.no_grad():
        n_ids = head(_cut(hidden_KxMxD, slice(0, 1)), slice(0, 1)).shape[-1]
    size = max(1, AT_ONCE // (n_trials * n_ids * max(4, hidden_KxMxD.element_size())))
    n_parts = -(-n_targets // size)
    size = -(-n_targets // max(1, n_parts))
    yield from (slice(start, min(start + size, n_targets)) for start in range(0, n_targets, max(1, size)))


def _again(head: Head, hidden_KxMxD: Tensor, wanted_M: Tensor, part: slice) -> Tensor:
    def losses(hidden: Tensor) -> Tensor:
        logits = head(hidden, part)
        logits = logits.float() if logits.element_size() < 4 else logits
        wanted = wanted_M[part].expand(len(logits), -1)[..., None]
        return -logits.log_softmax(dim=-1).gather(-1, wanted)[..., 0]

    found: Tensor = checkpoint(losses, _cut(hidden_KxMxD, part), use_reentrant=False)
    return found


def _log_p(logits_KxmxV: Tensor, wanted_m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of all ids, [K, m, V], and of those wanted, [K, m]."""
    logits = logits_KxmxV.float() if logits_KxmxV.element_size() < 4 else logits_KxmxV
    log_p = logits.log_softmax(dim=-1)
    return log_p, log_p.gather(-1, wanted_m.expand(len(log_p), -1)[..., None])[..., 0]


class _FrozenHead(torch.autograd.Function):
    """Losses, and what each one's gradient by its own hidden state is: no other hidden state has a part in it."""

    @staticmethod
    def forward(ctx: Any, hidden_KxMxD: Tensor, wanted_M: Tensor, head: Head) -> Tensor:
        losses: list[Tensor] = []
        grads: list[Tensor] = []
        for part in _parts(head, hidden_KxMxD):
            hidden = _cut(hidden_KxMxD, part).detach().requires_grad_()
            with torch.enable_grad():
                logits = head(hidden, part)
            log_p, chosen = _log_p(logits.detach(), wanted_M[part])
            losses.append(-chosen)
            slope = log_p.exp_()
            wanted = wanted_M[part].expand(len(slope), -1)[..., None]
            slope.scatter_add_(-1, wanted, slope.new_full((), -1.0).expand(wanted.shape))
            grads += torch.autograd.grad(logits, hidden, slope.to(logits.dtype))
            del logits, log_p, slope  # before the next part's are made
        ctx.save_for_backward(torch.cat(grads, dim=1))
        return torch.cat(losses, dim=1)

    @staticmethod
    def backward(ctx: Any, grad_KxM: Tensor) -> tuple[Tensor, None, None]:
        (slope_KxMxD,) = ctx.saved_tensors
        return slope_KxMxD * grad_KxM[..., None].to(slope_KxMxD.dtype), None, None
