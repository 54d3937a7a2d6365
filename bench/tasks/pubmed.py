"""pubmed: going on with pretraining on abstracts of PubMed, scored by perplexity (MoRA, arXiv:2405.12130, Table 1).

The paper takes those of the Pile (Gao et al. 2020, arXiv:2101.00027), which the Hub has no data set of that can be read
without code of its own. So the files must be given: <data_dir>/pubmed/{train,eval}.jsonl with the Pile's column `text`.
"""

from __future__ import annotations

from bench.data import causal
from bench.data.causal import Layout
from bench.tasks._base import Task

TASK = Task(
    name="pubmed",
    kind=causal.KIND,
    metric="perplexity",
    default_model="llama2-7b",
    eval_split="eval",
    causal=Layout(target="text"),
)
