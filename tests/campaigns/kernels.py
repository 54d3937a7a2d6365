"""Kernels beside torch's operations on a GPU, at the shapes of RoBERTa-base: milliseconds of a call.

`python -m tests.campaigns.kernels [--trials 64] [--rounds 5] [--dtype bf16]`. Medians of interleaved rounds.
A call of masks draws those of 12 layers at once; one of attention or of norm is a layer's, forward and backward. With
`--step` whole training steps of LoRA follow, by more and more kernels, with the peak of memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from bench.data.splits import Encoded
from bench.engine import kernel_probe, kernels
from bench.engine.batching import Batches, Chunk
from bench.engine.dropout import attention_mask_by, keyed_mask, keyed_masks, threshold_and_scale, token_key
from bench.engine.heads import Layout
from bench.engine.normed_sum import normed_sum
from bench.engine.products import products_attention
from bench.engine.spans import Drop, Spans, blocks_of

HEADS, WIDTH, LAYERS, P = 12, 64, 12, 0.1
LENGTHS = {  # of two chunks of 32 texts of SST-2, tokens with their special ones
    "short": (4, 5, 5, 6, 6, 7, 7, 7, 8, 8, 9, 9, 9, 10, 10, 11, 11, 12, 12, 13, 14),
    "long": (15, 16, 18, 19, 21, 23, 25, 27, 29, 32, 38),
}
Call = Callable[[], object]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def chunk_of(lengths: tuple[int, ...], device: torch.device) -> Chunk:
    """Return a chunk of texts of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = len(lengths)
    split = Encoded(
        ids=np.ones(offsets[-1], dtype=np.int32), type_ids=None, offsets=offsets, labels=np.zeros(n, dtype=np.int64),
        index=np.arange(n),
    )  # fmt: skip
    return Batches(split, device=device).chunk(np.arange(n))


def masks(chunk: Chunk, dtype: torch.dtype) -> Call:
    """Return what draws a chunk's masks of one kind."""
    key_N = token_key(chunk.example_b[chunk.row_N], chunk.position_N)
    salts = [1000 + 77 * layer for layer in range(LAYERS)]
    return lambda: keyed_masks(salts, P, key_N, HEADS * WIDTH, dtype)


def attention(chunk: Chunk, n_trials: int, dtype: torch.dtype, *, by_kernel: bool) -> Call:
    """Return what attends forward and backward, from the stream to the stream; the plain way's masks are drawn, too."""
    from bench.engine.kernels.attention import span_attention

    device = chunk.ids_N.device
    key_N = token_key(chunk.example_b[chunk.row_N], chunk.position_N)
    q, k, v = (
        torch.randn(n_trials, chunk.n_tokens, HEADS * WIDTH, device=device).to(dtype).requires_grad_() for _ in range(3)
    )
    grad = torch.ones_like(q)
    threshold, scale = threshold_and_scale(P)
    spans = Spans(
        key_N=key_N, first_b=chunk.first_b, n_examples=chunk.n_examples, n_tokens=chunk.n_tokens,
        blocks=blocks_of(chunk.lengths),
    )  # fmt: skip
    drop = Drop(salt=torch.full((1,), 7, device=device), threshold=threshold, scale=scale)
    layout = Layout(chunk, key_N, HEADS)  # made once for all layers

    def fused() -> None:
        torch.autograd.grad(span_attention(q, k, v, spans, drop, HEADS), (q, k, v), grad)

    def plain() -> None:
        heads = [layout.heads(t).flatten(0, 1) for t in (q, k, v)]
        kept = attention_mask_by(7, P, layout.query_key, n_heads=HEADS, n_keys=chunk.longest, dtype=dtype)
        mixed = products_attention(heads[0], heads[1], heads[2], layout.start(dtype), kept)
        out = layout.stream(mixed.unflatten(0, (n_trials, chunk.n_examples)))
        torch.autograd.grad(out, (q, k, v), grad)

    return fused if by_kernel else plain


def norm(chunk: Chunk, n_trials: int, dtype: torch.dtype, *, by_kernel: bool) -> Call:
    """Return what adds, drops and normalises forward and backward; the mask is there."""
    device = chunk.ids_N.device
    key_N = token_key(chunk.example_b[chunk.row_N], chunk.position_N)
    x, out = (
        torch.randn(n_trials, chunk.n_tokens, HEADS * WIDTH, device=device).to(dtype).requires_grad_() for _ in range(2)
    )
    own = torch.nn.LayerNorm(HEADS * WIDTH, device=device, dtype=dtype).requires_grad_(False)
    mask, grad = keyed_mask(7, P, key_N, HEADS * WIDTH, dtype), torch.ones_like(x)

    def fused() -> None:
        torch.autograd.grad(normed_sum(own, x, out, mask), (x, out), grad)

    def plain() -> None:
        torch.autograd.grad(own(torch.addcmul(x, out, mask)), (x, out), grad)

    return fused if by_kernel else plain


def steps(n_trials: int, rounds: int) -> None:
    """Print how long a training step takes by more and more kernels, and the most memory that was in use."""
    from tests.pretend.count import Case, _built, _usual

    loop = _built(Case(base="roberta-base", method="lora", n_trials=n_trials))
    places = _usual(loop)
    ways = [kernels.NAMES[:n] for n in range(len(kernels.NAMES) + 1)]
    times: dict[tuple[str, ...], list[float]] = {names: [] for names in ways}
    peaks = dict.fromkeys(ways, 0)
    for turn in range(rounds + 1):
        for names in ways:
            with kernels.use(*names):
                torch.cuda.reset_peak_memory_stats()
                each = milliseconds(lambda: loop.step(places), 3)
            times[names] += [each] if turn else []
            peaks[names] = torch.cuda.max_memory_allocated()
    print(f"a step of {n_trials} trials, {int(loop.split.lengths[places].sum())} tokens, {loop.n_chunks} chunks")
    for names in ways:
        name = " + ".join(names) or "torch"
        print(f"{name:32}{median(times[names]):10.2f} ms{peaks[names] / 1e9:8.2f} GB")


def milliseconds(call: Call, repeats: int) -> float:
    """Return the time of a call on the device, of `repeats` in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--step", action="store_true")
    given = parser.parse_args()
    device, dtype = torch.device("cuda", torch.cuda.current_device()), DTYPES[given.dtype]
    print(torch.cuda.get_device_name(device), "torch", torch.__version__, "K =", given.trials, given.dtype)
    print("why not used:", kernel_probe.problems(device))
    print(f"{'':24}{'torch ms':>10}{'kernel ms':>11}{'ratio':>8}")
    for name, lengths in LENGTHS.items():
        chunk = chunk_of(lengths, device)
        for what, plain, fused in (
            ("masks", masks(chunk, dtype), masks(chunk, dtype)),
            ("attention", *(attention(chunk, given.trials, dtype, by_kernel=one) for one in (False, True))),
            ("norm", *(norm(chunk, given.trials, dtype, by_kernel=one) for one in (False, True))),
        ):
            times: dict[str, list[float]] = {"torch": [], "kernel": []}
            for turn in range(given.rounds + 1):  # the first warms up
                for way, call, names in (("torch", plain, ()), ("kernel", fused, kernels.NAMES)):
                    with kernels.use(*names):
                        each = milliseconds(call, 10)
                    times[way] += [each] if turn else []
            a, b = median(times["torch"]), median(times["kernel"])
            print(f"{what + ', ' + name:24}{a:10.3f}{b:11.3f}{b / a:8.2f}")
    if given.step:
        steps(given.trials, given.rounds)


if __name__ == "__main__":
    main()
