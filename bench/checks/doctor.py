"""What would stop or spoil a long sweep, looked at before it begins: device, data, model, memory, disk, storage.

Each check ends in a Check whatever it meets. Nothing is trained and no row is written.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.checks.preflight import Finding
from bench.core import cache, devices, hub
from bench.core.errors import BadInput
from bench.core.spec import Pack, Study
from bench.schedule import planner
from bench.schedule.planner import Limits
from bench.store import lock

Level = Literal["ok", "note", "fails"]
BYTES_OF_A_ROW = 16384  # on disk, in a part of its own; in larger ones it takes a tenth of it
SPARE_BYTES = 256 << 20  # figures, journal, logs, one state of a pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one check found. `fails`: a sweep would not start or not end; `note`: it would, but not as expected."""

    name: str
    level: Level
    found: str


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """Return what a check finds; bad input, and what no check has thought of, is a finding too."""
    try:
        return check()
    except BadInput as error:
        return Check(name=name, level="fails", found=str(error))
    except Exception as error:
        return Check(name=name, level="fails", found=f"{type(error).__name__}: {error}")


def of_preflight(finding: Finding) -> Check:
    """Return what a check that every sweep must pass came to."""
    return Check(name=finding.name, level="ok" if finding.error is None else "fails", found=finding.found)


def device(study: Study) -> Check:
    """Say which device it is; a GPU that torch cannot use fails."""
    import torch

    from bench.schedule import workloads

    chosen = devices.resolve(study.device)
    name = workloads.place_of(study.device).device
    if chosen == "cpu":
        n_cores, load = os.cpu_count() or 1, os.getloadavg()[0]
        text = f"{name}, {n_cores} cores, torch {torch.__version__} with {torch.get_num_threads()} threads"
        unused = devices.unused_gpu()
        if unused is not None:
            return Check(name="device", level="note", found=f"{text}; {unused.found}: {unused.way_out}")
        if load > n_cores / 2:
            return Check(name="device", level="note", found=f"{text}; other work runs on it (load {load:.1f}): "
                         "scores stay the same, times will not be worth comparing")  # fmt: skip
        return Check(name="device", level="ok", found=text)
    torch.zeros(1, device=chosen).add_(1).item()
    return Check(name="device", level="ok", found=f"{chosen}: {name}, torch {torch.__version__}")


def kernels(chosen: str) -> Check:
    """Try the Triton kernels on a GPU; say which it does not use, and why: steps are slower then, rows the same."""
    import torch

    from bench.engine import kernel_probe
    from bench.engine.kernels import NAMES

    refused = kernel_probe.refused(torch.device(chosen))
    if refused:
        return Check(name="kernels", level="note", found=f"steps will be slower with {'; '.join(refused)}")
    return Check(name="kernels", level="ok", found=f"{', '.join(NAMES)} agree with torch's operations")


def hub_answers(*, needed: bool) -> Check:
    """Say whether the Hub answers; that it does not fails only where something is not on this machine.

    The check of what is missing says the ways out.
    """
    failure = hub.failure()
    if failure is None:
        return Check(name="Hub", level="ok", found="answers")
    if needed:
        return Check(name="Hub", level="fails", found=f"{failure}; data or model above must come from it")
    return Check(name="Hub", level="ok", found=f"not needed, data and model are on this machine ({failure})")


def memory(study: Study, packs: Sequence[Pack], limits: Limits, weight_bytes: int) -> Check:
    """Compare the largest pack's estimate, and the base model, with the memory that is free now."""
    free = free_memory(devices.resolve(study.device))
    if limits.shape is None or not packs:
        return Check(name="memory", level="ok", found=f"{_gigabytes(free)} free")
    of_pack = max(
        planner.pack_bytes(one, pack.size, limits, checkpointed=planner.checkpoints(one, limits))
        for pack in packs
        for one in pack.trials[:1]
    )
    need = (weight_bytes + of_pack) * (len(devices.workers(study.device)) if devices.shares_memory(study.device) else 1)
    text = f"about {_gigabytes(need)} for the largest pack and the model, {_gigabytes(free)} free"
    if free is not None and need > free:
        way_out = "a pack that does not fit is halved until it does; free memory, or give --pack-size"
        return Check(name="memory", level="note", found=f"{text}; {way_out}")
    return Check(name="memory", level="ok", found=text)


def free_memory(chosen: str) -> int | None:
    """Return the bytes that are free on cpu, cuda:N or mps now; None where nobody says."""
    if chosen.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(devices.index_of(chosen))[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines}
    return int(sizes["MemAvailable"]) << 10 if "MemAvailable" in sizes else None


def disk(directory: Path, n_left: int) -> Check:
    """Write to where results and caches go; compare what n_left rows take with what is free."""
    for place in (directory, cache.cache_dir()):
        _prove_writable(nearest(place))
    free = shutil.disk_usage(nearest(directory)).free
    need = n_left * BYTES_OF_A_ROW + SPARE_BYTES
    text = f"about {_gigabytes(need)} for {n_left:,} rows, figures and logs, {_gigabytes(free)} free at {directory}"
    if need > free:
        return Check(name="disk", level="fails", found=f"{text}; free space, or give another --results-dir")
    return Check(name="disk", level="ok", found=text)


def nearest(path: Path) -> Path:
    """Return the directory itself, or the nearest one above it that is there."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _prove_writable(directory: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=directory, prefix=".writing-probe-") as stream:
            stream.write(secrets.token_bytes(lock.PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        way_out = "free space, change its permissions, or give another --results-dir or LORASWEEP_CACHE"
        raise BadInput(str(directory), "must be writable", got=error.strerror, way_out=way_out) from error


def free_to_run(directory: Path) -> Check:
    """Say whether another sweep is at work on the study."""
    holder = lock.holder(directory)
    if holder is None:
        return Check(name="lock", level="ok", found="no other sweep is at work on this study")
    found = f"process {holder} is at work on {directory}: a second sweep is refused; make status WATCH=1 follows it"
    return Check(name="lock", level="fails", found=found)


def storage(directory: Path, url: str | None, n_trials: int) -> Check:
    """Open the Optuna storage at `url`, which makes its tables as a sweep would; say what the journal is good for."""
    from bench.sweep.agenda import QUEUE_LIMIT
    from bench.sweep.optuna_mirror import bridge

    if url is not None:
        opened, _ = bridge.open_storage(directory, url)
        bridge.close_storage(opened)
        return Check(name="storage", level="ok", found=f"{bridge.redact(url)} answers")
    text = f"a journal beside the rows ({directory / 'optuna.journal'})"
    if n_trials > QUEUE_LIMIT:
        text += f"; above {QUEUE_LIMIT:,} trials Optuna only gets the finished ones, none is queued"
    return Check(name="storage", level="ok", found=text)


def _gigabytes(n_bytes: float | None) -> str:
    return "unknown" if n_bytes is None else f"{n_bytes / 1e9:.2f} GB"


def worst(checks: Sequence[Check]) -> Level:
    """Return the worst level among the checks."""
    levels = {check.level for check in checks}
    return "fails" if "fails" in levels else "note" if "note" in levels else "ok"
