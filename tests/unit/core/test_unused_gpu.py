"""A torch without CUDA beside NVIDIA's driver: plan, doctor and --device cuda say what installs the right build."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from bench import cli, study
from bench.checks import doctor
from bench.core import devices

VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Mon Aug 25\nGCC version:  gcc version 13\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\n"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that pretends a driver, or none, and a torch built for this CUDA, or for none."""

    def pretend(*, driver: str | None, cuda: str = "None", text: str = VERSION) -> None:
        proc, torch = tmp_path / "version", tmp_path / "torch"
        torch.mkdir(exist_ok=True)
        torch.joinpath("version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip = None\n")
        if driver is not None:
            proc.write_text(text.format(driver))
        monkeypatch.setattr(devices, "NVIDIA", proc)
        monkeypatch.setattr(devices, "_torch_version", lambda: "2.13.0")
        found = importlib.util.find_spec
        spec = ModuleSpec("torch", None, origin=str(torch / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: spec if name == "torch" else found(name))

    return pretend


@pytest.mark.parametrize(
    ("driver", "text", "index"),
    [
        ("580.65.06", VERSION, "cu130"),
        ("535.104.05", VERSION, "cu126"),
        ("590.1", OPEN, "cu130"),
        ("?", VERSION, "cu126"),
    ],
)
def test_the_line_installs_the_build_for_the_driver(built, driver: str, text: str, index: str) -> None:
    built(driver=driver, text=text)
    unused = devices.unused_gpu()
    assert unused is not None
    line = (
        f"{sys.executable} -m pip install --force-reinstall torch==2.13.0 --index-url https://download.pytorch.org/whl/"
    )
    assert unused.way_out.endswith(f"{line}{index}")
    assert devices.n_gpus() == 0, "a torch without CUDA uses no GPU, whatever its version is called"


def test_nothing_is_said_without_a_driver_or_with_a_build_for_it(built) -> None:
    built(driver=None)
    assert devices.unused_gpu() is None
    built(driver="580.65.06", cuda="'13.0'")
    assert devices.is_built_for_cuda()
    assert devices.unused_gpu() is None


def test_plan_doctor_and_a_gpu_that_is_asked_for_say_it(
    built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built(driver="580.65.06")
    words = ["plan", "--methods", "lora", "--results-dir", str(tmp_path)]
    assert cli.main(words) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: torch")]
    assert "built without CUDA, beside NVIDIA's driver 580.65.06: this trains on the CPU; install the build" in line
    assert cli.main([*words, "--device", "cpu"]) == 0
    assert "NVIDIA" not in capsys.readouterr().out, "who asks for the CPU knows"
    assert cli.main([*words, "--device", "cuda"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "'cuda' (0 found)" in line
    assert "--index-url" in line
    check = doctor.device(study.load("demo"))
    assert (check.level, "--index-url" in check.found) == ("note", True)
