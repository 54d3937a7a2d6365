"""A tokenizer's own chat template, read off its files without transformers."""

from __future__ import annotations

import json

from bench.models._base import Located

FILE = "chat_template.jinja"


def chat_template(located: Located) -> str | None:
    """Return the default chat template, as transformers' `get_chat_template()` gives it; None where there is none.

    A file of its own goes before the key of tokenizer_config.json; of several that the key names, it is `default`.
    """
    own, config = located.directory / FILE, located.directory / "tokenizer_config.json"
    if own.is_file():
        return own.read_text("utf-8")
    found = json.loads(config.read_text("utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found if isinstance(found, str) else None
