"""RoBERTa-base: 12 layers, 768 wide, 125 M parameters (Liu et al. 2019, arXiv:1907.11692)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(name="roberta-base", hub_id="FacebookAI/roberta-base")
