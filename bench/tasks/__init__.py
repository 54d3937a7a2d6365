"""The tasks: one file each, named as in studies and rows; this directory is the registry.

A file defines `TASK`, a `Task` (see `_base.py`). Files whose name begins with `_` are not tasks. A name that ends in
.toml is the path of a user's own task (see `_custom.py`), one that ends in .jsonl or .parquet that of a file of
conversations (see `_chat.py`). A file with `sized(n) -> Task` stands for a task of every
size: `uuid-1024` is `sized(1024)` of uuid.py. `datasets` is imported only where data comes from the Hub.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from bench.core import registry
from bench.core.errors import BadInput
from bench.data.splits import TextData
from bench.data.toy import ToyData
from bench.tasks._base import CONVERSATIONS, TEXT_CLASSIFICATION, Task, TsvLayout

__all__ = ["TEXT_CLASSIFICATION", "Task", "TsvLayout", "get", "load", "names"]


def names() -> tuple[str, ...]:
    """Return the names of all registered tasks, sorted."""
    return registry.names(sys.modules[__name__])


def get(name: str, *, where: str = "task") -> Task:
    """Return the task called `name`, or described by the TOML file at that path; BadInput if there is none."""
    if name.endswith(".toml"):
        from bench.tasks import _custom

        return _custom.read_task(Path(name), where=where)
    if name.endswith(CONVERSATIONS):
        from bench.tasks import _custom

        return _custom.of_conversations(Path(name), where=where)
    stem, _, size = name.rpartition("-")
    if re.fullmatch(r"[1-9]\d{0,6}", size) and stem in names():
        sized: Callable[[int], Task] | None = getattr(registry.module(sys.modules[__name__], stem), "sized", None)
        if sized is not None:
            return sized(int(size))
    if "/" in name or "\\" in name or (Path(name).suffix and name not in names()):
        rule = f"must be a task here, a task's .toml, or conversations in a {' or '.join(CONVERSATIONS)} file"
        raise BadInput(where, rule, got=name, way_out="describe other files in a task TOML")
    task: Task = registry.load(sys.modules[__name__], name, "TASK", where=where)
    return task


def load(task: Task, data_dir: Path | None = None) -> TextData | ToyData:
    """Return the data of a task, of the type that goes with its kind.

    Looked for in `<data_dir>/<name>/`, then the Hugging Face cache, then the Hub; a task with `read` reads its own.

    Raises:
        BadInput: where the data is missing, malformed or out of reach.
    """
    if task.read is not None:
        return task.read(data_dir)
    from bench.tasks import _load

    return _load.load(task, data_dir)
