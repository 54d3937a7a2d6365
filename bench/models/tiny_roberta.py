"""tiny-roberta, shipped inside this package: RoBERTa, 3 layers, 96 wide, pretrained on text of the demo grammar."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(name="tiny-roberta", package="bench", directory="embedded/demo/tiny-roberta")
