"""Runs a study: plan, execute, store, tell Optuna; resumable at any moment."""

from bench.sweep.events import Event, Noted, Options, PackStarted, PackStored, Preview, Started, SweepSummary, Warned
from bench.sweep.loop import preview, run

__all__ = [
    "Event",
    "Noted",
    "Options",
    "PackStarted",
    "PackStored",
    "Preview",
    "Started",
    "SweepSummary",
    "Warned",
    "preview",
    "run",
]
