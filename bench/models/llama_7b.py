"""Llama 7B: 32 layers, 4096 wide, 6.7 B parameters (Touvron et al. 2023, arXiv:2302.13971)."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(name="llama-7b", hub_id="huggyllama/llama-7b")
