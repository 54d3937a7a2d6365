"""bench methods: every method, its source, the settings it reads and what a trained model of it leaves as."""

from __future__ import annotations

NOTE = """
leaves as: PEFT's ..., an adapter that PEFT loads; merged, the model with the updates in its weights; nothing, since the
adapter is not linear: no weights do the same, and it costs at inference what it costs in training"""


def command() -> int:
    """List the methods: source, what they can leave as, and the settings that they read beside the learning rate."""
    from bench import methods
    from bench.commands import _text
    from bench.core import keys

    every = sorted(map(methods.get, methods.names()), key=lambda method: (method.place, method.name))
    rows = []
    for method in every:
        reads = ", ".join(key for key in keys.GRID if key in method.reads)
        rows.append((method.name, method.source or "-", method.leaves_as, reads))
    print(_text.table(("method", "source", "leaves as", "reads"), rows))
    print(NOTE)
    return 0
