"""What every study file resolves to, as one digest for each profile, kept in study_digests.json.

An edit of a base file must not change another study unseen. Where a change is meant, write the file anew with
`python -m tests.support.study_digests` and look at its diff: it names the studies that have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench import study
from bench.core.rules import PROFILES
from bench.core.spec import Study, TrainBudget

KEPT = Path(__file__).with_name("study_digests.json")
CHOSEN = ("profile", "device", "budget")  # how a study was loaded; and the budget, whose fields come singly
DIGITS = 12


def current(known: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Return the digests of all studies; `known` are the fields that count also where they are at their default.

    A field that is new since then counts where a study sets it, so that adding one changes no digest.
    """
    return {
        name: {profile: digest(study.load(name, profile=profile), known) for profile in PROFILES}
        for name in study.names()
    }


def digest(loaded: Study, known: Mapping[str, Sequence[str]]) -> str:
    """Return the first digits of sha256 over a study's name, figure, grids, seeds, budget and all its other fields."""
    said = {"study": _values(loaded, known["study"]), "budget": _values(loaded.budget, known["budget"])}
    said["study"]["grids"] = [(grid.method, grid.axes) for grid in loaded.grids]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _values(one: Study | TrainBudget, known: Sequence[str]) -> dict[str, Any]:
    values = {f.name: getattr(one, f.name) for f in fields(one) if f.compare and f.name not in CHOSEN}
    at_default = {f.name for f in fields(one) if f.default == getattr(one, f.name)}
    return {name: value for name, value in values.items() if name in known or name not in at_default}


def main() -> None:
    """Write the digests of the studies as they are now."""
    known = json.loads(KEPT.read_text(encoding="utf-8"))["fields"]
    KEPT.write_text(json.dumps({"fields": known, "digests": current(known)}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
