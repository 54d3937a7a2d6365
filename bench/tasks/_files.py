"""Reading one split out of a TSV, CSV, JSONL or parquet file, each example checked where it stands."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import BadInput, one_of
from bench.data.splits import Split
from bench.tasks._base import TsvLayout

Row = tuple[int, tuple[Any, ...]]  # line (or row, in parquet) from 1, and the values of the wanted columns
MAX_FIELD = 1 << 24  # characters of one CSV field


def read_split(
    path: Path, layout: TsvLayout, plain: TsvLayout, labels: tuple[str, ...] | None, *, empty_texts: bool = False
) -> Split:
    """Return the examples of one file, in its order.

    `layout` is how a TSV file lies; `plain` names the columns of the other formats, and of a TSV with those columns
    in its header line. Without `labels` the labels are numbers.

    Raises:
        BadInput: with file and line, for a malformed row, a missing column, a label outside `labels`, an empty text
            unless `empty_texts`, or no row.
    """
    unit = "row" if path.suffix == ".parquet" else "line"
    rows = _rows(path, layout, plain)
    place = lambda line: f"{path} {unit} {line}" if line else str(path)  # noqa: E731
    return to_split(rows, len(plain.texts), labels, place, empty_texts=empty_texts)


def read_prompts(path: Path, layout: TsvLayout, *, empty_texts: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (prompt, target) of one file, in its order; `layout` names no or one text column, and the target as label.

    Raises:
        BadInput: with file and line, for a malformed row, a missing column, no text, an empty target, an empty prompt
            unless `empty_texts`, or no row.
    """
    unit = "row" if path.suffix == ".parquet" else "line"
    place = lambda line: f"{path} {unit} {line}" if line else str(path)  # noqa: E731
    return to_prompts(_rows(path, layout, layout), place, empty_texts=empty_texts)


