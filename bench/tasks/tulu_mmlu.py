"""tulu-mmlu: 326,154 conversations of Tülu v2, scored on MMLU with five examples (MoRA, arXiv:2405.12130, Table 1)."""

from __future__ import annotations

from bench.tasks import _mmlu

TASK = _mmlu.task("tulu-mmlu", "allenai/tulu-v2-sft-mixture")
