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

    return [
        len(triton.compile(ASTSource(fn=fn, signature=types | dict.fromkeys(constants, "constexpr"),
                                     constexprs=constants), target=GPUTarget("cuda", arch, 32)).asm["cubin"])
        for fn, types, constants in _sources(name)
        for arch in (80, 90)
    ]  # fmt: skip


def _sources(name: str) -> list[tuple[Any, dict[str, str], dict[str, Any]]]:
    from bench.engine.kernels import masks

    return {"masks": [(masks.masks_kernel, MASKS, {"WORDS": masks.WORDS})]}[name]


def main(what: str, name: str) -> None:
    """Print the answer to one of the two questions."""
    print(json.dumps(compiled(name) if what == "compile" else kernel_probe.CHECKS[name](torch.device("cpu"))))


if __name__ == "__main__":
    main(*sys.argv[1:])
