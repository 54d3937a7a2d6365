"""Data and models that are given as objects: written once, under the hash of what they hold, where sweeps find files.

A sweep is resumed and its winner is trained again from these files, so that they lie beside the results.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

DATA, MODELS = ".data", ".models"  # below the results directory
EVAL_SHARE = 0.1  # of data of one split
_TRAIN, _EVAL = ("train",), ("eval", "validation", "dev", "test")
_SET_BY_SAVING = ("architectures", "dtype", "transformers_version", "_name_or_path")  # in a model's config
_CONVERSATIONS = ("messages", "conversations")


def task_of(
    given: Any, eval_data: Any, *, text: str | Sequence[str] | None, label: str | None, directory: Path
) -> str | None:
    """Return the name or the path of a task: as it is given, or that of a task file written for data.

    Raises:
        BadInput: for an object that is no data, a column that is not there, and a split that is missing.
    """
    if given is None or isinstance(given, str | Path):
        for name, value in (("eval_data", eval_data), ("text", text), ("label", label)):
            if value is not None:
                rule = "goes with data as `task`; a named task has its own"
                raise BadInput(name, rule, way_out="leave it out, or give a DataFrame as task")
        return None if given is None else str(given)
    splits = _frames(given, eval_data)
    first = next(iter(splits.values()))
    columns = () if any(name in first.columns for name in _CONVERSATIONS) else _columns(first, text, label)
    train, evaluation = _split(splits)
    if not columns:
        return _conversations(train, evaluation, directory / DATA)
    labels = _labels([frame[columns[-1]] for frame in (train, evaluation)])
    frames = {name: _plain(frame, columns, labels, name) for name, frame in (("train", train), ("eval", evaluation))}
    return _write_task(frames, columns, labels, directory / DATA)


def model_of(given: Any, tokenizer: Any, *, directory: Path) -> str | None:
    """Return the name or the directory of a model: as it is given, or where a transformers model was saved.

    Raises:
        BadInput: for an object that is no model, and a model without its tokenizer.
    """
    if given is None or isinstance(given, str | Path):
        if tokenizer is not None:
            way_out = "leave it out, or give the model object with it"
            raise BadInput("tokenizer", "goes with a model object; a named model has its own", way_out=way_out)
        return None if given is None else str(given)
    if not hasattr(given, "save_pretrained") or not hasattr(given, "state_dict"):
        rule = "must be a name, a directory or a transformers model"
        raise BadInput("model", rule, got=type(given).__name__, way_out="give one of these")
    if tokenizer is None:
        raise BadInput("tokenizer", "must be given with a model object", way_out="give the model's tokenizer, too")
    digest = _weights_hash(given)
    stem = Path(str(getattr(given.config, "name_or_path", "")) or given.config.model_type).name
    target = directory / MODELS / f"{stem}-{digest[:8]}"

    def fill(made: Path) -> None:
        given.save_pretrained(made)
        tokenizer.save_pretrained(made)

    return str(_once(target, fill))


def _frames(given: Any, eval_data: Any) -> dict[str, pd.DataFrame]:
    """Return the splits that are given, "train" and, where it is, "eval", as DataFrames."""
    if not isinstance(given, Mapping):
        both = {"train": _frame(given, "task")}
        return both if eval_data is None else {**both, "eval": _frame(eval_data, "eval_data")}
    if eval_data is not None:
        raise BadInput("eval_data", "must not be given with a mapping of splits", way_out="leave it out")
    found = {}
    for wanted, names in (("train", _TRAIN), ("eval", _EVAL)):
        name = next((name for name in names if name in given), None)
        if name is None:
            got = ", ".join(map(str, given))
            raise BadInput("task", f"must have a split named {' or '.join(names)}", got=got, way_out="add it")
        found[wanted] = _frame(given[name], f"task[{name!r}]")
    return found


def _split(frames: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return training and evaluation split; of one split EVAL_SHARE is split off."""
    whole = frames["train"]
    if "eval" in frames:
        return whole, frames["eval"]
    is_eval = [_share(row) < EVAL_SHARE for row in whole.astype(str).to_dict("records")]
    train, evaluation = whole[[not one for one in is_eval]], whole[is_eval]
    if not len(train) or not len(evaluation):
        rule = f"must have enough rows for {EVAL_SHARE:.0%} of them to be split off"
        raise BadInput("task", rule, got=len(whole), way_out="give eval_data, or more rows")
    return train, evaluation


