"""Where packs run: a pack in, records out (see `_base.py`)."""

from __future__ import annotations

from bench.executors._base import AbstractExecutor, Batch, StoppedError

__all__ = ["AbstractExecutor", "Batch", "StoppedError"]
