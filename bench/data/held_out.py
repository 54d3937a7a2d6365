"""The part of train that is held out for choosing: whole groups of examples, drawn to look like the evaluation split.

1. Examples with a text in common (up to case and punctuation, see bench/data/containment.py) are a group: duplicates,
   and pairs that share a sentence. A sentence in more than CATEGORY of the pairs is a category, such as a question
   asked of every text, and joins none.
2. Groups are drawn one after the other, each for a length and a label: the lengths are quantiles of the evaluation
   split's, in words, the labels (of numbers: the fifths) have train's shares, both evenly spread by a Halton sequence.
   Of the groups of that label the nearest in length is taken, whole texts (that stand inside no other text of train)
   before fragments, then the one with the smallest hash of its texts: neither the order of the file nor a seed
   matters.
3. What stands inside a held-out text, or has a held-out text inside it, is left out of training, and is not drawn
   later. A fragment is passed over where that would be too much for one (MOST_FOR_ONE), and the draw ends where it
   would be too much in all (MOST_LEFT_OUT): then fewer are held out.

So no text that is trained on stands inside a held-out one, nor the other way round. The draw of n groups begins with
the draw of fewer, so holding out the number that came out gives the same examples again.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.core import cache
from bench.data import containment

if TYPE_CHECKING:
    from bench.data.splits import Split, TextData

Ints = npt.NDArray[np.int64]

BY = "groups of texts, lengths of the evaluation split (1)"  # a row's select_by: raised when the draw changes
MOST = 0.1  # of train is held out
MOST_LEFT_OUT = 0.25  # of train is left out for what is held out
MOST_FOR_ONE = (20, 0.01)  # examples, or this share of train if that is more, are left out for one fragment
CATEGORY = (20, 0.01)  # examples, or this share of train if that is more, may share a sentence of a pair
NEAR = (2, 0.25)  # words, or this share of the length if that is more, that a whole text may be off


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What of the training split is trained on, and what is held out for choosing: places in it, sorted."""

    train: Ints  # [n_train]
    select: Ints  # [n_select]
    n_left_out: int  # examples in neither

    @property
    def by(self) -> str | None:
        """How the held-out examples were chosen: a row's select_by; None where there are none."""
        return BY if len(self.select) else None


def hold_out(data: TextData, n_select: int, *, cache_dir: Path | None = None) -> HeldOut:
    """Return which training examples are held out: n_select of them, or as many as can be, a tenth at the most.

    Kept below `cache_dir` (default: `cache.cache_dir()`) by the texts, the labels and the number.
    """
    n = len(data.train)
    wanted = min(n_select, int(n * MOST))
    if not wanted:
        return HeldOut(train=np.arange(n), select=np.empty(0, dtype=np.int64), n_left_out=0)
    path = (cache_dir or cache.cache_dir()) / "held_out" / f"{_key(data, wanted)}.npy"
    part = _read(path, n)
    if part is None:
        part = _draw(data, wanted)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs the next sweep the draw, no more
            cache.write_atomic(path, lambda stream: np.save(stream, part, allow_pickle=False))
    return HeldOut(
        train=np.flatnonzero(part == _TRAIN),
        select=np.flatnonzero(part == _SELECT),
        n_left_out=int((part == _OUT).sum()),
    )


_TRAIN, _SELECT, _OUT = 0, 1, 2  # where an example goes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Groups:
    """The groups of the training examples."""

    members: tuple[Ints, ...]  # [n_groups] places in train
    rank: Ints  # [n_groups], 0 for the smallest hash of its texts
    length: Ints  # [n_groups] words, the mean of its examples
    label: Ints  # [n_groups], the commonest of its examples
    fragment: npt.NDArray[np.bool_]  # [n_groups], whether all of its texts stand inside others


@dataclass(frozen=True, kw_only=True, slots=True)
class _Overlaps:
    """Which texts an example has, and which texts stand inside which."""

    of: Ints  # [n_examples, 1 or 2], the texts of an example
    joins: npt.NDArray[np.bool_]  # [n_texts], False: a category
    examples: _Lists  # text -> examples
    beside: _Lists  # text -> texts inside it, and those it stands inside
    inside: npt.NDArray[np.bool_]  # [n_texts], whether it stands inside another

    def neighbours(self, members: Ints) -> Ints:
        """Return the examples that cannot be trained on where these are held out."""
        mine = np.unique(self.of[members])
        near = self.beside.of(mine[self.joins[mine]])
        return np.setdiff1d(self.examples.of(near), members)


