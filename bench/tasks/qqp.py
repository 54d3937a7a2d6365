"""QQP: do two questions ask the same? About 363,800 / 40,430 pairs (Quora; GLUE, arXiv:1804.07461).

A few rows of GLUE's own TSV are cut short, and every published loader leaves them out; so does this one, up to 32 a
file, which is below one row in ten thousand.
"""

from __future__ import annotations

from bench.tasks._base import Task, TsvLayout

TASK = Task(
    name="qqp",
    labels=("not_duplicate", "duplicate"),
    metric="accuracy",
    other_metrics=("f1",),
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="qqp",
    text_columns=("question1", "question2"),
    empty_texts=True,  # as published
    tsv=TsvLayout(texts=("question1", "question2"), label="is_duplicate", max_broken_rows=32),
    directories=("QQP",),
)
