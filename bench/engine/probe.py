"""How long a training step of a pack takes: a few steps from its initial weights, of which nothing is kept."""

from __future__ import annotations

import numpy as np

from bench.core.clock import Clock
from bench.core.spec import Pack
from bench.data.splits import EncodedData
from bench.engine.loop import Loop
from bench.engine.run import EngineOptions, prepare
from bench.models._base import LoadedModel

TIMED_STEPS = 2  # after one that warms up
CANDIDATES = 50  # batches, of which the one with the most usual number of tokens is taken


def seconds_per_trial_step(
    pack: Pack, data: EncodedData, loaded: LoadedModel, options: EngineOptions, *, clock: Clock
) -> float:
    """Return the fastest of TIMED_STEPS steps on one batch, over the number of trials: in seconds.

    The batch follows from seed, data and batch size, so packs of every size are timed on the same one. The step that
    warms up records its chunks where a long pack would be recorded: only those are probed.

    Raises:
        BadInput: where a setting does not fit the model.
        torch.OutOfMemoryError, RuntimeError: where memory runs out.
    """
    budget = pack.trials[0].budget
    ready = prepare(pack, data, loaded, options)
    loop = Loop(
        ready.bank, ready.path, ready.train, budget, n_chunks=ready.n_chunks, clock=clock,
        evaluate=lambda: np.zeros(pack.size), objective=ready.objective, least_steps=0,
    )  # fmt: skip
    seed = pack.trials[0].seed
    batches = list(ready.train.order(seed=seed, batch_size=budget.batch_size, max_steps=CANDIDATES))
    tokens = np.array([ready.train.lengths[places].sum() for places in batches])
    usual = batches[int(np.argsort(tokens, kind="stable")[len(batches) // 2])]
    loop.step(usual)
    each = []
    for _ in range(TIMED_STEPS):
        before = clock.seconds("train") or 0.0
        with clock.phase("train"):
            loop.step(usual)
        each.append((clock.seconds("train") or 0.0) - before)
    return min(each) / pack.size
