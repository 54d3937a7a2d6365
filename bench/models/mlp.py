"""mlp: the two-layer network of the tasks toy and toy-mean; its frozen weights are drawn from each trial's seed."""

from __future__ import annotations

from bench.data import toy
from bench.models._base import Model

MODEL = Model(name="mlp", config=toy.CONFIG)