def read_columns(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield number and values of each row of a file that names its columns, whatever the values are.

    Raises:
        BadInput: with file and line, for a malformed row or a missing column.
    """
    layout = TsvLayout(texts=columns[:-1], label=columns[-1])
    return _rows(path, layout, layout)


def to_prompts(
    rows: Iterable[Row], place: Callable[[int], str], *, empty_texts: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield checked (prompt, target) rows; the prompt is empty where a row holds the target only."""
    found = False
    for line, values in rows:
        for text in values:
            _check_text(text, place, line)
        if not empty_texts and not all(text.strip() for text in values[:-1]):
            raise _empty("a prompt", place(line))
        if not values[-1]:
            raise BadInput(place(line), "a target must not be empty", way_out="mend the row or leave it out")
        found = True
        yield (values[0] if len(values) > 1 else "", values[-1])
    if not found:
        raise BadInput(place(0), "must hold at least one example", got="none", way_out="give a split with examples")


def to_split(
    rows: Iterable[Row], n_texts: int, labels: tuple[str, ...] | None, place: Callable[[int], str], *,
    empty_texts: bool = False,
) -> Split:  # fmt: skip
    """Return checked examples as a Split; each row holds `n_texts` texts and the label, `place` names its source."""
    value_of, rule = (_number, "a label must be a finite number") if labels is None else _classes(labels)
    texts: list[tuple[str, ...]] = []
    found: list[int | float] = []
    for line, (*row_texts, label) in rows:
        for text in row_texts:
            _check_text(text, place, line)
        if not empty_texts and not all(text.strip() for text in row_texts):
            raise _empty("a text", place(line))
        value = None if isinstance(label, bool) else value_of(label)
        if value is None:
            raise BadInput(place(line), rule, got=repr(label), way_out=_SECRET if label in (-1, "-1") else _MEND)
        texts.append(tuple(row_texts))
        found.append(value)
    if not found:
        raise BadInput(place(0), "must hold at least one example", got="none", way_out="give a split with examples")
    if labels is None and set(found) == {-1}:
        raise BadInput(place(0), "labels must be given", got="-1 for every example", way_out=_SECRET)
    columns = tuple(zip(*texts, strict=True))
    pairs = columns[1] if n_texts == 2 else None
    dtype = np.float64 if labels is None else np.int64
    return Split(texts=columns[0], pairs=pairs, labels=np.array(found, dtype=dtype))


def _check_text(text: object, place: Callable[[int], str], line: int) -> None:
    if not isinstance(text, str) or not encodable(text):
        got = repr(text)[:80]
        raise BadInput(place(line), "a text must be a string", got=got, way_out="mend the row or leave it out")


def _empty(what: str, where: str) -> BadInput:
    way_out = "mend the row or leave it out, or set empty_texts = true in the task's TOML"
    return BadInput(where, f"{what} must not be empty", way_out=way_out)


def _classes(labels: tuple[str, ...]) -> tuple[Callable[[object], int | None], str]:
    """Return what reads a class, and the rule that it must keep."""
    index_of = label_indices(labels)

    def index(label: object) -> int | None:
        return index_of.get(str(label)) if isinstance(label, str | int) else None

    return index, f"label must be one of {', '.join(index_of)}"


def _number(label: object) -> float | None:
    try:
        value = float(label) if isinstance(label, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


_MEND = "mend the row, or the task's labels"
_SECRET = "use a split with labels: -1 stands for one that is kept secret, as in GLUE's test splits"


def label_indices(labels: tuple[str, ...]) -> Mapping[str, int]:
    """Return what may stand for each label: its name, and its index unless the names are numbers themselves."""
    by_name = {name: index for index, name in enumerate(labels)}
    if any(name.lstrip("-").isdecimal() for name in labels):
        return by_name
    return {**by_name, **{str(index): index for index in range(len(labels))}}


def encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8: JSON may hold half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rows(path: Path, layout: TsvLayout, plain: TsvLayout) -> Iterator[Row]:
    wanted = (*plain.texts, plain.label)
    match path.suffix:
        case ".tsv":
            return _read_tsv(path, layout, plain)
        case ".csv":
            return _read_csv(path, wanted)
        case ".jsonl":
            return _read_jsonl(path, wanted)
        case ".parquet":
            return _read_parquet(path, wanted)
        case _:
            rule = "must end in .tsv, .csv, .jsonl or .parquet"
            raise BadInput(str(path), rule, got=path.suffix or "no ending", way_out="rename or convert it")


def _read_tsv(path: Path, layout: TsvLayout, plain: TsvLayout) -> Iterator[Row]:
    """Yield the rows of a TSV as GLUE writes them: a tab always separates, a quote is a character like any other."""
    # Not splitlines: it also breaks at characters that occur inside texts, such as U+2028 and U+0085.
    lines = _text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    first = lines[0].rstrip("\r").split("\t") if lines else []
    if {*plain.texts, plain.label} <= set(first):
        layout = TsvLayout(texts=plain.texts, label=plain.label)
    header = layout.header if layout.header is not None else tuple(first)
    places = _places(path, header, (*layout.texts, layout.label))
    broken = 0
    for number, line in enumerate(lines, start=1):
        if number == 1 and layout.header is None:
            continue
        values = line.rstrip("\r").split("\t")
        if len(values) < len(header) and broken < layout.max_broken_rows:
            broken += 1
            continue
        if len(values) != len(header):
            rule = f"must have {len(header)} tab-separated fields ({', '.join(header)})"
            raise BadInput(f"{path} line {number}", rule, got=len(values), way_out="mend the row or leave it out")
        yield number, tuple(values[place] for place in places)


def _read_csv(path: Path, wanted: tuple[str, ...]) -> Iterator[Row]:
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    line = 1
    try:
        header = tuple(next(reader, ()))
        places = _places(path, header, wanted)
        line = reader.line_num + 1
        for values in reader:
            if len(values) != len(header):
                rule = f"must have {len(header)} comma-separated fields ({', '.join(header)})"
                raise BadInput(f"{path} line {line}", rule, got=len(values), way_out="mend the row or leave it out")
            yield line, tuple(values[place] for place in places)
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(f"{path} line {line}", "must be CSV", got=str(error), way_out="mend the quotes") from None


def read_either(path: Path, columns: tuple[str, ...], optional: str) -> Iterator[Row]:
    """Yield number and two values of each row of a JSONL or parquet file, whatever they are.

    They are that of the first of `columns` that there is, and the one called `optional`, None where there is none.

    Raises:
        BadInput: with file and line, for a malformed row, and where there is none of the columns.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with contextlib.suppress(OSError, ValueError):  # what it cannot read is told where the rows are read
            names = pq.read_schema(path).names
            columns = next(((name,) for name in columns if name in names), columns[:1])
            if optional in names:
                return _read_parquet(path, (*columns, optional))
        return ((number, (*values, None)) for number, values in _read_parquet(path, columns[:1]))
    return _either_of(path, columns, optional)


def _either_of(path: Path, columns: tuple[str, ...], optional: str) -> Iterator[Row]:
    for number, where, value in _objects(path):
        name = next((name for name in columns if name in value), columns[0])
        _places(Path(where), tuple(value), (name,))
        yield number, (value[name], value.get(optional))


def _read_jsonl(path: Path, wanted: tuple[str, ...]) -> Iterator[Row]:
    for number, where, value in _objects(path):
        _places(Path(where), tuple(value), wanted)
        yield number, tuple(value[name] for name in wanted)


def _objects(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield number, place in words and content of each line of a JSONL file."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise BadInput(where, "must be a JSON object", got=str(error), way_out="mend the line") from None
        if not isinstance(value, dict):
            raise BadInput(where, "must be a JSON object", got=type(value).__name__, way_out="mend the line")
        yield number, where, value


def _read_parquet(path: Path, wanted: tuple[str, ...]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _places(path, tuple(file.schema_arrow.names), wanted)
            table = file.read(columns=list(wanted))
            table.validate(full=True)  # text that is no UTF-8
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(str(path), "must be a parquet file", got=str(error), way_out="write it again") from None
    columns = [table[name].to_pylist() for name in wanted]
    return ((number, values) for number, values in enumerate(zip(*columns, strict=True), start=1))


def _places(path: Path, header: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    missing = [name for name in wanted if name not in header]
    if missing:
        got = f"only {one_of(header)}" if any(header) else "no columns"
        way_out = "name the columns as the task does, or describe the file in a task TOML"
        raise BadInput(str(path), f"must have a column {missing[0]}", got=got[:300], way_out=way_out)
    return [header.index(name) for name in wanted]


def _text(path: Path) -> str:
    """Return the file's text, without a byte-order mark."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(str(path), "must be readable", got=error.strerror, way_out="check the path") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path} line {line}", "must be UTF-8", got=error.reason, way_out="convert the file to UTF-8"
        ) from None
