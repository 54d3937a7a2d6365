"""QNLI: does a sentence answer a question? 104,743 / 5,463 (GLUE, arXiv:1804.07461, out of SQuAD)."""

from __future__ import annotations

from bench.tasks._base import Task

TASK = Task(
    name="qnli",
    labels=("entailment", "not_entailment"),
    metric="accuracy",
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="qnli",
    text_columns=("question", "sentence"),
    empty_texts=True,  # as published
    directories=("QNLI",),
)
