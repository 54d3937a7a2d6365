"""SST-2: sentiment of movie-review sentences and phrases, 67,349 / 872 (Socher et al. 2013; GLUE, arXiv:1804.07461)."""

from __future__ import annotations

from bench.tasks._base import Task

TASK = Task(
    name="sst2",
    labels=("negative", "positive"),
    metric="accuracy",
    default_model="roberta-base",
    hub_id="nyu-mll/glue",
    hub_config="sst2",
    text_columns=("sentence",),
    directories=("SST-2",),
)
