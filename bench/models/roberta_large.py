"""RoBERTa-large: 24 layers, 1024 wide, 355 M parameters (Liu et al. 2019, arXiv:1907.11692)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(name="roberta-large", hub_id="FacebookAI/roberta-large")
