"""tiny-decoder, shipped inside this package: Llama, 2 layers, 64 wide, a token a character, pretrained on UUIDs."""

from __future__ import annotations

from bench.models._base import Model

MODEL = Model(name="tiny-decoder", package="bench", directory="embedded/uuids/tiny-decoder")
