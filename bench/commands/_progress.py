"""While a sweep runs: a progress bar with the time left and the best cell so far; plain lines where no terminal is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from bench.commands import _show, _text
from bench.core.pruned import told
from bench.core.record import Record, Status
from bench.core.spec import Trial
from bench.study import varying
from bench.sweep import Event, Noted, PackStarted, PackStored, Started, Warned

COLUMNS = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))


@contextmanager
def reporter(trials: Sequence[Trial], *, n_steps: int) -> Iterator[Plain]:
    """Yield what a sweep reports its events to: a bar on a terminal and in a notebook, else one line for each pack."""
    if not (sys.stdout.isatty() or _in_notebook()):
        yield Plain(trials)
        return
    with Progress(*COLUMNS, transient=True) as progress:
        yield Bar(trials, progress, n_steps=n_steps)


def _in_notebook() -> bool:
    """Return whether a notebook can show a bar: rich draws it by ipywidgets there, past a redirected stdout."""
    shown = type(sys.stdout).__module__.startswith("ipykernel")
    return shown and Console().is_jupyter and find_spec("ipywidgets") is not None


def best_so_far(trial: Trial, score: float, varied: Sequence[str] = ()) -> str:
    """Return the part of a line that names the best trial, and the split that its score was taken on."""
    split = " (held out)" if trial.budget.n_select else ""
    return f"; best so far {score:.4f}{split}: {_show.place_of(trial, varied)}"


class Plain:
    """One line for each pack that is stored, and for each warning."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = {trial.trial_id: trial for trial in trials}
        self.varied = varying.of_trials(trials)
        self.n_packs = self.index = 0
        self.left = self.best = self.pruned = ""

    def __call__(self, event: Event) -> None:
        """Take one event of the sweep."""
        match event:
            case Started():
                self.n_packs = event.n_packs
                self.left = "" if event.estimate is None else f", about {_text.duration(event.estimate.seconds)} left"
                self.begun(event)
            case PackStarted():
                self.index, self.n_packs = event.index, event.n_packs
                self.trials.update({trial.trial_id: trial for trial in event.pack.trials})
                self.pack_begun(event)
            case PackStored():
                self.index = event.index
                self.left = "" if event.remaining is None else f", about {_text.duration(event.remaining.seconds)} left"
                if event.best is not None and event.best[0] in self.trials:
                    self.best = best_so_far(self.trials[event.best[0]], event.best[1], self.varied)
                self.stored(event)
            case Warned():
                self.say(f"warning: {event.text}")
            case Noted():
                self.say(event.text)

    def steps(self, n: int) -> None:
        """Take note that the trials of the pack have done n steps; lines do not show it."""

    def begun(self, event: Started) -> None:
        """Say nothing: the plan has just been printed."""

    def pack_begun(self, event: PackStarted) -> None:
        """Say nothing: the line comes when the pack is stored."""

    def stored(self, event: PackStored) -> None:
        """Print a line about the pack, and the reasons of trials that failed."""
        for reason in failures(event.records):
            self.say(reason)
        place = f"pack {self.index + 1}/{self.n_packs}, {event.n_finished}/{event.n_trials} trials{pruned(event)}"
        self.say(f"{place}{self.left}{self.best}")

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, flush=True)


class Bar(Plain):
    """A bar over trials that moves within a pack too."""

    def __init__(self, trials: Sequence[Trial], progress: Progress, *, n_steps: int) -> None:
        super().__init__(trials)
        self.progress, self.n_steps = progress, n_steps
        self.bar: TaskID | None = None
        self.n_finished = self.size = 0

    def begun(self, event: Started) -> None:
        """Show the bar."""
        self.n_finished = event.n_finished
        self.bar = self.progress.add_task(self.text(), total=event.n_trials, completed=event.n_finished)

    def pack_begun(self, event: PackStarted) -> None:
        """Take note of the size of the pack."""
        self.size = event.pack.size
        self.show(self.n_finished)

    def steps(self, n: int) -> None:
        """Move the bar within the pack: n steps are done."""
        self.show(self.n_finished + self.size * n / self.n_steps)

    def stored(self, event: PackStored) -> None:
        """Move the bar to the trials that are finished."""
        for reason in failures(event.records):
            self.say(reason)
        self.n_finished, self.size, self.pruned = event.n_finished + event.n_pruned, 0, pruned(event)
        self.show(self.n_finished)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, completed: float) -> None:
        """Draw the bar anew."""
        if self.bar is not None:
            self.progress.update(self.bar, completed=int(completed), description=self.text())

    def text(self) -> str:
        """Return what stands beside the bar."""
        return f"trials{self.pruned}{self.left}{self.best}"


def pruned(event: PackStored) -> str:
    """Return how many trials were left out, where some were."""
    left_out = f", {told(event.n_pruned, event.share_saved)}" if event.n_pruned else ""
    return f"{left_out}, {event.n_widened:,} beyond the border" if event.n_widened else left_out


def failures(records: Sequence[Record]) -> list[str]:
    """Return a line for each different reason why trials of these records failed."""
    lost = [record for record in records if record.outcome.status in (Status.OOM, Status.FAILED)]
    reasons = dict.fromkeys((str(record.outcome.status), record.outcome.reason or "no reason given") for record in lost)
    return [
        f"{_text.count(sum(r.outcome.reason == reason for r in lost), 'trial')} {status}: {reason}"
        for status, reason in reasons
    ]
