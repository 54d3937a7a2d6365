"""Apple's GPU, as far as it can be tested without one: when it is there, what it refuses, what is planned."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Literal

import pytest
import torch

from bench import cli, models
from bench.core import devices, provenance, rules
from bench.core.errors import BadInput
from bench.engine import generate, hardware
from bench.executors import cluster, runtime
from bench.schedule import workloads
from bench.schedule.estimate import NOMINAL_FLOP_PER_SECOND
from bench.timing.load import load_of
from bench.timing.peers import ceiling
from tests.support.engine_helpers import budget, trial


@pytest.fixture
def no_answer_is_kept() -> Iterator[None]:
    devices.has_mps.cache_clear()
    yield
    devices.has_mps.cache_clear()


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch, no_answer_is_kept: None) -> None:
    """A machine that says it has Apple's GPU."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.usefixtures("on_a_mac")
def test_mps_is_taken_where_torch_has_it_and_by_name_alone() -> None:
    assert devices.resolve(rules.device("mps", "--device")) == "mps"
    assert devices.resolve("auto") in ("cpu", "cuda:0")
    assert devices.default_profile("mps") == "quick"


@pytest.mark.parametrize(
    ("system", "machine", "torch_has_it"),
    [("Linux", "x86_64", True), ("Darwin", "x86_64", True), ("Darwin", "arm64", False)],
)
@pytest.mark.usefixtures("no_answer_is_kept")
def test_mps_is_refused_elsewhere_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], system: str, machine: str, torch_has_it: bool
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: torch_has_it)
    assert cli.main(["plan", "--device", "mps"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--device: must be a device of this machine, but got 'mps' (none found); use --device cpu" in line


@pytest.mark.usefixtures("on_a_mac")
def test_a_plan_for_mps_has_its_name_memory_and_a_speed() -> None:
    place = workloads.place_of("mps")
    assert (place.device, place.kind) == (f"{provenance.cpu_name()} GPU", "mps")
    assert NOMINAL_FLOP_PER_SECOND["cpu"] < NOMINAL_FLOP_PER_SECOND[place.kind] < NOMINAL_FLOP_PER_SECOND["cuda"]
    limits = workloads.limits_of("mps", models.locate("tiny-roberta"), 20.0)
    assert (limits.device_kind, limits.memory_bytes) == ("mps", devices.memory_bytes("cpu"))
    for by_kind in (generate.LEAST, ceiling.ROWS, ceiling.SQUARE):
        assert by_kind.keys() == NOMINAL_FLOP_PER_SECOND.keys()
    assert load_of("mps").share is None


@pytest.mark.parametrize(("precision", "computes", "refused"), [
    ("fp32", False, False), ("fp64", True, True), ("bf16", True, False), ("bf16", False, True), ("fp16", False, True),
])  # fmt: skip
@pytest.mark.usefixtures("on_a_mac")
def test_a_precision_that_metal_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, precision: Literal["fp64", "fp32", "bf16", "fp16"], computes: bool, refused: bool
) -> None:
    monkeypatch.setattr(hardware, "computes", lambda dtype, device: computes)
    if not refused:
        return runtime.check_precision(precision, "mps")
    with pytest.raises(BadInput, match=f"mps has no {precision} here, but got {precision}; use --precision fp32"):
        runtime.check_precision(precision, "mps")
    return None


@pytest.mark.usefixtures("on_a_mac")
def test_mps_is_refused_for_a_base_in_4_bits() -> None:
    one = trial(budget=budget(base_precision="nf4"))
    with pytest.raises(BadInput, match="nf4 is for cpu and cuda, but got device mps; leave base_precision out"):
        runtime.check_base([one], is_causal=True, device="mps")


def test_mps_is_refused_on_a_cluster() -> None:
    pytest.importorskip("ray")
    with pytest.raises(BadInput, match="must be cpu or cuda on a cluster, but got mps; use --executor local"):
        cluster.check_device("mps")


def test_the_probe_tells_types_with_kernels_from_those_without() -> None:
    assert hardware.computes(torch.float32, "cpu")
    assert hardware.computes(torch.bfloat16, "cpu")
    assert not hardware.computes(torch.float8_e4m3fn, "cpu")
    assert not hardware.computes(torch.int32, "cpu"), "no softmax of whole numbers"


def test_only_mps_lacks_float64() -> None:
    widest = {kind: devices.widest_float(torch.device(kind)) for kind in ("cpu", "cuda", "mps")}
    assert widest == {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}
