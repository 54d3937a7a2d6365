"""What it saves to leave trials out early: a share, and its words. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def share_saved(pruned: Iterable[tuple[int, int]], finished: Iterable[int]) -> float | None:
    """Return which share of the steps of all trials that have ended was not trained; None where none was left out.

    `pruned` holds steps done and steps in full of each trial that was left out, `finished` the steps of each other one.
    """
    some = list(pruned)
    left = sum(full - done for done, full in some)
    return left / (sum(full for _, full in some) + sum(finished)) if some else None


def told(n: int, share: float | None) -> str:
    """Return how many trials were left out and what that saved, in words."""
    return f"{n:,} pruned" if share is None else f"{n:,} pruned ({share:.0%} of the steps saved)"
