"""RTE: does one text entail another? 2,490 / 277 (the PASCAL challenges; GLUE, arXiv:1804.07461)."""

from __future__ import annotations

from bench.tasks._base import Task

TASK = Task(
    name="rte",
    labels=("entailment", "not_entailment"),
    metric="accuracy",
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="rte",
    text_columns=("sentence1", "sentence2"),
    empty_texts=True,  # as published
    directories=("RTE",),
)
