"""A pack of a tiny model, run whole."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from bench.core.clock import Clock
from bench.core.record import Outcome
from bench.core.spec import Pack, Trial
from bench.data.splits import Encoded, EncodedData
from bench.engine.run import EngineOptions, run_pack
from bench.models._base import LoadedModel
from tests.support.engine_helpers import random_data, tiny_model
from tests.support.oracle import CPU


def with_rule(split: Encoded) -> Encoded:
    """The same examples with a first token that gives the label away: 5 or 6."""
    ids = split.ids.copy()
    ids[split.offsets[:-1]] = 5 + split.labels
    return replace(split, ids=ids)


@cache
def data() -> EncodedData:
    drawn = random_data(n_train=120, n_eval=45)
    assert drawn.select is not None
    parts = {"train": with_rule(drawn.train), "eval": with_rule(drawn.eval), "select": with_rule(drawn.select)}
    return replace(drawn, **parts)


def go(
    trials: list[Trial], *, loaded: LoadedModel | None = None, clock: Clock | None = None, **options: Any
) -> list[Outcome]:
    content = options.pop("data", data())
    on_steps = options.pop("on_steps", lambda n: None)
    settings = EngineOptions(device=CPU, **options)
    pack = Pack(trials=tuple(trials))
    return run_pack(pack, content, loaded or tiny_model(), settings, clock=clock or Clock(), on_steps=on_steps)
