"""bench doctor: looks at what a long sweep needs, and says what would stop or spoil it, before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, study_command

if TYPE_CHECKING:
    from bench.checks.doctor import Check
    from bench.commands._resolve import Resolved
    from bench.sweep import Preview

LONG_SECONDS = 600.0


@study_command
def command(
    selection: Selection,
    storage: Annotated[
        str | None,
        typer.Option(help="Optuna storage URL to try", envvar="LORASWEEP_STORAGE", show_default=False),
    ] = None,
) -> int:
    """Check device, data, model, Hub, memory, disk and storage; exit code 1 if a sweep would fail."""
    from bench.checks import doctor, preflight
    from bench.commands import _resolve
    from bench.core import devices

    study = selection.study()
    directory = selection.directory(study)
    found: list[Check] = []

    def look(name: str, check: Callable[[], Check]) -> None:
        found.append(doctor.guarded(name, check))
        print(_line(found[-1]), flush=True)

    look("device", lambda: doctor.device(study))
    if found[-1].level != "fails" and (chosen := devices.resolve(study.device)).startswith("cuda"):
        look("kernels", lambda: doctor.kernels(chosen))
    subject = preflight.Subject(study)
    for finding in preflight.look(subject):
        look(finding.name, lambda finding=finding: doctor.of_preflight(finding))  # type: ignore[misc]
    failed = {check.name for check in found if check.level == "fails"}
    look("Hub", lambda: doctor.hub_answers(needed=bool(failed & {"data", "model"})))
    n_left = 0 if failed & set(preflight.RESOLVED) else _plan(look, _resolve.Resolved.of(subject), selection)
    look("disk", lambda: doctor.disk(directory, n_left))
    look("lock", lambda: doctor.free_to_run(directory))
    look("storage", lambda: doctor.storage(directory, storage, n_left))
    print()
    print(_verdict(found))
    return 1 if doctor.worst(found) == "fails" else 0


def _plan(look: Callable[[str, Callable[[], Check]], None], resolved: Resolved, selection: Selection) -> int:
    """Look at the memory and the time that the trials take; return how many are left to run."""
    from bench import sweep
    from bench.checks import doctor
    from bench.models._locate import weight_files

    options = resolved.sweep_options()
    preview = sweep.preview(resolved.study, resolved.trials, results_dir=selection.results_dir, options=options)
    size = sum(path.stat().st_size for path in weight_files(resolved.located.directory))
    look("memory", lambda: doctor.memory(resolved.study, preview.pending, options.limits, size))
    look("time", lambda: _time(resolved, preview, selection))
    return preview.n_trials - preview.n_finished


def _time(resolved: Resolved, preview: Preview, selection: Selection) -> Check:
    """Say how long all that is left takes, and the longest pack of it."""
    from bench.checks.doctor import Check
    from bench.commands import _show, _text
    from bench.schedule import estimate

    if preview.estimate is None or not preview.pending:
        return Check(name="time", level="ok", found="nothing is left to run")
    options, speeds = resolved.sweep_options(), estimate.read_calibration(selection.results_dir)
    assert options.workload is not None  # as sweep_options gives it
    longest = max(estimate.estimate([p], speeds, options.workload, options.place).seconds for p in preview.pending)
    text = f"about {_show.duration(preview.estimate)}; the longest pack {_text.duration(longest)}"
    if longest > LONG_SECONDS:
        text += ", whose state is saved every 5 minutes"
    return Check(name="time", level="ok", found=text)


def _line(check: Check) -> str:
    from bench.core.errors import one_line

    return f"{check.level:<6} {check.name:<9} {one_line(check.found)}"


def _verdict(found: list[Check]) -> str:
    fails = [check.name for check in found if check.level == "fails"]
    notes = [check.name for check in found if check.level == "note"]
    if fails:
        return f"a sweep would fail: {', '.join(fails)}"
    return "a sweep can run" + (f"; worth a look: {', '.join(notes)}" if notes else "")
