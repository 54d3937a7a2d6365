"""A fixed text in plain English, written for this project: what a model may forget while it learns something else."""

from __future__ import annotations

from pathlib import Path


def text() -> str:
    """Return the text."""
    return (Path(__file__).parent / "harbour.txt").read_text(encoding="utf-8")
