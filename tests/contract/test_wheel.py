"""An installed wheel is whole: studies, embedded models and the report's assets are in it, and it runs anywhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("bench", "plots", "studies", "pyproject.toml", "setup.py", "README.md", "LICENSE")
MISSING = [name for name in ("pip", "setuptools") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"a wheel is built by {' and '.join(MISSING)}, not installed here"
)


def pip(*args: object, cwd: Path) -> None:
    offline = ("--disable-pip-version-check", "--no-deps", "--no-index", "--quiet")
    done = subprocess.run([sys.executable, "-m", "pip", args[0], *offline, *map(str, args[1:])],
                          cwd=cwd, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory into which the wheel of this tree is installed."""
    made = tmp_path_factory.mktemp("wheel")
    source = made / "source"
    source.mkdir()
    for name in SOURCES:  # building leaves directories in the tree that it builds
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", made / "wheels", "./source", cwd=made)
    (wheel,) = (made / "wheels").glob("*.whl")
    pip("install", "--target", made / "site", wheel, cwd=made)
    return made / "site"


def run(installed: Path, where: Path, *args: str) -> str:
    """Run a command of the installed package from a directory."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *args], cwd=where, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel(installed: Path) -> None:
    def files(directory: Path) -> set[str]:
        found = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(directory).as_posix() for path in found}

    for name in ("bench", "plots"):
        there = {path for path in files(installed / name) if not path.startswith("studies/")}
        assert there == files(ROOT / name)
    assert files(installed / "bench" / "studies") == files(ROOT / "studies")
    assert {path.name for path in installed.iterdir() if path.is_dir() and "-" not in path.name} <= {
        "bench", "lorasweep", "plots", "bin"
    }  # fmt: skip


def test_an_installed_package_lists_its_studies_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "studies")
    assert {line.split()[0] for line in listed.splitlines() if line} >= {
        p.stem for p in (ROOT / "studies").glob("[!_]*.toml")
    }


def test_lorasweep_is_the_same_functions_anywhere(installed: Path, tmp_path: Path) -> None:
    code = (
        "import lorasweep, bench.api as api, inspect; "
        "assert lorasweep.__all__ == api.__all__; "
        "assert all(getattr(lorasweep, name) is getattr(api, name) for name in api.__all__); "
        f"assert inspect.getfile(lorasweep).startswith({str(installed)!r}); "
        "print(lorasweep.plan(methods='lora', eta_A=1e-3, max_steps=2).n_packs)"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1


@pytest.mark.slow
def test_an_installed_package_plans_and_sweeps_the_demo_and_writes_its_report(installed: Path, tmp_path: Path) -> None:
    assert "demo-tiny-roberta: demo (4,000 / 1,000 examples" in run(installed, tmp_path, "plan", "--task", "demo")
    run(installed, tmp_path, "sweep", "--methods", "lora", "--eta-A", "1e-3", "--steps", "2")
    run(installed, tmp_path, "report")
    report = (tmp_path / "results" / "demo-tiny-roberta" / "report.html").read_text(encoding="utf-8")
    assert "1.0e-03" in report
    assert report.rstrip().endswith("</html>"), "whole, its styles and scripts are package data"
    assert "<style" in report
