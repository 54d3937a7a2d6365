"""CoLA: is a sentence acceptable English? 8,551 / 1,043 (Warstadt et al. 2018, arXiv:1805.12471; GLUE).

The TSV has no header line and four columns, the third being the linguist's star.
"""

from __future__ import annotations

from bench.tasks._base import Task, TsvLayout

TASK = Task(
    name="cola",
    labels=("unacceptable", "acceptable"),
    metric="matthews_correlation",
    other_metrics=("accuracy",),
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="cola",
    text_columns=("sentence",),
    tsv=TsvLayout(texts=("sentence",), header=("source", "label", "star", "sentence")),
    directories=("CoLA",),
)