class _Lists:
    """Lists of whole numbers, one for each of n keys, from (key, value) pairs."""

    def __init__(self, keys: Ints, values: Ints, n: int) -> None:
        self._values = values[np.argsort(keys, kind="stable")]
        self.sizes = np.bincount(keys, minlength=n)
        self._ends = np.cumsum(self.sizes)

    def of(self, keys: Ints) -> Ints:
        """Return the values of these keys, each once."""
        parts = [self._values[self._ends[key] - self.sizes[key] : self._ends[key]] for key in keys]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)


def _draw(data: TextData, wanted: int) -> npt.NDArray[np.int8]:
    """Return where each training example goes."""
    texts, n_words = _texts_of(data.train)
    overlaps = _overlaps(data.train, texts)
    groups = _groups(data.train, texts, n_words, overlaps)
    lengths = np.sort(_texts_of(data.eval)[1]) if len(data.eval) else np.sort(n_words)
    n = len(data.train)
    most, for_one = int(n * MOST_LEFT_OUT), _limit(MOST_FOR_ONE, n)
    part = np.full(n, _TRAIN, dtype=np.int8)
    n_held = n_out = 0
    for group in _order(groups, lengths):
        members = groups.members[group]
        if n_held + len(members) > wanted or (part[members] == _OUT).any():
            continue
        near = overlaps.neighbours(members)
        new = near[part[near] == _TRAIN]
        if groups.fragment[group] and len(new) > for_one:
            continue
        if n_out + len(new) > most:
            break  # from here on only what costs least would be drawn, which is not like the evaluation split
        part[members], part[new] = _SELECT, _OUT
        n_held, n_out = n_held + len(members), n_out + len(new)
        if n_held == wanted:
            break
    return part


def _order(groups: _Groups, lengths: Ints) -> Iterator[int]:
    """Yield every group that has words, in the order in which they are drawn, however many will be."""
    drawable = np.flatnonzero(groups.length > 0)
    shelves = {int(x): _Shelf(groups, drawable[groups.label[drawable] == x]) for x in np.unique(groups.label[drawable])}
    labels, sizes = list(shelves), np.array([len(members) for members in groups.members])
    shares = np.cumsum([sizes[groups.label == label].sum() for label in labels]) / sizes.sum()
    drawn = Counter[int]()
    for i in range(1, len(drawable) + 1):
        at = int(np.searchsorted(shares, _halton(i, 3), side="right"))
        label = next(label for label in (*labels[at:], *labels[:at]) if shelves[label].n_left)
        drawn[label] += 1
        quantile = _halton(drawn[label], 2)  # of each label the lengths of the evaluation split
        yield shelves[label].take(int(lengths[int(quantile * len(lengths))]))


class _Shelf:
    """Groups of one label by length, from which the nearest is taken."""

    def __init__(self, groups: _Groups, places: Ints) -> None:
        self.n_left = len(places)
        self._by: dict[bool, dict[int, list[int]]] = {False: {}, True: {}}
        for place in places[np.argsort(-groups.rank[places], kind="stable")]:  # the smallest hash last, to be popped
            self._by[bool(groups.fragment[place])].setdefault(int(groups.length[place]), []).append(int(place))
        self._lengths = {is_fragment: sorted(by_length) for is_fragment, by_length in self._by.items()}

    def take(self, length: int) -> int:
        """Take the group for a length: a whole text nearby, else the nearest of all."""
        whole = self._nearest(length, fragment=False)
        near = max(NEAR[0], int(NEAR[1] * length))
        fragment = None if whole is not None and abs(whole - length) <= near else self._nearest(length, fragment=True)
        is_fragment = fragment is not None and (whole is None or abs(fragment - length) < abs(whole - length))
        found = fragment if is_fragment else whole
        assert found is not None  # as n_left says
        shelf = self._by[is_fragment][found]
        if len(shelf) == 1:
            self._lengths[is_fragment].remove(found)
        self.n_left -= 1
        return shelf.pop()

    def _nearest(self, length: int, *, fragment: bool) -> int | None:
        """Return the length that is left nearest to this one, the shorter of two."""
        lengths = self._lengths[fragment]
        at = bisect.bisect_left(lengths, length)
        return min(lengths[max(0, at - 1) : at + 1], key=lambda other: abs(other - length), default=None)


def _halton(i: int, base: int) -> float:
    """Return the i-th number of the van der Corput sequence, i >= 1: any beginning of it fills [0, 1) evenly."""
    value, step = 0.0, 1.0
    while i:
        step /= base
        i, digit = divmod(i, base)
        value += digit * step
    return value


