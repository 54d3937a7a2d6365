"""mlp: the two-layer network of the tasks toy and toy-mean; its frozen weights are drawn from each trial's seed."""

from __future__ import annotations

from bench.models._base import Model

MODEL_TYPE = "toy"
N_INPUTS, WIDTH = 5, 100  # d and n

MODEL = Model(name="mlp", config={"model_type": MODEL_TYPE, "n_inputs": N_INPUTS, "width": WIDTH})
