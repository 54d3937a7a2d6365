"""Weights & Biases: WANDB_PROJECT, else `lorasweep`; a group for each study, the trial's id as the run's.

WANDB_MODE decides as ever. Without it, and without a key, runs are kept offline in `<study>/wandb/` for `wandb sync`: a
question for a key would stop nobody but the thread that asks it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bench.trackers._base import Run

LIBRARY = "wandb"
# wandb reads the version of every installed package and asks git four times for each run, most of what a run costs.
# Both are the same for all runs of a sweep, and its rows have them.
_SETTINGS: dict[str, Any] = {
    "silent": True, "console": "off", "x_disable_stats": True, "x_save_requirements": False, "disable_git": True,
}  # fmt: skip


class _Project:
    def __init__(self, directory: Path, mode: Any) -> None:
        self._directory, self._mode = directory, mode

    def send(self, run: Run) -> None:
        """Write one run; online, one that is there already goes on under its id."""
        import wandb

        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lorasweep"), group=run.group, id=run.trial_id, name=run.name,
            config=dict(run.config), tags=[run.status], dir=str(self._directory), mode=self._mode, resume="allow",
            reinit="create_new", settings=wandb.Settings(**_SETTINGS),
        ) as made:  # fmt: skip
            for step, values in run.points:
                made.log({**values, "train/global_step": step}, step=step)
            made.summary.update(dict(run.summary))

    def close(self) -> None:
        """Every run is finished."""
        import wandb

        wandb.teardown()


def open_tracker(group: str, directory: Path) -> _Project:
    """Return where a study's runs go."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
    return _Project(directory, mode)
