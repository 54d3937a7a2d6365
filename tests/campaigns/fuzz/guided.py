"""Mutation guided by coverage: an input that reaches a line that none before has reached is mutated further."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = str(Path(__file__).resolve().parents[3] / "bench")
TOKENS = (b"\t", b"\n", b"\r\n", b'"', b"'", b",", b"=", b"[", b"]", b"{", b"}", b"#", b"\\", b"\0", b"\xff",
          b"\xef\xbb\xbf", b"nan", b"1e999", b"-1", b"true", b"null", b"../", b"PAR1")  # fmt: skip

Line = tuple[str, int]


def search(starts: Sequence[bytes], give: Callable[[bytes], object], *, n: int, seed: str) -> int:
    """Give n mutated inputs; return how many lines of the package they reached.

    An exception of `give` passes through, with the input that led to it as a note.
    """
    chance = random.Random(seed)
    corpus, reached = list(starts), set[Line]()
    for i in range(n):
        content = starts[i] if i < len(starts) else mutated(chance.choice(corpus), corpus, chance)
        seen = set[Line]()
        try:
            with_lines(lambda content=content: give(content), seen)  # type: ignore[misc]
        except BaseException as error:
            error.add_note(f"input: {content!r}")
            raise
        if not seen <= reached:
            reached |= seen
            corpus.append(content)
    return len(reached)


def mutated(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    """Return the input with one to four changes: bytes flipped, cut, repeated, put in, or a piece of another input."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(content))
        end = min(len(content), at + chance.randint(0, 12))
        match chance.randrange(6):
            case 0 if content:
                i = chance.randrange(len(content))
                content = content[:i] + bytes([content[i] ^ 1 << chance.randrange(8)]) + content[i + 1 :]
            case 1:
                content = content[:at] + content[end:]
            case 2:
                content = content[:at] + content[at:end] * chance.randint(2, 5) + content[end:]
            case 3:
                content = content[:at] + chance.choice(TOKENS) + content[end:]
            case 4:
                content = content[:at] + chance.randbytes(chance.randint(1, 4)) + content[end:]
            case _:
                other = chance.choice(corpus)
                start = chance.randint(0, len(other))
                content = content[:at] + other[start : start + chance.randint(1, 40)] + content[end:]
    return content


def with_lines(call: Callable[[], object], seen: set[Line]) -> None:
    """Call, and put the lines of the package that run into `seen`."""

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
