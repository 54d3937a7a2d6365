"""MRPC: do two sentences mean the same? 3,668 / 408 (Dolan and Brockett 2005; GLUE).

The TSV begins with a byte-order mark and holds quotes that are part of the text.
"""

from __future__ import annotations

from bench.tasks._base import Task, TsvLayout

TASK = Task(
    name="mrpc",
    labels=("not_equivalent", "equivalent"),
    metric="accuracy",
    other_metrics=("f1",),
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="mrpc",
    text_columns=("sentence1", "sentence2"),
    empty_texts=True,  # as published
    tsv=TsvLayout(texts=("#1 String", "#2 String"), label="Quality"),
    directories=("MRPC",),
)
