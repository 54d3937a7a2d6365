"""Study files made of random keys and values."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from bench.core import keys

KEYS = [*keys.GRID, *keys.TRAIN, *keys.TOP, "epochs", "base", "drop"]


WORDS = [
    "rank",
    "eta_A",
    "zero_B",
    "demo",
    "sst2",
    "lora",
    "lora+",
    "all-linear",
    "grid.lora",
    "x",
    "grid",
    "tpe",
    "bf16",
    "",
    "../x",
    "\n",
]


SCALARS = st.one_of(
    st.integers(-2, 10), st.integers(), st.floats(), st.booleans(), st.sampled_from(WORDS), st.text(max_size=5)
)


VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.lists(st.lists(SCALARS, max_size=2), max_size=2))


TABLES = ["", "[train]", "[adapter]", '[grid."lora+"]', "[grid.lora]", "[grid.mora]", "[profile.quick]", "[x]"]


def toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


BASE = 'task = "demo"\n{top}\n[train]\nmax_steps = 5\n{train}\n[grid.lora]\neta_A = [1e-4]\n{lora}\n'
