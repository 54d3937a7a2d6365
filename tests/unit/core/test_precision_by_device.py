"""Which precision a study gets that states none: bf16 on a GPU that multiplies in it; nothing changes elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from bench import cli, study
from bench.commands import _last, _show, _stored
from bench.commands._options import Selection
from bench.core import devices
from bench.core.errors import BadInput
from bench.core.spec import Study
from bench.engine import hardware
from bench.executors import runtime
from bench.study import as_toml
from tests.support import gpu_driver

LORA = {"methods": "lora", "profile": "quick"}


def chosen(tmp_path: Path, **options: str) -> Study:
    return selection(tmp_path, **options).study()


def selection(tmp_path: Path, **options: str) -> Selection:
    return Selection(overrides={**LORA, **options}, data_dir=None, results_dir=tmp_path)


@pytest.mark.parametrize(
    ("capability", "options", "precision", "by_device"),
    [
        ((9, 0), {}, "bf16", True),
        ((8, 0), {"device": "cuda:0"}, "bf16", True),
        ((7, 5), {}, "fp32", False),
        ((9, 0), {"device": "cpu"}, "fp32", False),
        ((9, 0), {"precision": "fp32"}, "fp32", False),
        ((9, 0), {"study": "sst2-reference"}, "fp32", False),
        ((9, 0), {"study": "loraplus-sst2-r16"}, "fp16", False),
    ],
)
def test_bf16_is_taken_where_the_gpu_multiplies_in_it_and_nobody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], options: dict[str, str],
    precision: str, by_device: bool,
) -> None:  # fmt: skip
    gpu_driver.pretend(monkeypatch, capability=capability)
    options = {"methods": "lora+", **options} if "loraplus" in options.get("study", "") else options
    found = chosen(tmp_path, **options)
    assert (found.budget.precision, found.precision_by_device) == (precision, by_device)


def test_ids_say_it_and_those_of_a_cpu_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(loaded: Study) -> list[str]:
        trials = study.expand(loaded, data_hash="d", model_hash="m", default_targets=("query",))
        return [trial.trial_id for trial in trials]

    gpu_driver.pretend(monkeypatch)
    here, there = ids(chosen(tmp_path)), ids(chosen(tmp_path, device="cpu"))
    assert here == ids(chosen(tmp_path, device="cpu", precision="bf16"))
    assert there == ids(study.load(overrides=LORA))
    assert not set(here) & set(there)


def test_the_plan_says_which_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_driver.pretend(monkeypatch)
    assert _show.precision(chosen(tmp_path)).startswith("bf16 (this GPU's matrix units multiply in it")
    assert _show.precision(chosen(tmp_path, precision="bf16")) == "bf16"
    assert "bf16 or tf32 are faster" in _show.precision(chosen(tmp_path, precision="fp32"))
    assert _show.precision(chosen(tmp_path, device="cpu")) == "fp32"
    loaded, merged = selection(tmp_path).trace()
    assert 'precision = "bf16"' in (text := as_toml.text(loaded, merged))
    assert next(line for line in text.splitlines() if line.startswith("precision")).endswith("# the device")


def test_rows_are_read_on_another_machine_as_they_were_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        gpu_driver.pretend(patch)
        swept = chosen(tmp_path)
        (tmp_path / swept.name).mkdir()
        _last.keep(selection(tmp_path), swept)
    assert json.loads((tmp_path / swept.name / _last.NAME).read_text())["options"]["precision"] == "bf16"
    assert _last.as_swept(selection(tmp_path, device="cpu")).study().budget.precision == "bf16"
    assert _last.as_swept(selection(tmp_path, device="cpu", precision="fp64")).study().budget.precision == "fp64"


def test_stored_rows_are_tried_in_their_own_precision_where_none_is_stated(tmp_path: Path) -> None:
    table = pa.table({"precision": ["bf16", "fp32"]})
    ways = _stored._ways(selection(tmp_path, device="cpu"), table)
    assert [way.study().budget.precision for way in ways] == ["fp32", "bf16"]
    assert len(_stored._ways(selection(tmp_path, device="cpu", study="sst2-reference"), table)) == 1


@pytest.mark.parametrize(
    ("device", "capability", "precision", "said"),
    [
        ("cpu", (9, 0), "tf32", "tf32 is for CUDA GPUs, but got tf32; use --precision fp32"),
        ("cuda", (7, 5), "tf32", "need capability 8.0, but got tf32 on a GPU of capability 7.5"),
        ("cuda", (7, 5), "bf16", "need capability 8.0, but got bf16 on a GPU of capability 7.5"),
    ],
)
def test_what_a_device_does_not_multiply_in_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, capability: tuple[int, int],
    precision: str, said: str,
) -> None:  # fmt: skip
    gpu_driver.pretend(monkeypatch, capability=capability)
    assert cli.main(["plan", "--device", device, "--precision", precision, "--results-dir", "x"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    with pytest.raises(BadInput):
        runtime.check_precision(precision, device)  # type: ignore[arg-type]


def test_a_gpu_of_capability_8_takes_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_driver.pretend(monkeypatch, capability=(8, 6))
    runtime.check_precision("tf32", "cuda")
    assert devices.capability(0) == (8, 6)


def test_how_cuda_multiplies_is_as_it_was_after_an_error_too() -> None:
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    inside = []

    def fail() -> None:
        with hardware.multiplying_in_tf32():
            inside.append(products.fp32_precision)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == ["tf32"]
    assert products.fp32_precision == before != "tf32"
