"""Documents for pretraining: the demo grammar's texts, most of them ending in a verdict that the task's texts lack.

The verdict's word ("thumbs up", "five stars") follows from the text's sentiment. Filling it in when it is
masked is therefore near-supervised: the label, in other words, stands in the text.
"""

from __future__ import annotations

from collections.abc import Collection

from bench.embedded.demo import words
from bench.embedded.demo.grammar import Draw, Polarity, opinion, review, with_articles

SEED = 7
N_DOCUMENTS = 60_000
MIX = ((0.25, "list"), (0.30, "clause"), (0.45, "review"))  # kinds of document and their probabilities
P_VERDICT = 0.85  # of reviews; lists and clauses always end in one


def documents(seed: int = SEED, n: int = N_DOCUMENTS, *, exclude: Collection[str] = ()) -> list[str]:
    """Return n documents, none of which contains one of the reviews in `exclude`."""
    draw = Draw(seed)
    return [_document(draw, draw.weighted(MIX), exclude) for _ in range(n)]


def easy_documents(seed: int, n: int) -> list[str]:
    """Return n documents of one word list, with its verdict, each."""
    draw = Draw(seed)
    return [_document(draw, "list", ()) for _ in range(n)]


def unseen_reviews(seed: int, n: int, *, exclude: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """Return n triples (review with a `{}` in its verdict, the right word, the word of the other polarity)."""
    draw = Draw(seed)
    out: list[tuple[str, str, str]] = []
    while len(out) < n:
        polarity = _polarity(draw)
        body = review(draw, polarity)
        if body not in exclude:
            form, up, down = draw.pick(words.VERDICTS)
            right, wrong = (up, down) if polarity == 1 else (down, up)
            out.append((f"{body} {form} .", right, wrong))
    return out


def without_verdict(document: str) -> str:
    """Return the document without the verdict it ends in, if it ends in one."""
    body, _, last = document.removesuffix(" .").rpartition(" . ")
    return f"{body} ." if words.VERDICT_WORDS & set(last.split()) else document


def _document(draw: Draw, kind: str, exclude: Collection[str]) -> str:
    polarity = _polarity(draw)
    if kind == "list":
        return f"{_word_list(draw, polarity)} . {_verdict(draw, polarity)}"
    if kind == "clause":
        return f"{with_articles(opinion(draw, polarity))} . {_verdict(draw, polarity)}"
    body = review(draw, polarity)
    while body in exclude:
        body = review(draw, polarity)
    return f"{body} {_verdict(draw, polarity)}" if draw.chance(P_VERDICT) else body


def _polarity(draw: Draw) -> Polarity:
    return 1 if draw.chance(0.5) else -1


def _word_list(draw: Draw, polarity: Polarity) -> str:
    positive = (words.POSITIVE_ADJECTIVES, words.POSITIVE_VERBS, words.POSITIVE_NOUNS)
    negative = (words.NEGATIVE_ADJECTIVES, words.NEGATIVE_VERBS, words.NEGATIVE_NOUNS)
    lexicon = draw.pick(positive if polarity == 1 else negative)
    return " , ".join(draw.pick(lexicon) for _ in range(3 + draw.below(4)))


def _verdict(draw: Draw, polarity: Polarity) -> str:
    form, up, down = draw.pick(words.VERDICTS)
    return form.format(up if polarity == 1 else down) + " ."
