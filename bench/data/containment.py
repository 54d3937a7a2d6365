"""Which texts stand inside which others, up to case, punctuation and where words are cut. numpy only.

A text counts as its letters and digits in a row; it stands in another where it is a run of the other's whole words:
"film-making" in "The film making of it", but no "art" in "a start". Runs are compared by a polynomial hash of 64 bits,
h(i, j) = sum of c_k B^(k - i) mod 2^64 over their characters, taken from cumulative sums (Karp and Rabin 1987): a
text of n words has n (n + 1) / 2 runs, most of which are ruled out by their first characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

# Scripts that are written without spaces count a character as a word: Thai to Burmese, Khmer, kana, Chinese.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse mod 2^64
_PREFIX = 24  # characters: runs of at least as many are looked at only where a text begins like that
_TABLE_BITS = 24
_CHUNK = 1 << 22  # characters at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Distinct texts: the letters and digits of each, where its words begin in them, and which one each input is."""

    keys: tuple[str, ...]
    starts: tuple[tuple[int, ...], ...]  # of each key, from 0
    of: Ints  # [n_inputs], place in `keys`
    n_words: Ints  # [n_inputs]


def distinct(texts: Sequence[str]) -> Texts:
    """Return the distinct ones of these texts; one without a letter or digit counts as it is written."""
    places: dict[str, int] = {}
    starts: list[set[int]] = []
    of, n_words = np.empty(len(texts), dtype=np.int64), np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        found = _WORD.findall(text.casefold())
        words = found or [text.strip() or " "]
        of[i] = place = places.setdefault("".join(words), len(places))
        if place == len(starts):
            starts.append(set())
        starts[place].update(_begins(words))
        n_words[i] = len(found)
    return Texts(keys=tuple(places), starts=tuple(tuple(sorted(s)) for s in starts), of=of, n_words=n_words)


def pairs(texts: Texts) -> tuple[Ints, Ints]:
    """Return every (inner, outer) pair of distinct texts, the first standing inside the second: two arrays [m]."""
    sizes = np.array([len(key) for key in texts.keys], dtype=np.int64)
    longest = int(sizes.max(initial=0))
    power = _Powers.up_to(longest)
    whole, prefixes = [], []
    for places in _chunks(sizes):
        chunk = _Chunk.of(texts, places, power)
        whole.append(chunk.runs(chunk.first, chunk.end))
        long = sizes[places] >= _PREFIX
        prefixes.append(chunk.runs(chunk.first[long], chunk.first[long] + _PREFIX))
    known, beginnings = _Lookup(np.concatenate(whole or [_NONE])), _Lookup(np.concatenate(prefixes or [_NONE]))
    found = [_inside(_Chunk.of(texts, places, power), int(places[0]), known, beginnings) for places in _chunks(sizes)]
    inner, outer = (np.concatenate([f[side] for f in found] or [_NONE.astype(np.int64)]) for side in (0, 1))
    both = np.unique(inner * len(texts.keys) + outer)  # several times, where a text is repeated in another
    return both // len(texts.keys), both % len(texts.keys)


_NONE = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Powers:
    of_base: Hashes  # B^k
    of_inverse: Hashes  # B^-k

    @classmethod
    def up_to(cls, n: int) -> _Powers:
        def of(base: int) -> Hashes:
            factors = np.full(n + 1, base, dtype=np.uint64)
            factors[0] = 1
            return np.cumprod(factors, dtype=np.uint64)

        return cls(of_base=of(_BASE), of_inverse=of(pow(_BASE, -1, 1 << 64)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    """Some texts in a row, with the sums that the hash of any run of them is taken from."""

    sums: Hashes  # [n_chars + 1]
    local: Ints  # [n_chars + 1], place within its text
    inverse: Hashes
    first: Ints  # [n_texts], where each begins
    end: Ints  # [n_texts]
    word: Ints  # [n_words], where each begins
    owner: Ints  # [n_words], whose it is

    @classmethod
    def of(cls, texts: Texts, places: Ints, power: _Powers) -> _Chunk:
        keys = [texts.keys[i] for i in places]
        sizes = np.array([len(key) for key in keys], dtype=np.int64)
        end = np.cumsum(sizes)
        characters = np.frombuffer("".join(keys).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        local = np.arange(len(characters)) - np.repeat(end - sizes, sizes)
        terms = (characters.astype(np.uint64) + np.uint64(1)) * power.of_base[local]
        counts = np.array([len(texts.starts[i]) for i in places], dtype=np.int64)
        owner = np.repeat(np.arange(len(keys)), counts)
        begins = np.fromiter((s for i in places for s in texts.starts[i]), dtype=np.int64, count=int(counts.sum()))
        return cls(
            sums=np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)]),
            local=np.append(local, 0), inverse=power.of_inverse, first=end - sizes, end=end,
            word=begins + (end - sizes)[owner], owner=owner,
        )  # fmt: skip

    def runs(self, start: Ints, end: Ints) -> Hashes:
        """Return the hashes of the characters from each start to each end, within one text."""
        return (self.sums[end] - self.sums[start]) * self.inverse[self.local[start]]


class _Lookup:
    """Hashes, and where each is; a table of their first bits rules most others out."""

    def __init__(self, hashes: Hashes) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._table = np.zeros(1 << _TABLE_BITS, dtype=bool)
        self._table[self._cut(hashes)] = True

    def maybe(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        return self._table[self._cut(hashes)]

    def find(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """Return which of these are among the known ones, and their places there."""
        some = np.flatnonzero(self.maybe(hashes))
        at = np.minimum(np.searchsorted(self._sorted, hashes[some]), max(0, len(self._sorted) - 1))
        hit = self._sorted[at] == hashes[some] if len(self._sorted) else np.zeros(len(some), dtype=bool)
        return some[hit], self._order[at[hit]]

    @staticmethod
    def _cut(hashes: Hashes) -> Ints:
        return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)


def _inside(chunk: _Chunk, place: int, known: _Lookup, beginnings: _Lookup) -> tuple[Ints, Ints]:
    """Return (inner, outer) for the texts of one chunk as outer ones, the first of which has this place."""
    word, owner = chunk.word, chunk.owner
    word_end = np.append(word[1:], chunk.end[-1:])
    word_end = np.minimum(word_end, chunk.end[owner])
    room = np.flatnonzero(word + _PREFIX <= chunk.end[owner])
    begins = np.zeros(len(word), dtype=bool)
    begins[room] = beginnings.maybe(chunk.runs(word[room], word[room] + _PREFIX))
    last = np.searchsorted(owner, owner, side="right")  # one past the last word of the text
    inner, outer = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    alive, more = np.arange(len(word)), 0
    while len(alive):
        end = word_end[alive + more]
        keep = (end - word[alive] < _PREFIX) | begins[alive]
        alive, end = alive[keep], end[keep]
        which, found = known.find(chunk.runs(word[alive], end))
        mine = owner[alive[which]] + place
        inner.append(found[found != mine])
        outer.append(mine[found != mine])
        more += 1
        alive = alive[alive + more < last[alive]]
    return np.concatenate(inner), np.concatenate(outer)


def _chunks(sizes: Ints) -> Iterator[Ints]:
    """Yield places in a row, of about _CHUNK characters together."""
    group = np.cumsum(sizes) // _CHUNK
    for places in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(group)) + 1):
        if len(places):
            yield places


def _begins(words: Sequence[str]) -> Iterator[int]:
    at = 0
    for word in words:
        yield at
        at += len(word)
