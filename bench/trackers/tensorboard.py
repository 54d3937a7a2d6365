"""TensorBoard: event files in `<study>/tensorboard/<name> (<trial_id>)/`, with the settings as its hparams."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.trackers._base import LAST, Run

LIBRARY = "tensorboard"


class _Files:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def send(self, run: Run) -> None:
        """Write one event file; one that a kill left half written is written anew."""
        from torch.utils.tensorboard import SummaryWriter

        for written in self._directory.glob(f"*{run.trial_id}*"):
            shutil.rmtree(written)
        config: dict[str, Any] = {
            k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in run.config.items()
        }
        with SummaryWriter(str(self._directory / f"{run.name} ({run.trial_id})")) as writer:
            for step, values in run.points:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
            last = run.points[-1][0] if run.points else 0
            score = {LAST: run.summary.get(LAST, float("nan"))}
            writer.add_hparams(config, score, run_name=".", global_step=last)

    def close(self) -> None:
        """Every file is closed."""


def open_tracker(group: str, directory: Path) -> _Files:
    """Return the writer of a study's event files."""
    return _Files(directory / "tensorboard")
