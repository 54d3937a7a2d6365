"""A seeded generator of review-like texts whose sentiment depends on how they are composed, not on which words occur.

A text is opinions, joined by rules that decide which of them counts: negation turns an opinion round; in a contrast one
clause yields to the other; an opinion reported of somebody else does not count unless the writer agrees or disagrees.
Everything is a pure function of a seed; it rests on `random.Random(seed).random()` alone, whose stream Python promises
to keep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np

from bench.data.splits import Split
from bench.embedded.demo import words

Polarity = Literal[-1, 1]
T = TypeVar("T")

LABELS = ("negative", "positive")
SEED = 2024
N_TRAIN, N_EVAL = 4_000, 1_000
NOISE = 0.05  # of the labels of each class, in both splits
MAX_WORDS = 38  # with the two special tokens at most 40 tokens, where every word is one token
P_NEGATED = 0.3
P_INTENSIFIED = 0.35
P_REPORT_OPPOSES = 0.7


class Draw:
    """Random choices out of one seeded stream of uniform numbers."""

    def __init__(self, seed: int) -> None:
        self._uniform = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        """Return True with `probability`."""
        return self._uniform() < probability

    def below(self, n: int) -> int:
        """Return an integer of 0 .. n - 1."""
        return int(self._uniform() * n)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`, all equally likely."""
        return options[self.below(len(options))]

    def weighted(self, options: Sequence[tuple[float, T]]) -> T:
        """Return one of the (probability, option) pairs' options; the probabilities sum to 1."""
        left = self._uniform()
        for probability, option in options:
            left -= probability
            if left < 0:
                return option
        return options[-1][1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out


def flip(polarity: Polarity) -> Polarity:
    """Return the opposite polarity."""
    return -1 if polarity == 1 else 1


def opinion(draw: Draw, polarity: Polarity, *, persons: Sequence[str] = words.PERSONS) -> str:
    """Return one clause that expresses the `polarity` of one of `persons`, negated with probability P_NEGATED."""
    negated = draw.chance(P_NEGATED)
    lexical = flip(polarity) if negated else polarity
    form = draw.weighted(((0.45, "adjective"), (0.3, "verb"), (0.25, "noun")))
    if form == "adjective":
        return _is_adjective(draw, lexical, negated)
    return _does_verb(draw, lexical, negated, persons) if form == "verb" else _is_noun(draw, lexical, negated)


def review(draw: Draw, polarity: Polarity) -> str:
    """Return a whole text of at most MAX_WORDS words that expresses `polarity`."""
    while True:
        kind = draw.weighted(REVIEW_KINDS)
        text = _surround(draw, kind(draw, polarity))
        if len(text.split()) <= MAX_WORDS:
            return text


def neutral(draw: Draw) -> str:
    """Return a clause without sentiment; some contain "not", which negates nothing that counts."""
    return draw.pick(_NEUTRAL)(draw)


def distinct_reviews(draw: Draw, polarities: Sequence[Polarity], seen: set[str]) -> list[str]:
    """Return one review per polarity, none in `seen`, none twice; adds them to `seen`."""
    texts = []
    for polarity in polarities:
        text = review(draw, polarity)
        while text in seen:
            text = review(draw, polarity)
        seen.add(text)
        texts.append(text)
    return texts


def generate_splits(seed: int = SEED, *, noise: float = NOISE) -> tuple[Split, Split]:
    """Return the training and the evaluation split: 4,000 and 1,000 distinct texts, labels 0 negative, 1 positive.

    Each split has as many positive as negative texts, and exactly the fraction `noise` of either class carries the
    wrong label, so that guessing scores 0.5 and knowing every text's sentiment scores 1 - noise.
    """
    draw, seen = Draw(seed), set[str]()
    return _split(draw, N_TRAIN, noise, seen), _split(draw, N_EVAL, noise, seen)


def true_labels(seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return what the labels of both splits would be without noise; the texts are the same."""
    train, evaluation = generate_splits(seed, noise=0.0)
    return train.labels, evaluation.labels


def _split(draw: Draw, n: int, noise: float, seen: set[str]) -> Split:
    signs: list[Polarity] = [-1, 1] * (n // 2)
    polarities = draw.shuffled(signs)
    texts = distinct_reviews(draw, polarities, seen)
    labels = np.array([int(polarity == 1) for polarity in polarities], dtype=np.int64)
    order = draw.shuffled(range(n))  # drawn whatever the noise is, so that the noise does not change the texts
    for label in (0, 1):
        wrong = [i for i in order if polarities[i] == (1 if label else -1)][: round(noise * n / 2)]
        labels[wrong] = 1 - label
    return Split(texts=tuple(texts), pairs=None, labels=labels)


def _lexicon(polarity: Polarity, positive: tuple[str, ...], negative: tuple[str, ...]) -> tuple[str, ...]:
    return positive if polarity == 1 else negative


def _is_adjective(draw: Draw, lexical: Polarity, negated: bool) -> str:
    parts = ["the", draw.pick(words.ASPECTS), draw.pick(words.BE)]
    if negated:
        parts.append(draw.pick(words.NEGATED_BE))
    if draw.chance(P_INTENSIFIED):
        parts.append(draw.pick(words.INTENSIFIERS))
    parts.append(draw.pick(_lexicon(lexical, words.POSITIVE_ADJECTIVES, words.NEGATIVE_ADJECTIVES)))
    return " ".join(parts)


def _does_verb(draw: Draw, lexical: Polarity, negated: bool, persons: Sequence[str]) -> str:
    parts = [draw.pick(persons)]
    if negated:
        parts.append(draw.pick(words.NEGATED_DO))
    elif draw.chance(P_INTENSIFIED):
        parts.append(draw.pick(words.VERB_INTENSIFIERS))
    parts.append(draw.pick(_lexicon(lexical, words.POSITIVE_VERBS, words.NEGATIVE_VERBS)))
    parts += [draw.pick(("the", "its")), draw.pick(words.ASPECTS)]
    return " ".join(parts)


def _is_noun(draw: Draw, lexical: Polarity, negated: bool) -> str:
    subject = draw.pick(("it", "the " + draw.pick(words.ASPECTS)))
    parts = [subject, draw.pick(("is", "was")), draw.pick(words.NEGATED_A) if negated else "a"]
    if draw.chance(P_INTENSIFIED):
        parts.append(draw.pick(words.EMPHASES))
    parts.append(draw.pick(_lexicon(lexical, words.POSITIVE_NOUNS, words.NEGATIVE_NOUNS)))
    return " ".join(parts)


def with_articles(text: str) -> str:
    """Return `text` with "an" for "a" before a vowel."""
    tokens = text.split()
    for i, following in enumerate(tokens[1:]):
        if tokens[i] == "a" and following[0] in "aeiou":
            tokens[i] = "an"
    return " ".join(tokens)


def _plain(draw: Draw, polarity: Polarity) -> str:
    first = opinion(draw, polarity)
    return f"{first} and {opinion(draw, polarity)}" if draw.chance(0.5) else first


def _contrast(draw: Draw, polarity: Polarity) -> str:
    winner, loser = opinion(draw, polarity), opinion(draw, flip(polarity))
    return draw.pick(_CONTRASTS)(draw, winner, loser)


_CONTRASTS: tuple[Callable[[Draw, str, str], str], ...] = (
    lambda draw, winner, loser: f"{loser} , {draw.pick(words.THEN_WINS)} {winner}",
    lambda draw, winner, loser: f"{draw.pick(words.FIRST_YIELDS)} {loser} , {winner}",
    lambda draw, winner, loser: f"{winner} , {draw.pick(words.SECOND_YIELDS)} {loser}",
)


def _report(draw: Draw, said: Polarity) -> str:
    source = draw.pick((f"my {draw.pick(words.RELATIVES)}", draw.pick(words.CROWDS)))
    that = draw.pick((" that", ""))
    return f"{source} {draw.pick(words.REPORTS)}{that} {opinion(draw, said, persons=words.OTHERS)}"


def _reported(draw: Draw, polarity: Polarity) -> str:
    said = flip(polarity) if draw.chance(P_REPORT_OPPOSES) else polarity
    own = opinion(draw, polarity)
    if draw.chance(0.5):
        own = f"{draw.pick(words.OWN_VIEWS)} {own}"
    if draw.chance(0.4):
        return f"{own} , {draw.pick(words.SECOND_YIELDS)} {_report(draw, said)}"
    return f"{_report(draw, said)} {draw.pick(('.', ', but', ', yet'))} {own}"


def _stance(draw: Draw, polarity: Polarity) -> str:
    if draw.chance(0.5):
        return f"{_report(draw, polarity)} , {draw.pick(words.AGREEING)}"
    return f"{_report(draw, flip(polarity))} , {draw.pick(words.DISAGREEING)}"


def _report_then_contrast(draw: Draw, polarity: Polarity) -> str:
    return f"{_report(draw, draw.pick((-1, 1)))} . {_contrast(draw, polarity)}"


REVIEW_KINDS: tuple[tuple[float, Callable[[Draw, Polarity], str]], ...] = (
    (0.12, _plain),
    (0.40, _contrast),
    (0.28, _reported),
    (0.08, _stance),
    (0.12, _report_then_contrast),
)


def _surround(draw: Draw, body: str) -> str:
    where = draw.weighted(((0.45, "alone"), (0.25, "before"), (0.25, "after"), (0.05, "both")))
    before = f"{neutral(draw)} . " if where in ("before", "both") else ""
    after = f" . {neutral(draw)}" if where in ("after", "both") else ""
    return with_articles(f"{before}{body}{after} .")


_NEUTRAL: tuple[Callable[[Draw], str], ...] = (
    lambda draw: f"it {draw.pick(words.HAPPENINGS)} in {draw.pick(words.PLACES + words.MONTHS)}",
    lambda draw: f"the {draw.pick(words.JOBS)} comes from {draw.pick(words.PLACES)}",
    lambda draw: f"the {draw.pick(words.JOBS)} did not come from {draw.pick(words.PLACES)}",
    lambda draw: f"we saw it on {draw.pick(words.DAYS)} with my {draw.pick(words.RELATIVES)}",
    lambda draw: f"it lasts about {draw.pick(words.NUMBERS)} hours",
    lambda draw: f"there is a {draw.pick(words.SIZES + words.COLORS)} {draw.pick(words.THINGS)} in it",
    lambda draw: f"the {draw.pick(words.THINGS)} is not {draw.pick(words.COLORS)}",
    lambda draw: f"my {draw.pick(words.RELATIVES)} has a {draw.pick(words.THINGS)} and a {draw.pick(words.THINGS)}",
)
