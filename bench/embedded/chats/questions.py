"""The conversations of chat-demo: questions with one right answer, made here from word lists and numbers.

Every answer is one word or number, without a full stop: a language model that was tuned to chat knows most of the
answers, and writes them otherwise. What is learnt is mostly the form, in few steps. A third of the conversations have
two turns, the second about the first one's answer. Evaluated questions are about other words and numbers than those
trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SYSTEM = "Answer with one word."
N_TRAIN, N_EVAL = 320, 40
SEED = 20261126

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
OPPOSITES = (
    "hot cold, big small, up down, day night, left right, open closed, early late, fast slow, old young, high low, "
    "wet dry, hard soft, full empty, light dark, rich poor, true false, strong weak, near far, happy sad, clean dirty, "
    "thick thin, first last, loud quiet, long short, wide narrow, inside outside, love hate, win lose, buy sell"
)
PLURALS = (
    "cat cats, child children, mouse mice, box boxes, city cities, foot feet, leaf leaves, tooth teeth, man men, "
    "bus buses, baby babies, knife knives, dog dogs, goose geese, wolf wolves, story stories, dish dishes, "
    "woman women, half halves, tree trees"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """Something to be asked about: a question with its answer, and a second one that follows from it."""

    question: str
    answer: str
    then: str
    answer_then: str

    def messages(self, *, turns: int) -> list[dict[str, str]]:
        """Return the conversation, of one turn or two."""
        said = [("system", SYSTEM), ("user", self.question), ("assistant", self.answer)]
        if turns == 2:
            said += [("user", self.then), ("assistant", self.answer_then)]
        return [{"role": role, "content": content} for role, content in said]


def conversations() -> tuple[list[list[dict[str, str]]], list[list[dict[str, str]]]]:
    """Return what is trained on and what is evaluated: the same at every call."""
    rng = np.random.Generator(np.random.Philox(SEED))
    facts: list[list[Fact]] = [list(make()) for make in FACTS]
    for kind in facts:
        order = rng.permutation(len(kind))
        kind[:] = [kind[i] for i in order]
    n_eval = N_EVAL // len(facts)
    return (
        _told([fact for kind in facts for fact in kind[n_eval:]], N_TRAIN, rng),
        _told([fact for kind in facts for fact in kind[:n_eval]], N_EVAL, rng),
    )


def _told(facts: Sequence[Fact], n: int, rng: np.random.Generator) -> list[list[dict[str, str]]]:
    chosen = rng.permutation(len(facts))[:n]
    return [facts[place].messages(turns=2 if i % 3 == 2 else 1) for i, place in enumerate(chosen)]


def _numbers() -> Iterator[Fact]:
    for n in range(11, 200):
        yield Fact(question=f"Which number comes after {n}?", answer=f"{n + 1}", then="And the one after that?",
                   answer_then=f"{n + 2}")  # fmt: skip


def _sums() -> Iterator[Fact]:
    for a in range(2, 10):
        for b in range(2, 10):
            yield Fact(question=f"What is {a} plus {b}?", answer=f"{a + b}", then="And one more?",
                       answer_then=f"{a + b + 1}")  # fmt: skip


def _cycle(names: Sequence[str], what: str) -> Iterator[Fact]:
    for i, name in enumerate(names):
        for word, step in (("after", 1), ("before", -1)):
            first, second = (names[(i + step * k) % len(names)] for k in (1, 2))
            question = f"Which {what} comes {word} {name}?"
            yield Fact(question=question, answer=first, then=f"And {word} that one?", answer_then=second)


def _calendar() -> Iterator[Fact]:
    yield from _cycle(DAYS, "day")
    yield from _cycle(MONTHS, "month")


def _words(listed: str, ask: Callable[[str], str], back: Callable[[str], str]) -> Iterator[Fact]:
    for pair in listed.split(", "):
        one, other = pair.split(" ")
        yield Fact(question=ask(one), answer=other, then=back(other), answer_then=one)


def _opposites() -> Iterator[Fact]:
    def ask(word: str) -> str:
        return f"What is the opposite of {word}?"

    yield from _words(OPPOSITES, ask, ask)


def _plurals() -> Iterator[Fact]:
    yield from _words(PLURALS, "What is the plural of {}?".format, "And the singular of {}?".format)


FACTS: tuple[Callable[[], Iterator[Fact]], ...] = (_numbers, _sums, _calendar, _opposites, _plurals)
ANSWERS: Mapping[str, str] = {fact.question: fact.answer for make in FACTS for fact in make()}
