"""A run of `bench deploy`: equality first, then every way in every round, in an order drawn anew; rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bench.core.spec import Precision
from bench.engine.batching import Batches
from bench.timing.deploy.rows import BASE, LORA, Row
from bench.timing.deploy.saved import Saved
from bench.timing.deploy.ways import Built, Requests, Way
from bench.timing.peers.interleave import interleaved
from bench.timing.peers.timer import Timer

# largest difference of logits over the largest logit: sums in another order, once for each layer
TOLERANCE: dict[Precision, float] = {"fp64": 1e-10, "fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
SWITCHES = 10  # in a timed block, over all adapters in turn
REFERENCE = "unmerged"  # what the other ways are compared with


@dataclass(frozen=True, kw_only=True, slots=True)
class Equality:
    """How far a way's logits are from those unmerged; `size` is the largest logit."""

    difference: float
    size: float

    def holds(self, precision: Precision) -> bool:
        """Return whether that is no more than sums in another order make."""
        return self.difference <= TOLERANCE[precision] * self.size


def requests_of(split: Batches, n: int, n_adapters: int) -> Requests:
    """Return n requests whose prompts are spread over the split's lengths; the adapters take turns."""
    assert split.prompt_lengths is not None
    by_length = np.argsort(split.prompt_lengths, kind="stable")
    places = by_length[((np.arange(n) + 0.5) * split.n / n).astype(np.int64)]
    return Requests(split=split, place_R=places, adapter_R=np.arange(n) % n_adapters)


def equalities(ways: Sequence[Way], requests: Requests) -> dict[tuple[str, str], Equality]:
    """Return how far each way's logits are from those of its kind unmerged, of the base: from LoRA's; a warm-up too."""
    found: dict[tuple[str, str], Equality] = {}
    kinds = {way.kind: way for way in ways if way.name == REFERENCE}
    logits: dict[str, Tensor] = {kind: way.serve(requests).double() for kind, way in kinds.items()}
    first = next(iter(logits.values()))
    for way in ways:
        wanted = logits.get(way.kind, first)
        difference = float((way.serve(requests).double() - wanted).abs().max())
        found[way.kind, way.name] = Equality(difference=difference, size=float(wanted.abs().max()))
    return found


def unequal(found: dict[tuple[str, str], Equality], precision: Precision) -> list[str]:
    """Return a line for each way that does not compute what unmerged adapters do."""
    return [
        f"{kind}, {name}: logits differ by {one.difference:.2g} from unmerged, largest logit {one.size:.3g}"
        for (kind, name), one in found.items()
        if kind != BASE and not one.holds(precision)
    ]


def measure(
    built: Built, adapters: Sequence[Saved], requests: Requests, found: dict[tuple[str, str], Equality], *,
    repeats: int, timer: Timer, tell: Callable[[str], None],
) -> list[Row]:  # fmt: skip
    """Return a row for each block and round, for each adapter, and for each way that is refused.

    Blocks: all requests at once (batch), one after the other (alone), and what makes ready for another adapter
    (switch). Two requests of each adapter are served alone in a round.
    """
    one_by_one = np.arange(min(len(requests), 2 * len(adapters)))
    blocks = [(way, part) for way in built.ways for part in ("batch", "alone", "switch") if part != "switch"
              or (way.switch is not None and len(adapters) > 1)]  # fmt: skip
    for way in built.ways:
        way.serve(requests.at(one_by_one[:1]))
    rows = []
    for repeat, (way, part) in interleaved(blocks, repeats):
        some = {"batch": requests, "alone": requests.at(one_by_one), "switch": requests.at(one_by_one[:0])}[part]
        start = timer.read()
        n = _block(way, part, some, len(adapters))
        seconds = timer.read() - start
        tell(f"{way.kind}, {way.name}, {part}, round {repeat + 1}: {1e3 * seconds / n:.4g} ms each")
        equal = found[way.kind, way.name]
        rows.append(
            Row(kind=way.kind, way=way.name, by=way.by, part=part, repeat=repeat, seconds=seconds, n=n,
                tokens=some.tokens, weight_bytes=way.weight_bytes, largest_difference=equal.difference,
                largest_logit=equal.size)
        )  # fmt: skip
    return [*rows, *_of_adapters(built, adapters)]


def _block(way: Way, part: str, requests: Requests, n_adapters: int) -> int:
    """Do a block; return of how many requests, or switches."""
    if part == "batch":
        way.serve(requests)
        return len(requests)
    if part == "alone":
        for i in range(len(requests)):
            way.serve(requests.at(np.array([i])))
        return len(requests)
    assert way.switch is not None
    for i in range(SWITCHES):
        way.switch((i + 1) % n_adapters)
    return SWITCHES


def _of_adapters(built: Built, adapters: Sequence[Saved]) -> Iterator[Row]:
    for one, seconds in zip(adapters, built.merge_seconds, strict=True):
        yield Row(kind=LORA, way="merged", by="PEFT", part="adapter", adapter=one.name, rank=one.rank,
                  adapter_bytes=one.n_bytes, seconds=seconds)  # fmt: skip
    for (kind, name), reason in built.refused.items():
        yield Row(kind=kind, way=name, part="refused", reason=reason)
