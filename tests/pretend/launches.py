"""A Triton that compiles and runs nothing: its kernels tell whoever listens which tensors they were launched on.

`install` puts it in Triton's place, before the modules that define kernels are imported. So a step whose tensors have
shapes and no data (count.py) goes through the kernels' own host code: what it allocates, saves and launches is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import Tensor

Listener = Callable[[str, Sequence[Tensor]], None]  # a kernel's name, the tensors among its arguments


class Kernel:
    """A function that would be compiled; `kernel[grid](...)` launches it."""

    listener: Listener | None = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """Return what tells the listener of a launch."""
        assert all(n > 0 for n in grid), f"{self.name} is launched on {grid}"
        return self._launch

    def _launch(self, *args: Any, **settings: Any) -> None:
        assert Kernel.listener is not None, "nobody listens"
        Kernel.listener(self.name, [arg for arg in args if isinstance(arg, Tensor)])


class _Language(ModuleType):
    """triton.language: what is asked of it where kernels are defined, not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda value=None: value


def _jit(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
    return Kernel if function is None else Kernel(function)


def install(listener: Listener) -> None:
    """Put this Triton in the place of any other, and have its kernels tell this listener."""
    triton, language = ModuleType("triton"), _Language("triton.language")
    triton.__spec__ = ModuleSpec("triton", None)  # asked for where it is looked whether Triton is installed
    triton.jit, triton.language = _jit, language  # type: ignore[attr-defined]
    triton.cdiv = lambda n, each: -(-n // each)  # type: ignore[attr-defined]
    triton.next_power_of_2 = lambda n: 1 << (n - 1).bit_length()  # type: ignore[attr-defined]
    sys.modules |= {"triton": triton, "triton.language": language}
    Kernel.listener = listener
