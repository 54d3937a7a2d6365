"""The options of the last sweep of a study: kept beside its rows, and what commands that read rows go by.

Also what to say where no row has the settings that were asked for: which settings differ.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench import methods
from bench.commands._options import Selection
from bench.core import cache, record, rules
from bench.core.errors import BadInput
from bench.core.spec import Study, Trial
from bench.study import layer, overrides, varying

NAME = ".options.json"
NOT_KEPT = ("study", "task", "model", "device")  # they say which directory it is, and where this machine trains
# They say which directory it is, or what an id is made of.
_WHERE = ("task", "model", "data_hash", "model_hash", "spec_version")
COMPARED = ("seed", *(name for name in varying.ORDER if name not in _WHERE))


def keep(selection: Selection, study: Study) -> None:
    """Note the options of a sweep that begins; losing the note costs only that they must be given again."""
    kept = {key: text for key, text in selection.overrides.items() if key not in NOT_KEPT}
    data_dir = None if selection.data_dir is None else str(selection.data_dir.absolute())
    # What follows from the device, too: rows are read on other machines.
    options = {**kept, "profile": study.profile, "precision": study.budget.precision}
    note = {"options": options, "data_dir": data_dir}
    if study.profile == rules.ADVISED:
        from bench.comparison import advised

        advised.keep(study, selection.results_dir)
    with contextlib.suppress(OSError):
        cache.write_text(selection.directory(study) / NAME, json.dumps(note, indent=1))


def as_swept(selection: Selection, *, tell: bool = True) -> Selection:
    """Return the selection with the options of the last sweep of its study wherever it gives none itself.

    What is given counts: --methods narrows the last sweep's, and axes that none of them reads are left out.
    """
    try:
        note = json.loads((selection.directory(selection.study()) / NAME).read_text(encoding="utf-8"))
        kept = {str(key): str(text) for key, text in note["options"].items() if key in overrides.BY_KEY}
        data_dir = None if note["data_dir"] is None else Path(note["data_dir"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return selection
    given = selection.overrides
    rivals = {"eta_B": "lr_ratio", "lr_ratio": "eta_B"}
    taken = {key: text for key, text in kept.items() if key not in given and rivals.get(key) not in given}
    both = {**taken, **given}
    ordered = {key: both[key] for key in overrides.BY_KEY if key in both}
    found = replace(selection, overrides=ordered, data_dir=selection.data_dir or data_dir)
    if "methods" in given:
        found = replace(found, overrides=_read_by(found.overrides, keep=given))
    try:
        study = found.study()
    except BadInput:  # of another version, or the study file has changed since: then only what is given counts
        return selection
    same = {"profile", *(["precision"] if study.budget.precision == selection.study().budget.precision else [])}
    new = {key: text for key, text in found.overrides.items() if key not in given and key not in same}
    if new and tell:
        words = " ".join(f"{overrides.BY_KEY[key].variable}={text}" for key, text in new.items())
        print(f"{study.name}: as last swept, {words}", file=sys.stderr)
    return found


def _read_by(texts: Mapping[str, str], *, keep: Mapping[str, str]) -> dict[str, str]:
    """Return the options without the axes that none of the methods reads, unless they are in `keep`."""
    chosen = [name.strip() for name in texts["methods"].split(",") if name.strip() in methods.names()]
    read = {key for name in chosen for key in layer.grid_keys(name, "--methods")}
    return {
        key: text for key, text in texts.items() if key in keep or overrides.BY_KEY[key].place != "grid" or key in read
    }


def none_found(where: Path, table: pa.Table, trials: Sequence[Trial], *, otherwise: str) -> BadInput:
    """Return the error for a directory that has no row of these trials: which settings its rows differ in."""
    rule = "there must be finished trials of the study"
    if not table.num_rows:
        return BadInput(str(where), rule, way_out=f"run make sweep with the same options first, {otherwise}")
    told = differing(table, trials)
    words = "; ".join(told) if told else "every setting asked for is there, but not together"
    got = f"{table.num_rows:,} rows with other settings ({words})"
    return BadInput(str(where), rule, got=got, way_out=f"give the options of that sweep, sweep these, {otherwise}")


def differing(table: pa.Table, trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return a line for each setting of which the rows have no value that the trials have."""
    found = []
    for name in COMPARED:
        if name not in table.column_names:
            continue
        here = set(table.column(name).to_pylist()) - {None}
        asked = {record.stored(trial, name) for trial in trials} - {None}
        if here and asked and not here & asked:
            found.append(f"{name} {_some(here)}, asked for {_some(asked)}")
    return tuple(found)


def of_ids(table: pa.Table, ids: Iterable[str]) -> pa.Table:
    """Return the rows of these trials."""
    return table.filter(pa.compute.is_in(table.column("trial_id"), pa.array(sorted(ids), pa.string())))


def _some(values: Iterable[Any]) -> str:
    shown = sorted(str(f"{v:g}" if isinstance(v, float) else v) for v in values)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