def _texts_of(split: Split) -> tuple[containment.Texts, Ints]:
    """Return the distinct texts, of first and then second texts, and the words of each example."""
    found = containment.distinct([*split.texts, *(split.pairs or ())])
    return found, found.n_words.reshape(-1, len(split)).sum(axis=0)


def _overlaps(train: Split, texts: containment.Texts) -> _Overlaps:
    n, n_texts = len(train), len(texts.keys)
    of = np.sort(texts.of.reshape(-1, n).T, axis=1)  # a pair of the same two sentences the other way round is the same
    once = np.ones_like(of, dtype=bool)
    once[:, 1:] = of[:, 1:] != of[:, :-1]
    examples = _Lists(of[once], np.nonzero(once)[0], n_texts)
    joins = examples.sizes <= (n if train.pairs is None else _limit(CATEGORY, n))
    inner, outer = containment.pairs(texts)
    count = joins[inner] & joins[outer]
    inner, outer = inner[count], outer[count]
    return _Overlaps(
        of=of,
        joins=joins,
        examples=examples,
        beside=_Lists(np.concatenate([inner, outer]), np.concatenate([outer, inner]), n_texts),
        inside=np.bincount(inner, minlength=n_texts) > 0,
    )


def _groups(train: Split, texts: containment.Texts, n_words: Ints, overlaps: _Overlaps) -> _Groups:
    """Join examples that have a text in common, or all of their texts."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, of = len(train), overlaps.of
    _, whole = np.unique(of, axis=0, return_inverse=True)
    text = np.where(overlaps.joins[of], of, -1)
    example = np.broadcast_to(np.arange(n)[:, None], of.shape)[text >= 0]
    # a graph of examples, their texts, and their texts taken together
    ends = np.concatenate([n + text[text >= 0], n + len(texts.keys) + whole.ravel()])
    starts = np.concatenate([example, np.arange(n)])
    size = n + len(texts.keys) + n
    graph = coo_array((np.ones(len(starts), dtype=np.int8), (starts, ends)), shape=(size, size))
    _, group = np.unique(connected_components(graph, directed=False)[1][:n], return_inverse=True)
    n_groups = int(group.max()) + 1
    sizes = np.bincount(group, minlength=n_groups)
    classes = _classes(train.labels)
    shares = np.zeros((n_groups, int(classes.max()) + 1), dtype=np.int64)
    np.add.at(shares, (group, classes), 1)
    fragment = (overlaps.inside & overlaps.joins)[of].any(axis=1)
    return _Groups(
        members=tuple(np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])),
        rank=np.argsort(np.argsort(_names(of, group, n_groups, texts))),
        length=np.rint(np.bincount(group, weights=n_words, minlength=n_groups) / sizes).astype(np.int64),
        label=shares.argmax(axis=1),
        fragment=np.bincount(group, weights=fragment, minlength=n_groups) == sizes,
    )


def _classes(labels: npt.NDArray[Any]) -> Ints:
    """Return the labels as classes: numbers by which fifth of them they lie in."""
    if labels.dtype.kind != "f":
        return labels.astype(np.int64)
    return np.searchsorted(np.quantile(labels, (0.2, 0.4, 0.6, 0.8)), labels, side="right")


def _names(of: Ints, group: Ints, n_groups: int, texts: containment.Texts) -> npt.NDArray[np.uint64]:
    """Return a hash of the texts of each group, which neither their order nor how often they come changes."""
    hashes = np.array(
        [
            int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest())
            for key in texts.keys
        ],
        dtype=np.uint64,
    )
    found = np.unique(np.stack([np.repeat(group, of.shape[1]), of.ravel()], axis=1), axis=0)
    names = np.zeros(n_groups, dtype=np.uint64)
    np.add.at(names, found[:, 0], hashes[found[:, 1]])
    return names


def _limit(rule: tuple[int, float], n: int) -> int:
    return max(rule[0], int(rule[1] * n))


def _key(data: TextData, wanted: int) -> str:
    from bench.data.splits import hash_data

    return hashlib.sha256(f"{BY} {wanted} {hash_data(data.train, data.eval)}".encode()).hexdigest()[:32]


def _read(path: Path, n: int) -> npt.NDArray[np.int8] | None:
    """Return where each example goes, or None where that is not kept or not whole."""
    try:
        part = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return part if part.shape == (n,) and part.dtype == np.int8 and part.max(initial=0) <= _OUT else None
