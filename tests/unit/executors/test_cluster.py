"""What is sent to a worker is enough to run there, without a file system in common; bad requests are told in a line."""

from __future__ import annotations

import pickle
import shutil
import socket
from pathlib import Path

import pytest

from bench import cli, models, tasks
from bench.core.record import Provenance
from bench.executors import cluster, runtime
from bench.executors.local import LocalExecutor
from bench.models import Located
from tests.support.sweep_helpers import PROVENANCE

ORIGIN = Provenance(git_commit="c" * 40, git_dirty=True, source_hash="s" * 16, versions="{}", device="driver")


def test_a_worker_on_another_machine_gets_the_model_and_keeps_one_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    shutil.copytree(models.locate("tiny-roberta").directory, tmp_path / "model")
    located = models.locate(str(tmp_path / "model"))
    shipment = cluster.Shipment(
        task=tasks.get("demo"), data=None, located=located, files=cluster._read(located.directory), device="cpu",
        origin=ORIGIN,
    )  # fmt: skip
    seen: list[Located] = []

    def build(*, located: Located, **_: object) -> LocalExecutor[None]:
        seen.append(located)
        return LocalExecutor(load=lambda t: None, train=lambda p, _: [], provenance=PROVENANCE, metric_name="accuracy")

    monkeypatch.setattr(runtime, "local_executor", build)
    shipment.unpack(tmp_path)
    assert seen[-1].directory == tmp_path / "model", "where it is there, it is used"
    sent = pickle.loads(pickle.dumps(shipment))
    shutil.rmtree(tmp_path / "model")
    for _ in range(2):
        one = sent.unpack(tmp_path)
    assert (one.provenance.git_commit, one.provenance.device) == ("c" * 40, "fake")
    copies = list((tmp_path / "cache" / "models").iterdir())
    assert [seen[-1].directory, seen[-2].directory] == [copies[0]] * 2
    again = models.locate(str(copies[0]))
    assert (again.model_hash, again.tokenizer_hash) == (located.model_hash, located.tokenizer_hash)
    assert seen[-1].name == located.name
    assert models.load_model(seen[-1], 2).model is not None


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
def test_trials_that_stop_early_stay_with_one_worker(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], why: str
) -> None:
    """They move from pack to pack, and so do their states."""
    for where, several in (("--executor", "ray"), ("--device", "cpu:2")):
        assert cli.main(["sweep", "--study", "demo", where, several, *options]) == 2
        rule = f"{where}: must be one worker with {why}, whose trials move from pack to pack, but got {several}"
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
