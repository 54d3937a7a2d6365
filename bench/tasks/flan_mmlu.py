"""flan-mmlu: 100,000 examples of FLAN v2, scored on MMLU with five examples (LoRA+, arXiv:2402.12354, appendix C.1.4).

The paper names no copy of its subset; this is the one of 100,000 in the first Tülu mixture (arXiv:2306.04751).
"""

from __future__ import annotations

from bench.tasks import _mmlu

TASK = _mmlu.task("flan-mmlu", "allenai/tulu-v1-sft-mixture", only="flan_v2")
