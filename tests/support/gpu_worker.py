"""What the tests on a GPU run in their own process and in others: a tiny encoder, and an executor of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.core.clock import Clock
from bench.core.record import Outcome
from bench.core.spec import Pack
from bench.data.splits import EncodedData
from bench.engine import hardware
from bench.engine.memory import meter_of
from bench.engine.run import EngineOptions, run_pack
from bench.executors.local import LocalExecutor
from bench.models import LoadedModel
from tests.support.engine_helpers import random_data, tiny_model
from tests.support.sweep_helpers import PROVENANCE


def loaded() -> LoadedModel:
    """Return the encoder in float32, with dropout."""
    return tiny_model(dtype=torch.float32, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)


def ran(pack: Pack, data: EncodedData, model: LoadedModel, device: torch.device, **options: Any) -> list[Outcome]:
    """Return the outcomes of a pack on the device, batches in two chunks."""
    chosen = EngineOptions(device=device, n_chunks=2, **options)
    clock = Clock(synchronize=hardware.waiting_for(device))
    return run_pack(pack, data, model, chosen, clock=clock, meter=meter_of(device))


def tiny_executor(device: torch.device, log_dir: Path) -> LocalExecutor[Any]:
    """Return an executor of the encoder on random data."""
    return LocalExecutor(
        load=lambda _: (random_data(), loaded()), train=lambda pack, x: ran(pack, x[0], x[1], device),
        provenance=PROVENANCE, metric_name="accuracy", log_dir=log_dir,
    )  # fmt: skip
