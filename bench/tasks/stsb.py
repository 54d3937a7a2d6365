"""STS-B: how alike are two sentences, from 0 to 5? 5,749 / 1,500 pairs (Cer et al. 2017, arXiv:1708.00055; GLUE).

A task of numbers: one output, trained by the squared error. GLUE quotes Pearson's and Spearman's correlation.
"""

from __future__ import annotations

from bench.tasks._base import REGRESSION, Task, TsvLayout

TASK = Task(
    name="stsb",
    kind=REGRESSION,
    metric="pearson",
    other_metrics=("spearman", "mse"),
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="stsb",
    text_columns=("sentence1", "sentence2"),
    tsv=TsvLayout(texts=("sentence1", "sentence2"), label="score"),
    directories=("STS-B",),
)
