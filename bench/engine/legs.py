"""Legs: a pack trains to a rung and pauses, and those of its trials that go on do so in other packs.

A trial that went through several packs ends as in one: its batches, masks and schedule follow from the step alone.
"""

from __future__ import annotations

import json

from bench.core.record import Outcome, Status
from bench.core.spec import Pack
from bench.engine import state
from bench.engine.loop import Loop


def take_up(loop: Loop, pack: Pack, shelf: state.Shelf | None) -> None:
    """Put the kept states of the pack's trials into its loop."""
    kept = [None if shelf is None else shelf.find(trial, pack.start) for trial in pack.trials]
    there = [one for one in kept if one is not None]
    if len(there) < pack.size:
        raise RuntimeError(f"{pack.size - len(there)} of {pack.size} states at step {pack.start} are gone; run again")
    shapes = loop.bank.params.shapes
    loop.load_state_dict(state.joined(there, loop.state_dict(), shapes))


def pause(loop: Loop, pack: Pack, shelf: state.Shelf | None, metric: str, started_at: str) -> list[Outcome]:
    """Keep the states of trials that are alive; return what is known of all."""
    if shelf is None:
        raise ValueError("a pack that pauses must have a place for its states")
    loss_K = loop.recent_loss()
    states = state.taken_apart(loop.state_dict(), loop.bank.params.shapes)
    outcomes = []
    for k, (trial, one) in enumerate(zip(pack.trials, states, strict=True)):
        diverged = int(loop.state.diverged_step_K[k]) or None
        if diverged is None:
            shelf.put(trial, one)
        seconds = one.numbers["before_K"][0]
        outcomes.append(
            Outcome(
                status=Status.PAUSED if diverged is None else Status.DIVERGED,
                reason=None if diverged is None else not_finite(diverged),
                metric_name=metric,
                train_loss=float(loss_K[k]) if diverged is None else None,
                steps_done=loop.state.steps_done if diverged is None else diverged - 1,
                diverged_step=diverged,
                n_trainable=loop.bank.n_trainable(trial),
                n_total=loop.bank.n_total(trial),
                head_new=json.dumps(loop.bank.new_names[k]),
                curve=tuple(loop.state.curves[k]),
                timing_mode="pack_share",
                engine_path=loop.engine_path,
                started_at=started_at,
                setup_seconds=seconds.get("setup"),
                compile_seconds=seconds.get("compile"),
                train_seconds=seconds.get("train"),
                eval_seconds=seconds.get("eval"),
                **loop.bank.method.derived(trial, loop.bank.shapes),  # type: ignore[arg-type]
            )
        )
    return outcomes


def not_finite(step: int) -> str:
    return f"loss or gradient not finite at step {step}"
