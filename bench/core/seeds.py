"""One derived seed for each purpose: sha256 of exactly the named components, so that nothing else can change it."""

from __future__ import annotations

import hashlib
import json


def derive(purpose: str, *components: str | int | float | tuple[int, ...]) -> int:
    """Return a 63-bit seed that depends on the purpose and the components and on nothing else.

    A seed of 0 is a value like any other. Data order leaves the method out, so that methods are paired within a seed.
    """
    text = json.dumps([purpose, *components], separators=(",", ":"), allow_nan=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
