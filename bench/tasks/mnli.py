"""MNLI, matched: does a premise entail a hypothesis? 392,702 / 9,815 (Williams et al. 2018, arXiv:1704.05426; GLUE).

The TSVs name the label gold_label; the development file is dev_matched.tsv.
"""

from __future__ import annotations

from bench.tasks._base import Task, TsvLayout

TASK = Task(
    name="mnli",
    labels=("entailment", "neutral", "contradiction"),
    metric="accuracy",
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="mnli",
    text_columns=("premise", "hypothesis"),
    empty_texts=True,  # as published
    eval_split="validation_matched",
    tsv=TsvLayout(texts=("sentence1", "sentence2"), label="gold_label", eval="dev_matched"),
    directories=("MNLI",),
)
