"""What is sent to a worker is enough to run there, without a file system in common; bad requests are told in a line."""

from __future__ import annotations

import pickle
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from bench import cli, models, tasks
from bench.core.record import Provenance
from bench.core.spec import Pack
from bench.executors import cluster, runtime
from bench.executors._workers import Worker
from bench.executors.local import LocalExecutor
from tests.support.sweep_helpers import PROVENANCE, FakeEngine, grid

ORIGIN = Provenance(git_commit="c" * 40, git_dirty=True, source_hash="s" * 16, versions="{}", device="driver")


def built(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what `runtime.local_executor` is asked for from now on; what it gives trains by looking up."""
    seen: list[dict[str, Any]] = []

    def build(**settings: Any) -> LocalExecutor[None]:
        seen.append(settings)
        return LocalExecutor(
            load=lambda t: None, train=FakeEngine(), provenance=PROVENANCE, metric_name="accuracy"
        )  # fmt: skip

    monkeypatch.setattr(runtime, "local_executor", build)
    return seen


def test_a_worker_reads_the_model_where_it_is_and_asks_for_its_files_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps one copy, for the workers after it; what is of the same size at the driver's path is looked into."""
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    shutil.copytree(models.locate("tiny-roberta").directory, tmp_path / "model")
    located, seen = models.locate(str(tmp_path / "model")), built(monkeypatch)
    pack, files = Pack(trials=grid()[:2]), cluster._read(located.directory)
    shipment = cluster.Shipment(task=tasks.get("demo"), data=None, located=located, device="cpu", origin=ORIGIN)
    sent = pickle.dumps(shipment)
    assert len(sent) < 20_000 < sum(map(len, files.values())), "its name goes, not the model"
    first, worker, third = (Worker(pickle.loads(sent)) for _ in range(3))
    assert len(first.run(pack, "s").records) == 2
    assert seen[-1]["located"].directory == tmp_path / "model", "where it is there, it is used"
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert worker.run(pack, "s").lacks
    assert len(worker.take(files).records) == 2
    (copy,) = (tmp_path / "cache" / "models").iterdir()
    assert len(third.run(pack, "s").records) == 2
    assert [one["located"].directory for one in seen[-2:]] == [copy, copy]
    again = models.locate(str(copy))
    assert (again.model_hash, again.tokenizer_hash) == (located.model_hash, located.tokenizer_hash)
    assert seen[-1]["located"].name == located.name
    assert models.load_model(seen[-1]["located"], 2).model is not None
    for each in (first, worker, third):
        each.close()
    one = pickle.loads(sent)(tmp_path)
    assert (one.provenance.git_commit, one.provenance.device) == ("c" * 40, "fake")


def test_a_worker_that_sees_the_results_keeps_states_of_packs_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, located = built(monkeypatch), models.locate("tiny-roberta")
    for proof, expected in ((tmp_path / "seen", tmp_path), (tmp_path / "elsewhere" / "seen", None)):
        (tmp_path / "seen").touch()
        cluster.Shipment(
            task=tasks.get("demo"), data=None, located=located, device="cpu", origin=ORIGIN, proof=proof
        )(tmp_path)  # fmt: skip
        assert seen[-1]["state_dir"] == expected
        assert Worker(lambda logs: LocalExecutor, proof).ready().shares_state == (expected is not None)  # type: ignore


def test_an_unknown_executor_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "--executor", "slurm"]) == 2
    assert capsys.readouterr().err == "--executor: must be a known one, but got 'slurm'; known: local, ray\n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--sampler", "halving"), 'sampler = "halving"'),
        (("--sampler", "tpe", "--n-trials", "4", "--pruner", "median", "--eval-steps", "20"), 'pruner = "median"'),
    ],
)
def test_trials_that_stop_early_stay_on_one_machine(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], why: str
) -> None:
    """They move from pack to pack, and so do their states."""
    assert cli.main(["sweep", "--study", "demo", "--executor", "ray", *options]) == 2
    rule = f"--executor: must be local with {why}, whose trials move from pack to pack, but got ray; use --executor"
    assert capsys.readouterr().err.startswith(rule)


def test_a_cluster_on_loopback_is_told_from_one_that_others_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only 127.0.0.1 is bound: 127.0.0.2 stands for the machine's other address, where nothing or something answers."""
    monkeypatch.setattr(cluster, "_own_address", lambda: "127.0.0.2")
    with socket.create_server((cluster.LOOPBACK, 0)) as here:
        port = here.getsockname()[1]
        assert cluster._on_loopback_alone(f"127.0.0.1:{port}")
        assert cluster._on_loopback_alone(f"localhost:{port}")
        with socket.create_server(("127.0.0.2", port)):
            assert not cluster._on_loopback_alone(f"127.0.0.1:{port}")
        for address in ("auto", "head:6379", "192.0.2.7:6379", "ray://127.0.0.1:10001", "127.0.0.1:port"):
            assert not cluster._on_loopback_alone(address), address
