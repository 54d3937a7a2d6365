"""What an executor is: a pack in, records out, whatever happens to its trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import final

from bench.record import Record
from bench.spec import Pack


class AbstractExecutor(ABC):
    """Runs packs. What goes wrong inside a pack becomes records; KeyboardInterrupt and BadInput pass through."""

    @abstractmethod
    def stream(self, pack: Pack, *, study: str) -> Iterator[list[Record]]:
        """Yield the records of a pack as they are finished: each list may be stored before the next is computed.

        All at once, unless the pack ran out of memory and is run in parts. Each trial comes once, in slot order.
        """

    @final
    def run(self, pack: Pack, *, study: str) -> list[Record]:
        """Return the records of a pack, one for each trial in slot order."""
        return [record for records in self.stream(pack, study=study) for record in records]
