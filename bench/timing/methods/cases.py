"""Which methods are timed, and with which settings: what each one names in `timed`, at each rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import methods, study
from bench.core.spec import Trial
from bench.methods import LayerShape

RANKS = (8, 64)
RATE = 1e-6  # small enough that nothing diverges


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One method with its settings; `arm` is its name in a comparison (see bench/comparison/arms.py)."""

    arm: str
    trial: Trial

    @property
    def label(self) -> str:
        """Method, rank and dropout, in words."""
        rank = "" if self.trial.rank is None else f", rank {self.trial.rank}"
        dropout = f", dropout {self.trial.lora_dropout:g}" if self.trial.lora_dropout else ""
        return f"{methods.label(self.arm)}{rank}{dropout}"


def cases(
    ranks: Sequence[int], *, shared: Mapping[str, Any], default_targets: str | tuple[str, ...],
    target_modules: str | tuple[str, ...] | None = None, only: Collection[str] = (),
) -> tuple[Case, ...]:  # fmt: skip
    """Return every case that the methods name, or those of `only` beside LoRA: rank by rank, full fine-tuning last.

    `shared`: see `bench.study.make_trial`.
    """
    named = {*(only or methods.names()), methods.BASELINE}
    every = sorted(map(methods.get, named), key=lambda method: (method.place, method.name))
    found = []
    for rank in (*ranks, None):
        for method in (m for m in every if ("rank" in m.reads) == (rank is not None)):
            for settings in method.timed:
                cell = {"seed": 0, "eta_A": RATE, "rank": rank, "target_modules": target_modules, **settings}
                trial = study.make_trial(method.name, cell, shared=shared, default_targets=default_targets)
                found.append(Case(arm=methods.identity(trial).arm, trial=trial))
    return tuple(found)


def fitting(every: Sequence[Case], shapes: Sequence[LayerShape]) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Return the cases that the adapted layers allow, and for each other one a line that says why not."""
    kept, left_out = [], []
    for case in every:
        method = methods.get(case.trial.method)
        problems = [] if method.trains_base else [method.problem(case.trial, shape) for shape in shapes]
        problem = next((p for p in problems if p is not None), None)
        if problem is None:
            kept.append(case)
        else:
            left_out.append(f"{case.label}: {problem}")
    return tuple(kept), tuple(left_out)
