"""Long packs: killed between any two steps and started again, a pack ends bitwise as if nothing had happened."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.clock import Clock
from bench.core.record import Outcome
from bench.core.spec import Pack, Trial
from bench.engine import state
from bench.engine.bank import Bank
from bench.engine.run import EngineOptions, run_pack
from tests.support.engine_helpers import budget, random_data, tiny_model, trial

STEPS: dict[str, Any] = {"max_steps": 12, "eval_steps": 5}
DATA = random_data(n_train=40, n_eval=20)
TIMES = ("setup_seconds", "compile_seconds", "train_seconds", "eval_seconds", "examples_per_second",
         "tokens_per_second", "started_at")  # fmt: skip


class Killed(BaseException):
    """As a signal: nothing in the engine catches it."""


def members(**changes: Any) -> list[Trial]:
    """Return trials of two ranks of which one diverges at once."""
    rates = [(1e-3, 4), (3e-3, 2), (1e200, 4)]
    return [
        trial(
            eta_A=eta,
            eta_B=4 * eta,
            rank=rank,
            lora_alpha=float(rank),
            lora_dropout=0.1,
            budget=budget(**{**STEPS, **changes}),
        )
        for eta, rank in rates
    ]


def go(
    trials: list[Trial], weights: list[torch.Tensor], state_dir: Path | None, dtype: torch.dtype, device: str = "cpu"
) -> list[Outcome]:
    def keep(bank: Bank) -> None:
        weights.append(bank.params.values.clone())

    options = EngineOptions(device=torch.device(device))
    pack, model = Pack(trials=tuple(trials)), tiny_model(dtype=dtype)
    return run_pack(pack, DATA, model, options, clock=Clock(), on_trained=keep, state_dir=state_dir)


def told(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    found = [{k: v for k, v in asdict(o).items() if k not in TIMES} for o in outcomes]
    for one in found:
        one["curve"] = [{k: v for k, v in point.items() if k != "train_seconds"} for point in one["curve"]]
    return found


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Save after each step; kill after those whose numbers are put into the list, each once."""
    monkeypatch.setattr(state, "INTERVAL_SECONDS", 0.0)
    wanted: list[int] = []
    save = state.Keeper.after_step

    def after_step(self: state.Keeper, take: Any) -> None:
        self._interval = 0.0
        save(self, take)
        step = take().numbers["steps_done"]
        if step in wanted:
            wanted.remove(step)
            raise Killed

    monkeypatch.setattr(state.Keeper, "after_step", after_step)
    monkeypatch.setattr(state.Keeper, "is_due", lambda self: True)
    return wanted


@pytest.mark.parametrize("at", [[1], [4, 5], [7], [2, 6, 11]])
@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_a_killed_pack_goes_on_bitwise(tmp_path: Path, kill: list[int], at: list[int], precision: str) -> None:
    dtype = {"fp64": torch.float64, "fp32": torch.float32}[precision]
    trials = members(precision=precision)
    whole: list[torch.Tensor] = []
    expected = told(go(trials, whole, None, dtype))
    assert [o["diverged_step"] is None for o in expected] == [True, True, False]
    kill += at
    again: list[torch.Tensor] = []
    for _ in at:
        with pytest.raises(Killed):
            go(trials, again, tmp_path, dtype)
    found = told(go(trials, again, tmp_path, dtype))
    assert kill == []
    assert found == expected
    assert torch.equal(whole[0].view(torch.uint8), again[0].view(torch.uint8)), "bit for bit, nan included"


def test_it_goes_on_and_does_not_begin_again(tmp_path: Path, kill: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.engine.loop import Loop

    steps: list[int] = []
    step = Loop.step

    def counted(self: Loop, places: Any) -> Any:
        steps.append(self.state.steps_done)
        return step(self, places)

    monkeypatch.setattr(Loop, "step", counted)
    kill.append(8)
    with pytest.raises(Killed):
        go(members(), [], tmp_path, torch.float64)
    go(members(), [], tmp_path, torch.float64, "cpu:0")  # another device of the kind, as where a worker was lost
    assert steps == [*range(8), *range(8, 12)]


@pytest.mark.parametrize("damage", ["torn", "empty", "other trials", "link", "other code"])
def test_a_state_that_is_not_this_packs_is_not_used(
    tmp_path: Path, kill: list[int], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = members()
    whole: list[torch.Tensor] = []
    expected = told(go(trials, whole, None, torch.float64))
    kill.append(6)
    with pytest.raises(Killed):
        go(trials, [], tmp_path, torch.float64)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[:-9])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "other code":
        monkeypatch.setattr("bench.core.provenance.source_hash", lambda: "0" * 16)
    else:
        trials = trials[::-1]  # the same pack_id, other slots
        expected = told(go(trials, whole, None, torch.float64))
    again: list[torch.Tensor] = []
    assert told(go(trials, again, tmp_path, torch.float64)) == expected
    assert torch.equal(whole[-1].view(torch.uint8), again[0].view(torch.uint8))


def test_it_saves_once_an_interval_and_a_full_disk_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    written: list[float] = []

    def write(path: Path, put: Any) -> None:
        written.append(now[0])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_atomic", write)
    keeper = state.Keeper(tmp_path / "x.safetensors", key="k", now=lambda: now[0])
    for second in range(0, 1000, 10):
        now[0] = float(second)
        keeper.after_step(lambda: state.LoopState(tensors={}, numbers={}))
    assert written == [300.0, 600.0, 900.0]


def test_a_state_goes_when_the_records_of_its_pack_are_stored(tmp_path: Path) -> None:
    from bench.sweep.events import STATE
    from tests.support.sweep_helpers import FakeEngine, grid, run

    folder = tmp_path / "s" / STATE
    folder.mkdir(parents=True)
    (folder / "of-another.safetensors").touch()
    seen: list[bool] = []

    def before(pack: Pack) -> None:
        (folder / f"{pack.pack_id}.safetensors").touch()
        seen.append(True)

    assert run(tmp_path, grid(), FakeEngine(before=before)).exit_code == 0
    assert len(seen) > 1
    assert [path.name for path in folder.iterdir()] == ["of-another.safetensors"]