def _share(row: Mapping[Any, str]) -> float:
    """Return a number in [0, 1) that depends on a row's content alone: equal rows are in one split."""
    digest = hashlib.sha256(json.dumps(sorted(row.items(), key=str)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _frame(given: Any, where: str) -> pd.DataFrame:
    import pandas as pd

    if isinstance(given, pd.DataFrame):
        return given.reset_index(drop=True)
    if hasattr(given, "to_pandas") and hasattr(given, "features"):  # a datasets.Dataset
        frame: pd.DataFrame = given.to_pandas()
        for name, feature in given.features.items():
            names = getattr(feature, "names", None)
            if names is not None:
                frame[name] = [names[i] for i in frame[name]]
        return frame
    if isinstance(given, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in given):
        return pd.DataFrame([list(pair) for pair in given], columns=["text", "label"])
    rule = "must be a task's name, a DataFrame, a Dataset, a list of (text, label) pairs, or a mapping of splits"
    raise BadInput(where, rule, got=type(given).__name__, way_out="convert it")


def _columns(frame: pd.DataFrame, text: str | Sequence[str] | None, label: str | None) -> tuple[str, ...]:
    """Return the columns of the texts, then that of the label."""
    target = label or "label"
    texts = (text,) if isinstance(text, str) else tuple(text or [name for name in frame.columns if name != target][:1])
    for argument, name in (*(("text", name) for name in texts), ("label", target)):
        if name not in frame.columns:
            got = ", ".join(map(str, frame.columns))
            raise BadInput(argument, f"must be a column, as {name!r} is not", got=got, way_out=f"give {argument}=")
    if not texts:
        raise BadInput("text", "must be a column beside the label", way_out="give text=")
    return (*texts, target)


def _labels(columns: Sequence[pd.Series[Any]]) -> tuple[str, ...] | None:
    """Return the classes, sorted; None where labels are numbers with a fraction, to be predicted as numbers."""
    values = {value for column in columns for value in column.dropna().tolist()}
    if any(isinstance(value, float) and not value.is_integer() for value in values):
        return None
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return tuple(_word(value) for value in (sorted(values) if numeric else sorted(values, key=str)))


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _plain(
    frame: pd.DataFrame, columns: Sequence[str], labels: tuple[str, ...] | None, split: str
) -> pd.DataFrame:  # fmt: skip
    """Return the columns of a split as they are written: labels by name."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        got = ", ".join(map(str, frame.columns))
        raise BadInput(f"{split} split", f"must have a column {missing[0]}", got=got, way_out="name it alike")
    empty = [int(i) for i, bad in enumerate(frame[list(columns)].isna().any(axis=1)) if bad]
    if empty:
        rule = "must have no missing values"
        raise BadInput(f"{split} split", rule, got=f"row {empty[0]}", way_out="drop or fill them")
    plain = frame[list(columns)].copy()
    if labels is not None:
        plain[columns[-1]] = [_word(value) for value in plain[columns[-1]].tolist()]
    return plain


def _write_task(
    frames: Mapping[str, pd.DataFrame], columns: Sequence[str], labels: tuple[str, ...] | None, directory: Path
) -> str:
    digest = _frames_hash(frames)

    def fill(made: Path) -> None:
        for name, frame in frames.items():
            frame.to_parquet(made / f"{name}.parquet", index=False)
        lines = [f"name = {_toml(f'data-{digest[:8]}')}"]
        lines += ['kind = "regression"'] if labels is None else [f"labels = {_toml(list(labels))}"]
        lines += ["", "[files]", *(f'{name} = "{name}.parquet"' for name in frames)]
        lines += ["", "[columns]", f"text = {_toml(list(columns[:-1]))}", f"label = {_toml(columns[-1])}"]
        (made / "task.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return str(_once(directory / digest[:16], fill) / "task.toml")


def _conversations(train: pd.DataFrame, evaluation: pd.DataFrame, directory: Path) -> str:
    """Return the task file of conversations, written as JSON lines."""
    frames = {"train": train, "eval": evaluation}
    digest = _frames_hash(frames)

    def fill(made: Path) -> None:
        for name, frame in frames.items():
            frame.to_json(made / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
        lines = [f"name = {_toml(f'data-{digest[:8]}')}", 'kind = "chat"', "", "[files]"]
        lines += [f'{name} = "{name}.jsonl"' for name in frames]
        (made / "task.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return str(_once(directory / digest[:16], fill) / "task.toml")


def _frames_hash(frames: Mapping[str, pd.DataFrame]) -> str:
    digest = hashlib.sha256()
    for name, frame in frames.items():
        digest.update(f"{name}\n{frame.to_json(orient='split', index=False)}\n".encode())
    return digest.hexdigest()


def _weights_hash(model: Any) -> str:
    config = {key: value for key, value in model.config.to_dict().items() if key not in _SET_BY_SAVING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in model.state_dict().items():
        tensor = weight.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(_bytes()).numpy().tobytes())
    return digest.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def _once(target: Path, fill: Any) -> Path:
    """Return the directory, made whole in one step where it is not there yet."""
    target = target.absolute()
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".writing-"))
        fill(made)
        try:
            os.rename(made, target)
        except OSError:  # another process was first
            import shutil

            shutil.rmtree(made)
    return target


def _toml(value: Any) -> str:
    from bench.study.as_toml import value as toml_value

    return toml_value(value)
