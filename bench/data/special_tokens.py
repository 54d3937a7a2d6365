"""The tokens that a tokenizer itself puts around a text, and how they are put there once and no more.

Which they are is read off the tokenizer's own answer, not off its `bos_token` and `eos_token`: SmolLM2 has both and
puts neither, Llama puts the first, BERT puts [CLS] and [SEP]. Nothing here imports transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Ids = Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What stands before and behind the tokens of a text, as ids, in order."""

    before: tuple[int, ...]
    behind: tuple[int, ...]

    def opens(self, ids: Ids) -> int:
        """Return how many of the first ids are the last of `before`: these are there already."""
        return _overlap(self.before, ids)

    def closes(self, ids: Ids) -> int:
        """Return how many of the last ids are the first of `behind`: these are there already."""
        return _overlap(ids, self.behind)


def frame_of(tokenizer: Any, texts: Iterable[str]) -> Frame:
    """Return what a fast tokenizer puts around a single text, seen on the first of the texts that has tokens.

    A text without tokens cannot tell the two sides apart: where all are such, everything counts as standing before.
    """
    around: list[int] = list(tokenizer("")["input_ids"])
    if not around:
        return Frame(before=(), behind=())
    for text in texts:
        inside = tokenizer(text, add_special_tokens=False)["input_ids"]
        if inside:
            coded = tokenizer(text, return_special_tokens_mask=True)
            whole, first = coded["input_ids"], coded["special_tokens_mask"].index(0)
            return Frame(before=tuple(whole[:first]), behind=tuple(whole[first + len(inside) :]))
    return Frame(before=tuple(around), behind=())


def prompted(
    frame: Frame, prompt: Ids, target: Ids, *, bos_id: int | None, end_id: int, max_prompt: int | None = None
) -> tuple[list[int], int]:
    """Return a prompt with its target as one sequence, and how many of its tokens stand before the target (>= 1).

    In front stands what the tokenizer puts there, less what the text begins with already; a begin token that the text
    brings itself stays where the prompt's beginning is cut off. Behind the target stands what the tokenizer puts there
    and, unless that holds it, the end token, less what the target ends with already. Without a token before it a text's
    first token cannot be predicted: it counts as prompt.
    """
    whole = [*prompt, *target]
    before = frame.before or ((bos_id,) if bos_id is not None and whole[:1] == [bos_id] else ())
    own = Frame(before=before, behind=frame.behind if end_id in frame.behind else (*frame.behind, end_id))
    there = own.opens(whole)
    prompt, target = prompt[there:], target[max(0, there - len(prompt)) :]
    if max_prompt is not None:
        prompt = prompt[-max_prompt:]
    head = [*before, *prompt]
    return [*head, *target, *own.behind[own.closes(target) :]], max(1, len(head))


def once(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, rows: Sequence[Ids]
) -> dict[int, list[int]]:
    """Return, for the examples whose texts bring tokens of the frame themselves, the places of the tokens to keep.

    `rows` are the ids of the texts, or of the pairs, as the tokenizer frames them; all others are as they should be.
    """
    frame = frame_of(tokenizer, texts)
    first, last = (tuple(tokenizer.convert_ids_to_tokens(list(side))) for side in (frame.before, frame.behind))
    ends = zip(texts, texts if pairs is None else pairs, strict=True)
    return {
        i: _kept(frame, rows[i], opens=text.startswith(first), closes=end.endswith(last))
        for i, (text, end) in enumerate(ends)
        if text.startswith(first) or end.endswith(last)
    }


def _kept(frame: Frame, ids: Ids, *, opens: bool, closes: bool) -> list[int]:
    start, stop = len(frame.before), len(ids) - len(frame.behind)
    first = start + (frame.opens(ids[start:stop]) if opens else 0)
    last = stop - (frame.closes(ids[first:stop]) if closes else 0)
    return [*range(start), *range(first, last), *range(stop, len(ids))]


def _overlap(first: Ids, second: Ids) -> int:
    """Return the largest k for which the last k of `first` are the first k of `second`."""
    most = min(len(first), len(second))
    return next((k for k in range(most, 0, -1) if list(first[-k:]) == list(second[:k])), 0)
