"""The one error for bad input, in the one form: where: the rule that must hold, but got X; the way out."""

from __future__ import annotations


class BadInput(Exception):
    """Something the user wrote or pointed at breaks a rule; the command line prints it as one line and exits with 2.

    `where` names file, table and key (or the command-line option); `rule` says what must hold; `got` is what was
    found, already formatted (omit it where nothing was found); `way_out` tells what to do about it.
    """

    def __init__(self, where: str, rule: str, *, got: object | None = None, way_out: str) -> None:
        self.where, self.rule, self.got, self.way_out = where, rule, got, way_out
        found = "" if got is None else f", but got {got}"
        super().__init__(one_line(f"{where}: {rule}{found}; {way_out}"))

    def at(self, where: str) -> BadInput:
        """Return the same refusal with another name for the place."""
        return BadInput(where, self.rule, got=self.got, way_out=self.way_out)


def one_line(text: str) -> str:
    """Return `text` with every run of white space, line breaks included, folded into one space.

    What cannot be printed is shown as an escape, so that what a file holds never steers the terminal that reads of it.
    """
    folded = " ".join(text.split())
    if folded.isprintable():
        return folded
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in folded)


def one_of(names: object) -> str:
    """Return the sorted names as `a, b, c`, for the way out of an unknown name."""
    return ", ".join(sorted(str(name) for name in names))  # type: ignore[attr-defined]
