"""A sweep on Ray: connecting, what a worker takes, and what is sent to it. No file system has to be shared."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import models
from bench.core import cache, devices, hub, provenance
from bench.core.errors import BadInput
from bench.core.record import Provenance
from bench.executors._workers import Lacking
from bench.models import Located
from bench.models._locate import DOWNLOAD
from bench.schedule.planner import Limits
from bench.tasks import Task

if TYPE_CHECKING:
    from bench.executors.local import LocalExecutor
    from bench.executors.ray import RayExecutor

ADDRESS = "RAY_ADDRESS"  # Ray's own variable
# Read when ray is imported. Without a cluster to join, every port of Ray is on loopback; nothing is reported home.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK = "127.0.0.1"  # a node of this address listens nowhere else
_LOOPBACK_HOSTS = (LOOPBACK, "localhost")
_ELSEWHERE = ("192.0.2.1", 9)  # TEST-NET-1 of RFC 5737: an address of nobody


def connect(address: str | None, *, where: str = "--executor") -> None:
    """Connect this process to the cluster at `address` ("auto": the one on this machine), or start one of its own.

    Raises:
        BadInput: where ray is not installed or no cluster answers.
    """
    os.environ.update(_QUIET)
    try:
        import ray
        from ray._private import ray_constants
    except ModuleNotFoundError:
        way_out = "run make sweep EXECUTOR=ray, which installs it, or leave --executor out"
        raise BadInput(where, "ray must be installed", way_out=way_out) from None
    if address is None or _on_loopback_alone(address):
        # Ray then takes the loopback address for its own; the variable for it comes too late where ray is imported
        ray_constants.ENABLE_RAY_CLUSTER = False
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, _node_ip_address=LOOPBACK, **common)
        else:
            # the code goes along: workers need the packages of requirements.txt, not this one
            ray.init(address=address, runtime_env={"py_modules": [str(provenance.PACKAGE)]}, **common)
    except (OSError, ValueError, RuntimeError, TimeoutError) as error:
        way_out = f"check {ADDRESS} and ray status, or leave it out to use this machine alone"
        got = f"{type(error).__name__}: {error}"[:200]
        raise BadInput(ADDRESS, "a Ray cluster must answer", got=got, way_out=way_out) from None


def _on_loopback_alone(address: str) -> bool:
    """Return whether the cluster at `host:port` listens on the loopback address and not on this machine's other one.

    Ray takes a loopback host for this machine's other address, at which such a cluster does not answer.
    """
    host, _, port = address.rpartition(":")
    if host not in _LOOPBACK_HOSTS or not port.isdigit():
        return False
    own = _own_address()
    return own == LOOPBACK or not _answers(own, int(port))


def _own_address() -> str:
    """Return the address from which this machine would reach others, loopback's where it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(_ELSEWHERE)  # of UDP: sends nothing
        except OSError:
            return LOOPBACK
        return str(one.getsockname()[0])


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def check_device(device: str) -> str:
    """Return cuda or cpu, what each worker of the connected cluster is to run on, for a resolved device.

    Raises:
        BadInput: for cuda where the cluster has no GPU, and for mps, which workers would share.
    """
    import ray

    kind = device.partition(":")[0]
    if kind == devices.MPS:
        raise BadInput("--device", "must be cpu or cuda on a cluster", got=device, way_out="use --executor local")
    if kind == "cuda" and not ray.cluster_resources().get("GPU", 0):
        got, way_out = f"{device!r}, and the cluster has no GPU", "use --device cpu, or add a node with one"
        raise BadInput("--device", "must be a device of the cluster", got=got, way_out=way_out)
    return kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipment:
    """What a worker needs of a study: its task and data, and the name of its model. Called, it makes an executor."""

    task: Task
    data: Any
    located: Located
    device: str  # cpu or cuda: Ray shows each worker its own GPU alone
    origin: Provenance  # of the driver's code, which the worker runs
    limits: Limits | None = None  # with which packs are planned
    proof: Path | None = None  # a file of the driver's, beside which states of packs lie

    def __call__(self, log_dir: Path) -> LocalExecutor[Any]:
        """Return the executor that runs in the worker's process.

        Raises:
            Lacking: where the model's files cannot be read there.
        """
        from bench.executors import runtime

        located = self._here()
        if located is None:
            raise Lacking(functools.partial(_unpack, self.located))
        one = runtime.local_executor(
            task=self.task, data=self.data, located=located, device=self.device, log_dir=log_dir,
            state_dir=self.proof.parent if self.proof is not None and self.proof.is_file() else None,
            limits=self.limits,
        )  # fmt: skip
        # the code is the driver's, and comes without its history
        commit, dirty = self.origin.git_commit, self.origin.git_dirty
        one.provenance = replace(one.provenance, git_commit=commit, git_dirty=dirty)
        return one

    def _here(self) -> Located | None:
        """Return the model with where it lies here: at the driver's path, below the cache, or in the Hub's cache."""
        located = self.located
        if not located.tokenizer_hash:
            return located  # it has no files
        for name in (str(located.directory), str(_copy_of(located)), located.name):
            with suppress(BadInput), hub.closed():
                found = models.locate(name)
                if (found.model_hash, found.tokenizer_hash) == (located.model_hash, located.tokenizer_hash):
                    return replace(located, directory=found.directory)
        return None


def executor(
    *,
    task: Task,
    data: Any,
    located: Located,
    device: str,
    log_dir: Path,
    state_dir: Path,
    time_limit_seconds: float | None = None,
    limits: Limits | None = None,
) -> RayExecutor:
    """Return an executor of the connected cluster: a CPU, or a CPU and a GPU, for each worker.

    `device` is this machine's, by which packs are planned: workers have one of the same kind. Those that see
    `state_dir`, too, keep states of packs there.
    """
    from bench.executors.ray import RayExecutor, RayOptions

    kind = check_device(device)
    origin = provenance.collect(f"ray, {kind}")
    proof = state_dir / f".seen-{uuid.uuid4().hex}"
    with suppress(OSError):  # the sweep tells of a directory that cannot be written
        state_dir.mkdir(parents=True, exist_ok=True)
        proof.touch()
    shipment = Shipment(task=task, data=data, located=located, device=kind, origin=origin, limits=limits, proof=proof)
    return RayExecutor(
        make=shipment,
        files=functools.partial(_read, located.directory),
        proof=proof,
        provenance=origin,
        metric_name=task.metric,
        options=RayOptions(num_gpus=1 if kind == "cuda" else 0, time_limit_seconds=time_limit_seconds),
        log_dir=log_dir,
    )


def _read(directory: Path) -> dict[str, bytes]:
    """Return the files of a model by name."""
    paths = {path for pattern in DOWNLOAD for path in directory.glob(pattern)}
    return {path.name: path.read_bytes() for path in sorted(paths)}


def _copy_of(located: Located) -> Path:
    """Return where a model lies that was sent to this machine."""
    return cache.cache_dir() / "models" / f"{located.model_hash}-{located.tokenizer_hash}"


def _unpack(located: Located, files: Mapping[str, bytes]) -> None:
    """Write the files below the cache, whole or not at all; workers of one machine share them."""
    target = _copy_of(located)
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".writing-"))
    for name, content in files.items():
        (scratch / name).write_bytes(content)
    try:
        scratch.rename(target)
    except OSError:  # another worker was faster
        for path in scratch.iterdir():
            path.unlink()
        scratch.rmdir()
