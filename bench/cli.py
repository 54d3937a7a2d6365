"""The command line: python -m bench <command> [options]; parsing and printing only.

Each command is a file in bench/commands. Exit codes: 0 done; 1 some trials failed; 2 bad input, told in one line;
130 interrupted, everything finished is kept. `<command> --make VARIABLE=value ...` is how the Makefile calls it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer
import typer.main
from typer.exceptions import TyperException

from bench.commands import _make
from bench.commands._app import app
from bench.core.errors import BadInput, one_line

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
# Turns that a thread of libgomp waits at a barrier before it sleeps, 300,000 by default. Where other processes hold a
# core, each parallel loop waits that long and holds the core that the awaited thread needs (docs/log.md).
SPIN_COUNT = 2000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; bad input is one line on stderr."""
    args = list(sys.argv[1:] if argv is None else argv)
    _settle_threads()
    if not args:
        app()(args=["--help"], prog_name="python -m bench", standalone_mode=False)
        return BAD_INPUT
    try:
        group = typer.main.get_command(app())
        if args[1:2] == ["--make"] and args[0] in group.commands:  # type: ignore[attr-defined]
            args = [args[0], *_make.arguments(group.commands, args[0], args[2:], os.environ)]  # type: ignore[attr-defined]
        code = group(args=args, prog_name="python -m bench", standalone_mode=False)
    except BadInput as error:
        return _say(str(error), BAD_INPUT)
    except TyperException as error:
        return _say(f"{error.format_message().rstrip('.')}; see python -m bench --help", BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; everything finished is kept", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output left, as `| head` does: nothing more can be said to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("bench", "plots"):
            raise
        return _say(f"the package {error.name} must be installed; run make setup", BAD_INPUT)
    return int(code or DONE)


def _settle_threads() -> None:
    """Let waiting threads sleep soon, unless the environment says how they wait; before torch loads libgomp."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def _say(line: str, code: int) -> int:
    print(one_line(line), file=sys.stderr)
    return code
