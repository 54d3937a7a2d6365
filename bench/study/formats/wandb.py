"""W&B's sweep.yaml: `parameters` with value, values or min and max, `method`, `run_cap`, `early_terminate`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bench.core import keys
from bench.core.errors import BadInput
from bench.study.formats._base import NAMES, Draft, number

N_TRIALS = 30  # where run_cap does not say; W&B goes on for ever
_OTHER_NAMES = {"lr": "eta_A", "lora_r": "rank", "r": "rank", "alpha": "lora_alpha", "dropout": "lora_dropout"}
_READ = ("method", "run_cap", "parameters", "early_terminate")


def read(raw: Mapping[str, Any], where: str) -> Draft:
    """Return the study that a sweep of W&B gives.

    Raises:
        BadInput: for a file without parameters.
    """
    given = raw.get("parameters")
    if not isinstance(given, dict) or not given:
        raise BadInput(where, "must have parameters, as a sweep of W&B", way_out="give a sweep's own file")
    draft = Draft()
    for name in (name for name in raw if name not in _READ):
        draft.note(name, "belongs to W&B's runs")
    searched = raw.get("method") != "grid"
    for name, one in _flat(given, ""):
        _take(draft, name, one, searched=searched)
    if "lr_ratio" in draft.grid or "eta_B" in draft.grid:
        draft.method = "lora+"
    if searched:
        _search(draft, raw)
    elif "early_terminate" in raw:
        draft.note("early_terminate", "a grid trains every trial to its end; see sampler halving")
    return draft


def _search(draft: Draft, raw: Mapping[str, Any]) -> None:
    draft.top |= {"sampler": "tpe", "widen": False}  # W&B stays within the bounds and the cap that are given
    draft.take("run_cap", [raw.get("run_cap", N_TRIALS)], key="n_trials")
    if "n_trials" not in draft.top:
        draft.top["n_trials"] = N_TRIALS
    if raw.get("method") != "bayes":
        draft.note("method", f"{raw.get('method')!r} is searched by Optuna's TPE")
    stops = raw.get("early_terminate")
    if isinstance(stops, dict) and stops.get("type") == "hyperband":
        draft.top["pruner"] = "hyperband"
        draft.note("early_terminate", "Optuna's Hyperband with its own settings")
    elif stops is not None:
        draft.note("early_terminate", "there is no such pruner here")


def _flat(parameters: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, one in parameters.items():
        if isinstance(one, dict) and isinstance(one.get("parameters"), dict):
            yield from _flat(one["parameters"], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", one


def _take(draft: Draft, name: str, one: Any, *, searched: bool) -> None:
    last = name.rpartition(".")[2].replace("-", "_")
    key = _OTHER_NAMES.get(last, NAMES.get(last))
    if not isinstance(one, dict):
        draft.note(name, "must have value, values, or min and max")
    elif "value" in one:
        draft.take(name, [one["value"]], key=key)
    elif isinstance(one.get("values"), list) and one["values"]:
        draft.take(name, one["values"], key=key)
    else:
        _range(draft, name, key, one, searched=searched)


def _range(draft: Draft, name: str, key: str | None, one: Mapping[str, Any], *, searched: bool) -> None:
    """Take a range as its two ends: a search goes from the smallest value of an axis to its largest."""
    kind = str(one.get("distribution", "uniform"))
    ends = [number(one.get("min")), number(one.get("max"))]
    if key is None:
        draft.take(name, ends)
    elif not all(isinstance(end, int | float) for end in ends):
        draft.note(name, f"distribution {kind} has no ends here: give values")
    elif not searched or key not in keys.GRID or keys.GRID[key].axis is None:
        draft.note(name, "a range of it is not searched here: give values")
    else:
        log = "log" in kind
        if log and not kind.endswith("_values"):  # W&B's log_uniform gives exponents of e
            ends = [float(f"{math.exp(end):.6g}") for end in ends]
        if log != keys.GRID[key].log or kind.startswith("q_"):
            scale = "log" if keys.GRID[key].log else "linear"
            draft.note(name, f"distribution {kind} is searched between its ends on a {scale} scale")
        draft.take(name, ends, key=key)
