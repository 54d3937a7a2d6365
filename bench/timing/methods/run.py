"""A run of `bench speed`: every case in every round, in an order drawn anew; rows out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from bench.core.spec import SERIES
from bench.timing.methods.cases import Case
from bench.timing.methods.turn import Bench, Turn, take_turn
from bench.timing.peers.interleave import interleaved


def measure(
    cases: Sequence[Case], bench: Bench, *, repeats: int, arm_of: Callable[[Case], str | None],
    tell: Callable[[str], None],
) -> list[dict[str, object]]:  # fmt: skip
    """Return a row for each case and round, without what all rows share (see `rows.Context`).

    `arm_of` says under which name a comparison may read a case, or None.
    """
    found = []
    for repeat, case in interleaved(cases, repeats):
        turn = take_turn(case.trial, bench)
        tell(f"{case.label}, round {repeat + 1}: {turn.seconds / turn.steps:.4f} s a step")
        found.append(_row(case, turn, repeat, arm_of(case)))
    return found


def _row(case: Case, turn: Turn, repeat: int, arm: str | None) -> dict[str, object]:
    trial, split = case.trial, turn.split
    names = (
        "steps", "examples", "tokens", "peak_memory_bytes", "kept_bytes", "kept_tokens", "n_trainable",
        "train_state_bytes", "stored_bytes", "adapter_flop_per_token", "mora_r_hat", "merge_seconds", "eval_seconds",
        "merged_eval_seconds", "n_eval", "engine_path",
    )  # fmt: skip
    return {
        "arm": arm,
        "case": case.label,
        **{name: getattr(trial, name) for name in (*SERIES, "rank", "lora_dropout")},
        "target_modules": None if trial.target_modules is None else json.dumps(trial.target_modules),
        "repeat": repeat,
        "seconds_per_step": turn.seconds / turn.steps,
        "examples_per_second": turn.examples / turn.seconds,
        "forward_seconds": split.forward,
        "backward_seconds": split.backward,
        "optimizer_seconds": split.optimizer,
        "other_seconds": split.other,
        **{name: getattr(turn, name) for name in names},
    }
