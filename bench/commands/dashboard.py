"""bench dashboard: Optuna's own dashboard on a copy of the study's journal, on loopback only."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands._options import Selection, study_command
from bench.core.errors import BadInput

HOST = "127.0.0.1"
_MAIN = "from optuna_dashboard._cli import main; main()"


@study_command
def command(
    selection: Selection,
    port: Annotated[int, typer.Option(help="port on the loopback interface", min=1, max=65535)] = 8080,
) -> int:
    """Open optuna-dashboard on a copy of the study's journal, at 127.0.0.1; Ctrl-C ends it."""
    import importlib.util
    import subprocess
    import sys

    from bench.sweep.optuna_mirror import journal

    if importlib.util.find_spec("optuna_dashboard") is None:
        raise BadInput("dashboard", "optuna-dashboard must be installed", way_out="run make dashboard")
    directory = selection.directory(selection.study())
    try:
        copy = journal.copy_for_dashboard(directory)  # the dashboard writes to its storage; the journal is the sweep's
    except FileNotFoundError:
        raise BadInput(str(directory), "the study must have a journal", way_out="run make sweep first") from None
    print(
        f"a copy of {directory / journal.JOURNAL_NAME} at http://{HOST}:{port}; run it again for newer trials",
        flush=True,
    )
    arguments = [sys.executable, "-c", _MAIN, str(copy), "--host", HOST, "--port", str(port), "--quiet"]
    try:
        return subprocess.run(arguments, check=False).returncode
    finally:
        copy.unlink(missing_ok=True)
