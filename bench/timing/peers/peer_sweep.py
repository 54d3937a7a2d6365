"""Trainer + PEFT + Optuna over the cells of `sweeps.Cells`: the loop that a careful user writes, one trial at a time.

`python -m bench.timing.peers.peer_sweep <b0, b1 or b1g> '<Cells as JSON>' <scratch directory>`; prints a line of JSON:
{"trials": n, "best": accuracy}. Batches of training and evaluation are that contender's.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.timing.peers.sweeps import MODEL, TASK, Cells

N_ASKED = 4  # how many parts of the steps the pruner is asked after


def main(name: str, text: str, directory: str) -> None:
    """Run the sweep and print what came out."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings: dict[str, Any] = json.loads(text)
    settings |= {key: tuple(settings[key]) for key in ("eta_A", "lr_ratio")}
    cells = Cells(**settings)
    objective = _objective(name, cells, Path(directory))
    pruner = optuna.pruners.MedianPruner() if cells.early else optuna.pruners.NopPruner()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    for eta_A in cells.eta_A:
        for lr_ratio in cells.lr_ratio:
            study.enqueue_trial({"eta_A": eta_A, "lr_ratio": lr_ratio})
    study.optimize(objective, n_trials=cells.n_trials)
    print(json.dumps({"trials": len(study.trials), "best": study.best_value}))


def _objective(name: str, cells: Cells, directory: Path) -> Any:
    """Return the function that trains one Optuna trial; texts are tokenised and the model is loaded once, here."""
    import optuna
    import torch
    from peft.optimizers import create_loraplus_optimizer

    from bench import models, study, tasks
    from bench.core.spec import TrainBudget
    from bench.data import splits, text
    from bench.methods import BASELINE
    from bench.models import _targets as targets
    from bench.timing.peers import contenders
    from bench.timing.peers.contenders._peer import Collator, Peer, Rows, make_trainer, peft_model

    peer = contenders.get(name)
    assert isinstance(peer, Peer)
    task, located = tasks.get(TASK), models.locate(MODEL)
    data = tasks.load(task, None)
    assert isinstance(data, splits.TextData)
    encoded = text.encode(
        data, located, n_labels=task.n_labels, metric=task.metric, max_length=cells.max_length, n_select=0
    )
    base = models.load_model(located, task.n_labels).model
    budget = TrainBudget(max_steps=cells.steps, batch_size=cells.batch_size, eval_steps=cells.steps)
    shared = {"task": TASK, "model": MODEL, "data_hash": "", "model_hash": "", "budget": budget}
    cell = {"seed": 0, "eta_A": 1e-4, "rank": cells.rank}
    trial = study.make_trial(BASELINE, cell, shared=shared, default_targets=targets.default_targets(located.model_type))
    train, evaluation = Rows(encoded.train), Rows(encoded.eval)
    length = cells.max_length if peer.pads_to_fixed_length else None

    def objective(of: Any) -> float:
        eta_A, lr_ratio = of.suggest_float("eta_A", 1e-6, 1.0), of.suggest_float("lr_ratio", 1.0, 100.0)
        torch.manual_seed(0)
        model = peft_model(copy.deepcopy(base), replace(trial, eta_A=eta_A))
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=eta_A, loraplus_lr_ratio=lr_ratio)
        trainer = make_trainer(
            model, train, trial, directory=directory, device=torch.device(cells.device), precision="fp32",
            collator=Collator(int(model.config.pad_token_id or 0), length), strategy=peer.strategy, seed=0,
            eval_batch_size=peer.eval_batch_size or cells.batch_size, max_steps=cells.steps,
            optimizers=(optimizer, None),
        )  # fmt: skip
        asks = _asks_pruner(of, lambda: _accuracy(trainer, evaluation), max(1, cells.steps // N_ASKED))
        if cells.early:
            trainer.add_callback(asks)
        trainer.train()
        if asks.stopped:
            raise optuna.TrialPruned
        return _accuracy(trainer, evaluation)

    return objective


def _accuracy(trainer: Any, evaluation: Any) -> float:
    import numpy as np

    found = trainer.predict(evaluation)
    return float(np.mean(found.predictions.argmax(-1) == found.label_ids))


def _asks_pruner(of: Any, score: Callable[[], float], every: int) -> Any:
    """Return a callback that reports scores to Optuna every so many steps, but for the last, and stops as told."""
    from transformers import TrainerCallback

    class Asks(TrainerCallback):  # type: ignore[misc]
        """`stopped`: whether the pruner said so."""

        stopped = False

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step % every or state.global_step == state.max_steps:
                return
            of.report(score(), state.global_step)
            self.stopped = control.should_training_stop = of.should_prune()

    return Asks()


if __name__ == "__main__":
    main(*sys.argv[1:4])
