"""Commands that only look start quickly: held by what they import and how many files they read, never by a clock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import store, study
from bench.commands import _resolve
from bench.schedule import planner
from tests.support import sweep_helpers as helpers

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "transformers", "datasets", "optuna", "matplotlib", "scipy", "seaborn", "ray", "peft", "rich"}
# Prints what was imported, which files Python opened, and which parts Arrow read, after a command.
CODE = """
import json, sys
opened, parts = [], []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
sys.addaudithook(hook)
import pyarrow.parquet as pq
class ParquetFile(pq.ParquetFile):
    def __init__(self, source, **more):
        parts.append(str(source))
        super().__init__(source, **more)
pq.ParquetFile = ParquetFile
from bench import cli
code = cli.main(sys.argv[1:])
print(json.dumps({"modules": list(sys.modules), "opened": opened, "parts": parts}), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Rows of every trial of the demo study; what a first plan has to look at with the heavy libraries is looked at."""
    directory = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORASWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        resolved = _resolve.resolve_to_train(study.load("demo", overrides={"device": "cpu"}, profile="quick"))
        _store(directory, resolved)
        yield directory


def _store(directory: Path, resolved: _resolve.Resolved) -> None:
    for pack in planner.plan(resolved.trials):
        store.write(directory / resolved.study.name, helpers.records(pack.trials))


@pytest.mark.parametrize(
    ("command", "allowed", "most_modules", "most_files"),
    [("plan", set(), 950, 30), ("status", set(), 950, 30), ("plot", {"matplotlib", "seaborn", "scipy"}, 1900, 40)],
)
def test_looking_imports_little_and_reads_few_files(
    command: str, allowed: set[str], most_modules: int, most_files: int, results: Path
) -> None:
    """About a tenth above what it is: an import of something large, or a file read per trial, is far above."""
    arguments = [sys.executable, "-c", CODE, command, "--profile", "quick", "--device", "cpu"]
    arguments += ["--results-dir", str(results)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stderr.splitlines()[-1])
    assert HEAVY & set(found["modules"]) == allowed
    assert len(found["modules"]) <= most_modules
    data = [name for name in found["opened"] if _is_data(name)]
    assert len(data) <= most_files, Counter(data).most_common()
    parts = Counter(found["parts"])
    assert set(parts) <= {str(path) for path in results.rglob("*.parquet")}
    assert set(parts.values()) <= {1, 2}, "each part of the rows at most twice: what is finished, and what it means"
    assert "100 trials" in done.stdout or command != "plan"


def _is_data(name: str) -> bool:
    """Whether a file that Python opened is none of its own: no module, no package's resource, no font."""
    own = (sys.prefix, sys.base_prefix, "/usr/", "/proc/", "/sys/", "/etc/")
    return not name.endswith((".py", ".pyc", ".ttf", ".zip")) and not name.startswith(own)
