"""A claim as a file in studies/claims/ states it: what is said, by whom, what would confirm it and what refute it.

All of it is decided before the rows are looked at: quantity, regions, rows.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core import registry, rules
from bench.core.errors import BadInput, one_of
from bench.study.files import STUDIES_DIR

CLAIMS_DIR = STUDIES_DIR / "claims"
_REGION = re.compile(r"\s*(?:(>=|<=|>|<)\s*(\S+)|(\S+)\s*\.\.\s*(\S+))\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """An interval of values, its ends included or not: `>= 1`, `< 0.5`, `1 .. 2` (ends included)."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    outside: bool = False  # the region is what lies outside of these ends

    def holds(self, low: float, high: float) -> bool:
        """Return whether every value from `low` to `high` lies in the region."""
        if self.outside:
            return high < self.low or low > self.high
        above = low > self.low if self.open_low else low >= self.low
        below = high < self.high if self.open_high else high <= self.high
        return above and below

    def room(self, value: float) -> float:
        """Return how far a value lies inside the region; below 0 outside of it."""
        inside = min(value - self.low, self.high - value)
        return -inside if self.outside else inside

    @property
    def rest(self) -> Region:
        """Every value that is not in the region."""
        if math.isinf(self.high):
            return Region(high=self.low, open_high=not self.open_low)
        if math.isinf(self.low):
            return Region(low=self.high, open_low=not self.open_high)
        return Region(low=self.low, high=self.high, outside=True)

    def __str__(self) -> str:
        if self.outside:
            return f"less than {self.low:g} or more than {self.high:g}"
        if math.isinf(self.low):
            return f"{'<' if self.open_high else '<='} {self.high:g}"
        if math.isinf(self.high):
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One size at which a claim is checked: the rows and what is measured of them."""

    size: str  # in words
    rows: tuple[str, ...]  # studies; of each its own directory, else the file of results/reference
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the quantity reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What is claimed, and how it is decided.

    `confirmed` and `refuted` are regions of the quantity; the latter is all other values unless given.
    """

    name: str
    statement: str
    source: str
    made_at: str  # the size at which it was made, in words
    quantity: str  # a file in bench/claims/quantities/
    confirmed: Region
    refuted: Region
    checks: tuple[Check, ...]
    paper_study: str | None = None  # at the size of the source, for whoever has the device
    note: str = ""

    @property
    def document(self) -> str:
        """Who says it: the source without the place in it."""
        return self.source.partition("), ")[0] + ")" * ("), " in self.source)

    @property
    def place(self) -> str:
        """Where in the document, empty where the source does not say."""
        return self.source.partition("), ")[2]


def names() -> tuple[str, ...]:
    """Return the names of all claims, sorted."""
    return tuple(sorted(path.stem for path in CLAIMS_DIR.glob("*.toml")))


def load(name: str, directory: Path = CLAIMS_DIR) -> Claim:
    """Return the claim in `<directory>/<name>.toml`.

    Raises:
        BadInput: for a file that is missing or no TOML, a key that is unknown or missing, and regions that overlap.
    """
    path = directory / f"{name}.toml"
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            str(path), "must be a claim's TOML file", got=error, way_out=f"known: {one_of(names())}"
        ) from None
    texts = {key: _text(raw, key, path) for key in ("statement", "source", "made_at", "quantity")}
    known = registry.names_in("claims/quantities")
    rules.choice(*known)(texts["quantity"], f"{path} quantity")
    confirmed = _region(_text(raw, "confirmed", path), f"{path} confirmed")
    refuted = _region(_text(raw, "refuted", path), f"{path} refuted") if "refuted" in raw else confirmed.rest
    _check_apart(confirmed, refuted, path)
    unknown = raw.keys() - {*texts, "confirmed", "refuted", "check", "paper_study", "note"}
    if unknown:
        raise BadInput(str(path), "must hold known keys only", got=one_of(unknown), way_out="remove it")
    given = raw.get("check", [])
    checks = tuple(_check(one, path) for one in given) if isinstance(given, list) else ()
    if not checks:
        raise BadInput(str(path), "must have a [[check]]", way_out="add one with size and rows")
    return Claim(
        name=name,
        statement=texts["statement"],
        source=texts["source"],
        made_at=texts["made_at"],
        quantity=texts["quantity"],
        confirmed=confirmed,
        refuted=refuted,
        checks=checks,
        paper_study=raw.get("paper_study"),
        note=raw.get("note", ""),
    )


def _text(raw: Mapping[str, Any], key: str, path: Path) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{path} {key}", "must be a text", got=repr(value), way_out="write it")
    return value


def _check(raw: Mapping[str, Any], path: Path) -> Check:
    rows = rules.listed(raw.get("rows", []), f"{path} [[check]].rows") if raw.get("rows") else ()
    settings = {key: value for key, value in raw.items() if key not in ("size", "rows")}
    return Check(size=_text(raw, "size", path), rows=tuple(rows), settings=settings)


def _region(text: str, where: str) -> Region:
    found = _REGION.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        sign, value, low, high = found.groups()
        if sign is None:
            return Region(low=float(low), high=float(high))
        if sign.startswith(">"):
            return Region(low=float(value), open_low=sign == ">")
        return Region(high=float(value), open_high=sign == "<")
    except ValueError:
        raise BadInput(
            where, "must be a region", got=repr(text), way_out='write one, as in ">= 1" or "-1 .. 1"'
        ) from None


def _check_apart(first: Region, second: Region, path: Path) -> None:
    if second.outside:
        return
    low, high = max(first.low, second.low), min(first.high, second.high)
    if low < high or (low == high and first.holds(low, low) and second.holds(low, low)):
        raise BadInput(
            str(path), "confirmed and refuted must not overlap", got=f"{first}; {second}", way_out="mend one"
        )
