"""What is needed to run a study again, off its rows: settings, versions, devices, hashes."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from bench.core.spec import Study
from bench.report.data import Repeat, Source


def of_rows(rows: pd.DataFrame, study: Study, source: Source) -> Repeat:
    """Return it of the study's trials, those without a row (status missing) included."""
    ran, budget = rows[rows["status"].notna()], study.budget
    times = sorted(ran["started_at"].dropna())
    names = [name for name in budget.__slots__ if name != "n_select"]
    return Repeat(
        command=source.command,
        study_file=source.study_file,
        compare_command=source.compare_command,
        toml=source.toml,
        profile=study.profile,
        settings=tuple((name, str(getattr(budget, name))) for name in (*names, "n_select")),
        seeds=study.seeds,
        commits=tuple(sorted({
            f"{commit}{'+' if dirty is True or dirty == 1 else ''}"
            for commit, dirty in zip(ran["git_commit"], ran["git_dirty"], strict=True)
            if isinstance(commit, str)
        })),
        source_hashes=_distinct(ran, "source_hash"),
        versions=tuple(_spell(text) for text in _distinct(ran, "versions")),
        devices=_distinct(ran, "device"),
        held_out=_held_out(ran),
        data_hashes=_distinct(rows, "data_hash"),
        model_hashes=_distinct(rows, "model_hash"),
        started=(times[0], times[-1]) if times else None,
    )  # fmt: skip


def _held_out(ran: pd.DataFrame) -> tuple[str, ...]:
    """Return in words what was held out of train for choosing: one text, or several where rows differ."""
    names = ("n_select", "select_by", "n_left_out")
    if ran.empty or "n_select" not in ran:
        return ()
    found = ran.reindex(columns=names).drop_duplicates().itertuples(index=False)
    return tuple(sorted(_held_out_of(*map(_known, row)) for row in found))


def _held_out_of(n: Any, by: Any, n_left_out: Any) -> str:
    if n is not None and not n:
        return "none"
    size = "a number that the rows do not tell" if n is None else f"{int(n):,} training examples"
    how = "how they were drawn is not in the rows" if by is None else f"drawn by {by}"
    left = f", {int(n_left_out):,} that overlap with them left out" if n_left_out else ""
    return f"{size}, {how}{left}"


def _known(value: Any) -> Any:
    return None if pd.isna(value) else value


def _spell(versions: str) -> str:
    found = json.loads(versions)
    return ", ".join(f"{name} {version}" for name, version in found.items()) if isinstance(found, dict) else versions


def _distinct(rows: pd.DataFrame, name: str) -> tuple[str, ...]:
    return tuple(sorted(str(value) for value in rows[name].dropna().unique()))
