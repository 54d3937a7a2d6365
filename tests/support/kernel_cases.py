"""Kernels beside torch's operations, for Triton's interpreter, a compiler without a device, and a GPU.

`TRITON_INTERPRET=1 python -m tests.support.kernel_cases interpret NAME` prints what differs on a CPU, and
`python -m tests.support.kernel_cases compile NAME` what the compiler makes for sm_80 and sm_90, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from bench.engine import kernel_probe

MASKS = {"out": "*bf16", "key": "*i64", "salts": "*i64", "n_rows": "i32", "n_features": "i32", "threshold": "i32",
         "scale": "fp32"}  # fmt: skip


def compiled(name: str) -> list[int]:
    """Return how many bytes of machine code each kernel of this name becomes, for sm_80 and sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sizes = []
    for fn, types, settings in _sources(name):
        options = {option: settings.pop(option) for option in ("num_warps", "num_stages") if option in settings}
        source = ASTSource(fn=fn, signature=types | dict.fromkeys(settings, "constexpr"), constexprs=settings)
        for arch in (80, 90):
            made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
            sizes.append(len(made.asm["cubin"]))
    return sizes


def _sources(name: str) -> list[tuple[Any, dict[str, str], dict[str, Any]]]:
    if name == "masks":
        from bench.engine.kernels import masks

        return [(masks.masks_kernel, MASKS, {"WORDS": masks.WORDS})]
    if name == "norm":
        from bench.engine.kernels import norm

        return [
            (kernel, _types(kernel, number), norm.settings(768) | {"DROPS": True} | (
                {} if kernel is norm.forward_kernel else {"TRAINED": number == "fp32"}))
            for kernel in (norm.forward_kernel, norm.backward_kernel)
            for number in ("bf16", "fp32")
        ]  # fmt: skip
    from bench.engine.kernels import attention

    return [
        (kernel, _types(kernel, number), attention.settings(64, block, first_only) | {
            "H": 12, "FIRST": first_only, "DROPS": True})
        for kernel in (attention.forward_kernel, attention.backward_kernel)
        for block, first_only, number in ((16, False, "bf16"), (32, True, "fp32"))
    ]  # fmt: skip


def _types(kernel: Any, number: str) -> dict[str, str]:
    """Return the types of a kernel's arguments where its streams are of type `number`."""
    fixed = {"key": "*i64", "first": "*i64", "salt": "*i64"}
    fixed |= dict.fromkeys(("kept_scale", "score_scale", "eps"), "fp32")
    fixed |= dict.fromkeys(("mean", "rstd", "part_w", "part_b"), "*fp32")
    streams = [
        "out",
        "q",
        "k",
        "v",
        "grad",
        "grad_q",
        "grad_k",
        "grad_v",
        "y",
        "total",
        "x",
        "mask",
        "weight",
        "bias",
        "grad_x",
        "grad_out",
    ]
    return {arg: fixed.get(arg, f"*{number}" if arg in streams else "i32") for arg in kernel.arg_names}


def interpreted(name: str) -> object:
    """Return what is wrong with a kernel on a CPU, by Triton's interpreter; None: nothing."""
    _mend_interpreter()
    cpu = torch.device("cpu")
    if name == "step":
        return step_gaps()
    if (problem := kernel_probe.CHECKS[name](cpu)) is not None or name != "attention":
        return problem
    from bench.engine.kernels import attention

    attention.PROGRAMS = 1  # a program takes all streams
    for lengths, width, p, dtype, first_only in MORE:
        gaps = kernel_probe.attention_gaps(cpu, lengths, width=width, p=p, dtype=dtype, first_only=first_only)
        if not max(gaps) <= kernel_probe.NEAR[dtype]:
            return [lengths, width, p, str(dtype), gaps]
    return None


MORE: tuple[tuple[tuple[int, ...], int, float, torch.dtype, bool], ...] = (
    ((17, 2), 32, 0.0, torch.float32, False),
    ((70,), 16, 0.5, torch.float32, False),
    ((7, 20), 128, 0.1, torch.float16, True),
)


def _mend_interpreter() -> None:
    """Have the interpreter multiply bfloat16 numbers: Triton 3.6's takes their bits for integers."""
    import triton.language as tl
    from triton.runtime import interpreter

    multiply = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (self.create_fp_ext(x, tl.float32) for x in (a, b))
        return multiply(self, a, b, *others)

    interpreter.InterpreterBuilder.create_dot = create_dot


def step_gaps(device: str = "cpu") -> list[float]:
    """Return how far logits outside training, loss and gradients of small packs by kernels are from torch's, relative.

    LoRA, also filled up as a chunk that is recorded, and full fine-tuning, whose norms are trained.
    """
    import numpy as np

    from bench.engine import kernels
    from bench.engine.batching import Batches
    from bench.engine.graphs import filled
    from tests.support.engine_helpers import random_data

    chunk = Batches(random_data().train, device=torch.device(device)).chunk(np.arange(3))
    gaps = []
    for method, shaped in (("lora", chunk), ("lora", filled(chunk)), ("full", chunk)):
        plain, found = _step(method, chunk, ()), _step(method, shaped, kernels.NAMES, n_examples=chunk.n_examples)
        gaps += [float((a - b).norm() / b.norm()) for a, b in zip(found, plain, strict=True)]
    return gaps


def _step(
    method: str, chunk: Any, names: tuple[str, ...], *, n_examples: int | None = None
) -> list[torch.Tensor]:  # fmt: skip
    """Return logits outside training, loss and gradients; of the first n_examples alone where they are given."""
    from bench import methods
    from bench.engine import kernels
    from bench.engine.bank import Bank
    from bench.engine.dropout import Together
    from bench.engine.run import choose_path
    from tests.support.engine_helpers import budget, tiny_model, trial

    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2}
    loaded = tiny_model(dtype=torch.float32, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, **sizes)
    own: dict[str, Any] = {"budget": budget(precision="fp32"), "method": method}
    if method == "full":
        own |= dict.fromkeys(("rank", "lora_alpha", "use_rslora", "lora_dropout", "init", "target_modules"))
    trials = [trial(**own, **({} if method == "full" else {"rank": r, "lora_dropout": 0.2})) for r in (2, 1)]
    bank = Bank(loaded, trials, methods.get(method), device=chunk.ids_N.device, dtype=torch.float32)
    bank.params.values.add_(torch.linspace(-0.1, 0.1, bank.params.values.numel(), device=chunk.ids_N.device))
    bank.keys.step, bank.keys.together = 3, Together()
    path = choose_path(bank, "unpadded")
    with kernels.use(*names):
        logits = path.logits(chunk).detach()[:, :n_examples]
        bank.keys.training = True
        for _ in range(2):  # the masks of the second are foreseen
            bank.params.zero_grad()
            loss = path.logits(chunk)[:, :n_examples].logsumexp(-1).sum()
            loss.backward()
    return [logits, loss.detach(), bank.params.grads.clone()]


def main(what: str, name: str) -> None:
    """Print the answer to one of the two questions."""
    print(json.dumps(compiled(name) if what == "compile" else interpreted(name)))


if __name__ == "__main__":
    main(*sys.argv[1:])
