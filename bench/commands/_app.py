"""The commands as one typer application; bench/cli.py runs it, docs/reference/commands.md is made of it."""

from __future__ import annotations

import typer

from bench import commands
from bench.core import registry


def app() -> typer.Typer:
    """Return the typer application: one command for each file in bench/commands."""
    # Option names may be written with - or _, as in PEFT and Hugging Face.
    settings = {"token_normalize_func": lambda name: name.replace("_", "-"), "help_option_names": ["-h", "--help"]}
    built = typer.Typer(
        help="Learning-rate sweeps of LoRA, LoRA+, MoRA and full fine-tuning.",
        add_completion=False,
        rich_markup_mode=None,
        context_settings=settings,
        pretty_exceptions_enable=False,
    )
    for name in registry.names(commands):
        built.command(name)(registry.load(commands, name, "command", where="command"))
    return built
