"""The study files: which one is meant, and its tables as TOML gives them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import tasks
from bench.errors import BadInput, one_of
from bench.settings import fields

STUDIES_DIR = Path(__file__).resolve().parents[2] / "studies"
DEFAULTS = "_default"  # studies/_default.toml: the grids of a task that has no study file of its own
DEFAULT_TASK = "demo"


def find(path_or_name: str | Path | None, task: str | None, studies_dir: Path) -> Path:
    """Return the study file: the one that is named, else the task's own, else that of the defaults."""
    if path_or_name is None:
        name = task or DEFAULT_TASK
        own = studies_dir / f"{name}.toml"
        if fields.NAME.fullmatch(name) and own.is_file():
            return own
        tasks.get(name, where="--task")
        return studies_dir / f"{DEFAULTS}.toml"
    given = str(path_or_name)
    if given.endswith(".toml"):
        return Path(given)
    fields.plain_name(given, "--study")
    path = studies_dir / f"{given}.toml"
    if not path.is_file():
        way_out = f"known: {one_of(names(studies_dir))}; or give the path of a .toml file"
        raise BadInput("--study", "must be a study", got=fields.shown(given), way_out=way_out)
    return path


def names(studies_dir: Path = STUDIES_DIR) -> tuple[str, ...]:
    """Return the sorted names of the study files; files whose name begins with _ are not studies."""
    return tuple(sorted(path.stem for path in studies_dir.glob("*.toml") if not path.name.startswith("_")))


def parse(path: Path, shown: str) -> tuple[dict[str, Any], str]:
    """Return the tables of a TOML file, and the comment on its first line."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(shown, "must be a readable UTF-8 file", got=_reason(error), way_out="check the path") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise BadInput(shown, "must be TOML", got=_reason(error), way_out="mend that line") from None
    first = text.partition("\n")[0].strip()
    return raw, first.lstrip("# ") if first.startswith("#") else ""


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def profiles(raw: object, shown: str) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(raw, dict):
        raise BadInput(
            f"{shown} profile", "must be tables", got=fields.shown(raw), way_out="write [profile.quick] and keys below"
        )
    for name, table in raw.items():
        fields.choice(*fields.PROFILES)(name, f"{shown} [profile]")
        if not isinstance(table, dict):
            raise BadInput(
                f"{shown} [profile].{name}", "must be a table", got=fields.shown(table), way_out="write [profile.quick]"
            )
    return raw


def shown_as(path: Path, studies_dir: Path) -> str:
    """Return the path as it is named in errors: short for our own studies, as given for others."""
    return f"studies/{path.name}" if path.parent == studies_dir else str(path)
