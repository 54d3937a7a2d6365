"""The settings by where they are given, derived from what bench/core/spec.py declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.core.settings import Setting, of
from bench.core.spec import LR_RATIO, Study, TrainBudget, Trial

_OUTERMOST = ("rank", "mora_type", "mora_rounding")  # the axes of a grid that vary slowest; rates vary fastest


def _nested(setting: Setting) -> tuple[bool, bool]:
    return setting.axis == "rate", setting.key not in _OUTERMOST


TRIAL: Mapping[str, Setting] = {**of(Trial, "grid"), LR_RATIO.key: LR_RATIO}
TRAIN: Mapping[str, Setting] = of(TrainBudget, "train")
TOP: Mapping[str, Setting] = of(Study, "setting")
GRID: Mapping[str, Setting] = {s.key: s for s in sorted(TRIAL.values(), key=_nested) if s.check is not None}
RATES = tuple(key for key, setting in GRID.items() if setting.axis == "rate")
ADAPTER: Mapping[str, Setting] = {key: s for key, s in GRID.items() if s.in_adapter and key not in RATES}
DEFAULTS: Mapping[str, Any] = {key: s.usual for key, s in GRID.items() if key not in RATES}  # what a grid does not name
EVERY_METHOD = tuple(key for key, setting in GRID.items() if setting.every_method)
SWEPT: Mapping[str, Setting] = {key: replace(s, place="grid") for key, s in TRAIN.items() if s.swept}
AXES: Mapping[str, Setting] = {**SWEPT, **GRID}  # whatever a grid may name, outermost first
