"""The study files: which one is meant, which ones it inherits from, and their tables as TOML gives them."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import tasks
from bench.core import rules
from bench.core.errors import BadInput, one_of

PACKAGE_DIR = Path(__file__).resolve().parents[1]
# Inside an installed package, beside it in a checkout: setup.py puts the one where the other was.
STUDIES_DIR = next(p for p in (PACKAGE_DIR / "studies", PACKAGE_DIR.parent / "studies") if p.is_dir())
DEFAULTS = "_default"  # studies/_default.toml: the grids of a task that has no study file of its own
DEFAULT_TASK = "demo"
BASE = "base"  # the key that names the study which a file inherits from


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFile:
    """One study file as it was parsed: `raw` without its base and its profiles."""

    path: Path
    shown: str  # its name in errors
    figure: str  # the comment on line 1
    base: str | None
    raw: Mapping[str, Any]
    profiles: Mapping[str, Mapping[str, Any]]


def find(path_or_name: str | Path | None, task: str | None, studies_dir: Path) -> Path:
    """Return the study file: the one that is named, else the task's own, else that of the defaults."""
    if path_or_name is None:
        name = task or DEFAULT_TASK
        own = studies_dir / f"{name}.toml"
        if rules.NAME.fullmatch(name) and own.is_file():
            return own
        return studies_dir / f"{tasks.get(name, where='--task').default_study}.toml"
    given = str(path_or_name)
    if given.endswith(".toml"):
        return Path(given)
    rules.plain_name(given, "--study")
    path = studies_dir / f"{given}.toml"
    if not path.is_file():
        way_out = f"known: {one_of(names(studies_dir))}; or give the path of a .toml file"
        raise BadInput("--study", "must be a study", got=rules.shown(given), way_out=way_out)
    return path


def names(studies_dir: Path = STUDIES_DIR) -> tuple[str, ...]:
    """Return the sorted names of the study files; files whose name begins with _ are not studies."""
    return tuple(sorted(path.stem for path in studies_dir.glob("*.toml") if not path.name.startswith("_")))


def chain(path: Path, studies_dir: Path) -> tuple[StudyFile, ...]:
    """Return a study file and its bases, the base of all others first.

    Raises:
        BadInput: for a file that is no TOML, a base that is not there, and bases that lead back to one of their own.
    """
    files = [read(path, shown_as(path, studies_dir))]
    while files[-1].base is not None:
        at = _base(files[-1], studies_dir)
        files.append(read(at, shown_as(at, studies_dir)))
        if os.path.realpath(at) in {os.path.realpath(file.path) for file in files[:-1]}:
            got = " -> ".join(file.path.stem for file in files)
            rule, way_out = "must not lead back to a file of the chain", "take one base out"
            raise BadInput(f"{files[-2].shown} {BASE}", rule, got=got, way_out=way_out)
    return tuple(reversed(files))


def read(path: Path, shown: str) -> StudyFile:
    """Return a study file's tables, unchecked as yet, and the comment on its first line."""
    raw, figure = _parse(path, shown)
    base = rules.word(raw.pop(BASE), f"{shown} {BASE}") if BASE in raw else None
    of_profiles = _profiles(raw.pop("profile", {}), shown)
    return StudyFile(path=path, shown=shown, figure=figure, base=base, raw=raw, profiles=of_profiles)


def _base(file: StudyFile, studies_dir: Path) -> Path:
    """Return the path of a file's base: a path from the file's directory, or a name there or in `studies_dir`."""
    base, beside = str(file.base), file.path.parent
    directories = (beside, studies_dir)
    if base.endswith(".toml"):
        found = [beside / os.path.expanduser(base)]
    else:
        found = [directory / f"{base}.toml" for directory in directories if "/" not in base]
    for path in found:
        if os.path.isfile(path):
            return path
    known = {path.stem for directory in directories for path in directory.glob("*.toml")} - {file.path.stem}
    near = difflib.get_close_matches(base, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    way_out = f"{hint}give the path of a .toml file, from this file's directory on, or one of {one_of(known)}"
    raise BadInput(f"{file.shown} {BASE}", "must be another study", got=rules.shown(base), way_out=way_out)


def _parse(path: Path, shown: str) -> tuple[dict[str, Any], str]:
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


def _profiles(raw: object, shown: str) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(raw, dict):
        raise BadInput(
            f"{shown} profile", "must be tables", got=rules.shown(raw), way_out="write [profile.quick] and keys below"
        )
    for name, table in raw.items():
        rules.choice(*rules.PROFILES)(name, f"{shown} [profile]")
        if not isinstance(table, dict):
            raise BadInput(
                f"{shown} [profile].{name}", "must be a table", got=rules.shown(table), way_out="write [profile.quick]"
            )
    return raw


def shown_as(path: Path, studies_dir: Path) -> str:
    """Return the path as it is named in errors: short for our own studies, as given for others."""
    return f"studies/{path.name}" if path.parent == studies_dir else str(path)
