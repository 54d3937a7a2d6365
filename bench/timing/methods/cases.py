"""Which methods are timed: LoRA with and without dropout, LoRA+, MoRA types 1 and 6 at each rank, full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import methods, study
from bench.core.spec import Trial
from bench.methods import LayerShape

RANKS = (8, 64)
DROPOUT = 0.1
RATE, LR_RATIO = 1e-6, 16.0  # small enough that nothing diverges; LoRA+ only has to be LoRA+
MORA_TYPES = (1, 6)


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
        return f"{methods.arm_label(self.arm)}{rank}{dropout}"


def cases(
    ranks: Sequence[int], *, shared: Mapping[str, Any], default_targets: str | tuple[str, ...],
    target_modules: str | tuple[str, ...] | None = None,
) -> tuple[Case, ...]:  # fmt: skip
    """Return every case: rank by rank, full fine-tuning last. `shared`: see `bench.study.make_trial`."""
    found = []
    for rank in ranks:
        settings: list[tuple[str, str, dict[str, Any]]] = [
            ("lora", "lora", {}),
            ("lora", "lora", {"lora_dropout": DROPOUT}),
            ("lora+", "lora+", {"lr_ratio": LR_RATIO}),
            *((f"mora type {t}", "mora", {"mora_type": t}) for t in MORA_TYPES),
        ]
        for arm, method, cell in settings:
            cell |= {"seed": 0, "eta_A": RATE, "rank": rank, "target_modules": target_modules}
            trial = study.make_trial(method, cell, shared=shared, default_targets=default_targets)
            found.append(Case(arm=arm, trial=trial))
    full = study.make_trial("full", {"seed": 0, "eta_A": RATE}, shared=shared, default_targets=default_targets)
    return (*found, Case(arm="full", trial=full))


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
