"""docs/quickstart.ipynb: run it where it is, and write docs/quickstart.md with its figures out of it.

`python -m tests.support.notebook` does both; the site shows the page, since its generator reads Markdown alone.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK, PAGE, FIGURES = DOCS / "quickstart.ipynb", DOCS / "quickstart.md", "figures"
SECONDS = 1800  # of a cell; ten times what a run may take, so that it ends a hang alone
_HEAD = "*Download [quickstart.ipynb](quickstart.ipynb). This page is written by `python -m tests.support.notebook`.*"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def read() -> Any:
    """Return the notebook as nbformat has it, checked."""
    import nbformat

    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def run(notebook: Any, directory: Path) -> Any:
    """Run a notebook in a directory and return it with its outputs.

    Raises:
        CellExecutionError: for a cell that raises.
        CellTimeoutError: for a cell that takes longer than SECONDS.
    """
    from nbclient import NotebookClient

    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    resources = {"metadata": {"path": str(directory)}}
    client = NotebookClient(
        notebook, timeout=SECONDS, startup_timeout=SECONDS, kernel_name="python3", resources=resources
    )
    return client.execute(env=environment)


def page(notebook: Any) -> tuple[str, Mapping[str, bytes]]:
    """Return the notebook as Markdown, and its figures by file name."""
    figures: dict[str, bytes] = {}
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += _outputs(cell, figures)
    title, *rest = parts
    heading, _, text = title.partition("\n\n")
    return "\n\n".join([heading, _HEAD, *filter(None, [text]), *rest]) + "\n", figures


def _outputs(cell: Any, figures: dict[str, bytes]) -> Iterator[str]:
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            name = f"quickstart-{len(figures)}.png"
            figures[name] = base64.b64decode(data["image/png"])
            yield f"![Output of the code above]({FIGURES}/{name})"
        else:
            text = output.get("text") or data.get("text/plain", "")
            yield f"```text\n{text.rstrip()}\n```"


def cleaned(notebook: Any) -> Any:
    """Return a notebook that was run without what differs by machine: times, warnings with their paths."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("text/html", None)
            if "text" in output:
                output.text = _ADDRESS.sub("", _ANSI.sub("", output.text))
    return notebook


def main() -> None:
    """Run the notebook, keep its outputs, and write the page."""
    import nbformat

    with tempfile.TemporaryDirectory() as directory:
        done = cleaned(run(read(), Path(directory)))
    nbformat.write(done, NOTEBOOK)
    text, figures = page(done)
    PAGE.write_text(text, encoding="utf-8")
    for name, content in figures.items():
        (DOCS / FIGURES / name).write_bytes(content)
    print(*(str(path) for path in (NOTEBOOK, PAGE)), sep="\n")


if __name__ == "__main__":
    main()
