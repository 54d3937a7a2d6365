"""What an executor is: packs in, records out, whatever happens to their trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import final

from bench.core.record import Record
from bench.core.spec import Pack


class StoppedError(Exception):
    """Work cannot go on; what is finished is kept. One line for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Records of one pack that may be stored. Not final: an attempt that was lost, whose trials run again."""

    pack: Pack
    records: tuple[Record, ...]
    final: bool = True


def _untold(text: str) -> None:
    """Take a line that nobody asked for."""


def _unknown(pack: Pack) -> float | None:
    """Return how long a pack takes where nothing was measured."""
    return None


class AbstractExecutor(ABC):
    """Runs packs. What goes wrong inside a pack becomes records; KeyboardInterrupt and BadInput pass through."""

    tell: Callable[[str], None] = staticmethod(_untold)  # takes a line for the user that no record holds
    expects: Callable[[Pack], float | None] = staticmethod(_unknown)  # seconds by measured speeds; None: none measured

    @property
    def slots(self) -> int:
        """How many packs are in flight at once: the time left is the work left, divided by it."""
        return 1

    @abstractmethod
    def stream(self, pack: Pack, *, study: str) -> Iterator[list[Record]]:
        """Yield the records of a pack as they are finished: each list may be stored before the next is computed.

        All at once, unless the pack ran out of memory and is run in parts. Each trial comes once, in slot order.
        """

    def seconds_per_trial_step(self, pack: Pack) -> float | None:
        """Return what a training step takes one of the pack's trials here, from a few steps that nothing is kept of.

        Infinite where they run out of memory; None where it cannot be told.
        """
        return None

    def stream_many(self, packs: Iterable[Pack], *, study: str) -> Generator[Batch, None, None]:
        """Yield the records of several packs as they are finished; each trial comes in one final batch.

        A pack is taken from `packs` just before it starts. One after another here; an executor with more slots has
        several in flight and yields them in the order in which they end. Closing the iterator abandons them.
        """
        for pack in packs:
            for records in self.stream(pack, study=study):
                yield Batch(pack=pack, records=tuple(records))

    def close(self) -> None:
        """End whatever was started beside this process; packs may come after it again."""
        return

    @final
    def run(self, pack: Pack, *, study: str) -> list[Record]:
        """Return the records of a pack, one for each trial in slot order."""
        return [record for records in self.stream(pack, study=study) for record in records]
