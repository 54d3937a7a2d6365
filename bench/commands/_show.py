"""What the commands print about a study: its settings, how far it is, its best cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from bench import methods, searches
from bench.commands import _text
from bench.commands._resolve import Resolved
from bench.core import devices
from bench.core.cells import BestCell
from bench.core.record import Status
from bench.core.spec import SERIES, Study, Trial
from bench.data.splits import TextData
from bench.schedule.estimate import Estimate
from bench.schedule.price import Price
from bench.study import varying
from bench.sweep import Preview, planning
from bench.sweep.live import Live

MOST_SHARED = 0.05  # of a scored split may stand in train without a word
MOST_CLASSES = 8  # whose numbers fit into a terminal


def heading(resolved: Resolved, directory: Path, device: str) -> str:
    """Return what is run, in a few lines: study, data, budget, profile, place."""
    study, budget = resolved.study, resolved.study.budget
    data = f"{len(resolved.data.train):,} / {len(resolved.data.eval):,} examples"
    if resolved.test is not None:
        data += f" + {len(resolved.test):,} to test chosen cells"
    clip = "no clipping" if budget.max_grad_norm is None else f"clipped at {budget.max_grad_norm:g}"
    lines = [
        f"{study.name}: {resolved.task.name} ({data}, {resolved.task.metric}) on {resolved.located.name}",
        f"profile {study.profile}; device {device}, {precision(study)}; seeds {', '.join(map(str, study.seeds))}",
        f"{_text.count(budget.max_steps, 'step')} of {budget.batch_size}, {budget.optimizer}, "
        f"{budget.lr_scheduler_type} schedule, {_text.count(budget.warmup_steps, 'warm-up step')}, {clip}, "
        f"evaluated {_text.every(budget.eval_steps)}",
        *_unused(study),
        *([resolved.task.assumed] if resolved.task.assumed else []),
        *([held_out(resolved)] if resolved.n_select_asked else []),
        *overlaps(resolved),
        *([resolved.layers] if resolved.layers else []),
        f"results in {directory}",
    ]
    return "\n".join(lines)


def precision(study: Study) -> str:
    """Return in what is computed, in what the base is held where that is another, and what would be faster on a GPU."""
    budget = study.budget
    if budget.base_precision != "same":
        return f"{budget.precision}, base {budget.base_precision}"
    why = ""
    if study.precision_by_device:
        why = " (this GPU's matrix units multiply in it, and the study states none; PRECISION=fp32 or tf32 otherwise)"
    elif budget.precision == "fp32" and devices.resolve(study.device).startswith("cuda"):
        why = " (stated; bf16 or tf32 are faster: a GPU's matrix units do not multiply in fp32)"
    return f"{budget.precision}{why}"


def _unused(study: Study) -> tuple[str, ...]:
    """Return a line on a GPU that nobody has refused and the installed torch cannot use; none elsewhere."""
    unused = devices.unused_gpu() if study.device == "auto" else None
    return () if unused is None else (f"warning: {unused.found}: this trains on the CPU; {unused.way_out}",)


def held_out(resolved: Resolved) -> str:
    """Return how many training examples are held out for choosing, and how many are left out for them."""
    n, asked, meaning = resolved.study.budget.n_select, resolved.n_select_asked, resolved.trials[0].meaning
    if not n:
        return f"no training example can be held out (n_select = {asked:,}): cells are chosen on the evaluation split"
    wish = "" if n == asked else f" (n_select = {asked:,}: no more can be)"
    left = f", {meaning.n_left_out:,} left out that overlap with them" if meaning.n_left_out else ""
    return f"{n:,} training examples held out for choosing{wish}{left}"


def overlaps(resolved: Resolved) -> tuple[str, ...]:
    """Return a line for each split that is scored and holds training examples, 5 % of its own or more."""
    if not isinstance(resolved.data, TextData):
        return ()
    found = [
        (name, split.n_in(resolved.data.train), len(split))
        for name, split in (("evaluation", resolved.data.eval), ("test", resolved.test))
        if split is not None
    ]
    why = "stand in train, too: on these the score tells what was learnt by heart"
    return tuple(f"{n:,} of {of:,} {name} examples {why}" for name, n, of in found if n and n >= MOST_SHARED * of)


def plan(study: Study, preview: Preview) -> str:
    """Return a table of each method's axes, trials and packs, and the time that is left."""
    if not searches.get(study.sampler).planned:
        names = ", ".join(grid.method for grid in study.grids)
        stops = "" if study.pruner is None else f"\npruner {study.pruner}: trials may stop at each evaluation"
        grows = "".join(f"\n{line}" for line in _widening(study, study.n_trials or 0, "of each method"))
        chosen = f"{study.n_trials} trials for each of {names}, chosen as the results come in"
        return f"sampler {study.sampler}: {chosen}{stops}{grows}"
    trials = [trial for pack in preview.packs for trial in pack.trials]
    varied = varying.of_trials(trials, but=(*SERIES, "rank", *varying.RATES))
    header = ("method", "rank", "eta_A", "lambda", *varied, "trials", "packs")
    rows = [_plan_row(name, preview, varied) for name in dict.fromkeys(name_of(trial) for trial in trials)]
    left = sum(pack.size for pack in preview.pending)
    summary = f"{_text.count(preview.n_trials, 'trial')} in {_text.count(len(preview.packs), 'pack')}; "
    summary += f"{preview.n_finished:,} finished, {left:,} to run in {_text.count(len(preview.pending), 'pack')}"
    more = (*preview.packing, *_rungs(study, trials), *_widening(study, len(trials), "in all"))
    sizes = "".join(f"\n{line}" for line in more)
    summary += f", {preview.n_pruned:,} left out at a rung" if preview.n_pruned else ""
    return f"{_text.table(header, rows)}{sizes}\n{summary}{_time(preview.estimate, left)}"


def _rungs(study: Study, trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return a line on where cells are left out, how many go on, and what is saved; none where all train to the end."""
    rungs = searches.rungs_of(study)
    if rungs is None:
        return ()
    steps = sorted({step for trial in trials for step in rungs.steps(trial.budget.max_steps)})
    later = "; other seeds train in the cells that are left" if len(study.seeds) > 1 else ""
    return (
        f"sampler {study.sampler}: after steps {', '.join(map(str, steps))} the best {rungs.keep:.0%} of each method's "
        f"cells go on, by training loss{later}: {planning.share_of_steps(trials, rungs):.0%} of the grid's steps",
    )


def _widening(study: Study, n_trials: int, of: str) -> tuple[str, ...]:
    """Return a line on the trials that may come to a study beyond its border; none where it stays as it is."""
    n_extra = int(study.max_extra * n_trials + 1e-9)
    if not searches.widens(study) or not n_extra:
        return ()
    return (f"widen: where the best lie on the border, up to {_text.count(n_extra, 'more trial')} {of} beyond it",)


def _plan_row(method: str, preview: Preview, varied: Sequence[str]) -> tuple[str, ...]:
    trials = [trial for pack in preview.packs for trial in pack.trials if name_of(trial) == method]
    n_packs = sum(any(name_of(trial) == method for trial in pack.trials) for pack in preview.packs)
    ranks = sorted({trial.rank for trial in trials if trial.rank is not None})
    rates = sorted({trial.eta_A for trial in trials})
    ratios = sorted({trial.lr_ratio for trial in trials if trial.lr_ratio is not None})
    return (
        method,
        ",".join(map(str, ranks)) or "-",
        _range([_text.rate(rate) for rate in rates]),
        _range([_text.ratio(ratio) for ratio in ratios]),
        *(_values(trials, name) for name in varied),
        str(len(trials)),
        str(n_packs),
    )


def _values(trials: Sequence[Trial], name: str) -> str:
    """Return the values of a setting, each listed; a value that is a list itself is parted from the next by a bar."""
    cells = {trial.cell: varying.settings_of(trial) for trial in trials}.values()
    found = dict.fromkeys(varying.value(cell, name) for cell in cells)
    shown = [varying.spelled(name, one) for one in found if one is not None]
    return (" | " if any(", " in text for text in shown) else ",").join(shown) or "-"


def _range(values: Sequence[str]) -> str:
    """Return the ends of an axis and how many values it has."""
    if len(values) < 2:
        return "".join(values) or "-"
    return f"{values[0]} .. {values[-1]} ({len(values)})"


def _time(estimate: Estimate | None, left: int) -> str:
    if estimate is None or not left:
        return ""
    return f"; about {duration(estimate)}"


def price(found: Price, n_trials: int) -> str:
    """Return what a study takes of which data or model is not on this machine, or why nobody knows."""
    trials = _text.count(n_trials, "trial")
    if found.estimate is None:
        return f"{trials}; no price: {found.doubt}"
    bound = ", at most: " if found.at_most else ", "
    why = f" ({found.doubt}: each counts with max_length tokens, evaluation left out)" if found.at_most else ""
    return f"{trials}, finished or not{bound}about {duration(found.estimate)}{why}"


def duration(estimate: Estimate) -> str:
    """Return an estimate in words; one that rests on no measurement says so."""
    doubt = "" if estimate.calibrated else " (uncalibrated: nothing like it was measured on this device yet)"
    return f"{_text.duration(estimate.seconds)}{doubt}"


def progress(
    trials: Sequence[Trial], rows: Mapping[str, str], attempts: Collection[str], pruned: Collection[str] = ()
) -> str:
    """Return a table of trials, finished, diverged and failed for each method, and pruned where some are.

    `rows` maps the id of each finished trial to its status, `attempts` holds the ids of those that failed, `pruned` of
    those that were left out at a rung.
    """
    lines = []
    for method in dict.fromkeys(name_of(trial) for trial in trials):
        ids = [trial.trial_id for trial in trials if name_of(trial) == method]
        done = Counter(rows[i] for i in ids if i in rows)
        failed = sum(1 for i in ids if i in attempts and i not in rows)
        left_out = sum(1 for i in ids if i in pruned and i not in rows)
        counts = (len(ids), done.total(), done[str(Status.DIVERGED)], failed, left_out)
        lines.append((method, *map(str, counts)))
    header = ("method", "trials", "finished", "diverged", "failed", "pruned")
    n_columns = len(header) if any(line[-1] != "0" for line in lines) else len(header) - 1
    return _text.table(header[:n_columns], [line[:n_columns] for line in lines])


def at_work(live: Live | None, n_finished: int, n_trials: int) -> str:
    """Return what the sweep at work does, if there is one: packs, trials running, time left, steps of the pack."""
    counts = f"{n_finished:,} of {n_trials:,} trials finished"
    if live is None:
        return counts if n_finished >= n_trials else f"{counts}; no sweep is at work on them"
    parts = [counts, f"process {live.pid} at work"]
    if live.n_packs:
        parts.append(f"pack {min(live.n_stored + 1, live.n_packs)} of {live.n_packs}")
    if live.running:
        steps = "" if None in (live.steps_done, live.n_steps) else f" (step {live.steps_done} of {live.n_steps})"
        parts.append(f"{_text.count(live.running, 'trial')} running{steps}")
    if live.remaining_seconds is not None:
        parts.append(f"about {_text.duration(live.remaining_seconds)} left when last told, {live.at}")
    return "; ".join(parts)


def best_table(best: Sequence[BestCell], metric: str, n_seeds: int, trials: Iterable[Trial] = ()) -> str:
    """Return the best cell of each method: where it lies, its mean over seeds, its spread, the task's other metrics.

    It lies at a rank, at its rates, and at every setting that has several values among `trials`.
    """
    varied = [name for name in varying.of_trials(trials) if name != "rank"]
    others = list(dict.fromkeys(name for cell in best for name in cell.others))
    whole = [name for name in others if not name.endswith("]")]
    header = ("method", "rank", "eta_A", "lambda", *varied, metric, "+-", *whole, "seeds")
    rows = [
        (
            name_of(cell.trial),
            "-" if cell.trial.rank is None else str(cell.trial.rank),
            _text.rate(cell.trial.eta_A),
            _text.ratio(cell.trial.lr_ratio),
            *(_values([cell.trial], name) for name in varied),
            "diverged" if cell.mean is None else f"{cell.mean:.4f}",
            "-" if cell.spread is None else f"{cell.spread:.4f}",
            *_others(cell, whole),
            _seeds(cell, n_seeds),
        )
        for cell in best
    ]
    return (
        f"{_text.table(header, rows)}\n{_legend(best)}{_by_class(best, [name for name in others if name not in whole])}"
    )


def _others(cell: BestCell, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{cell.others[name]:.4f}" if name in cell.others else "-" for name in names)


def _by_class(best: Sequence[BestCell], names: Sequence[str]) -> str:
    """Return a table of what is one number for each class, such as recall[good]; nothing where there is none."""
    if not names:
        return ""
    if len(names) > MOST_CLASSES:
        return f"\n{len(names)} numbers by class, such as {names[0]}, are in the rows: column other_metrics"
    rows = [(name_of(cell.trial), *_others(cell, names)) for cell in best]
    return f"\n\n{_text.table(('method', *names), rows)}"


def name_of(trial: Trial) -> str:
    """Return the method, with its type."""
    return methods.identity(trial).arm


def place_of(trial: Trial, varied: Sequence[str] = ()) -> str:
    """Return where a trial lies in its grid, in words: its rank, its rates, and its settings `varied`."""
    rank = "" if trial.rank is None else f", rank {trial.rank}"
    ratio = "" if trial.lr_ratio in (None, 1) else f", lambda {_text.ratio(trial.lr_ratio)}"
    more = varying.words_of(trial, [name for name in varied if name != "rank"])
    return f"{name_of(trial)}{rank}, eta_A {_text.rate(trial.eta_A)}{ratio}{f', {more}' if more else ''}"


def _seeds(cell: BestCell, n_seeds: int) -> str:
    n_ok = cell.n - cell.n_diverged
    return str(n_ok) if n_ok == n_seeds else f"{n_ok} of {n_seeds}"


def _legend(best: Sequence[BestCell]) -> str:
    kinds = sorted({cell.spread_of for cell in best if cell.spread_of is not None})
    by = {
        "select_metric": "chosen on training examples held out for it",
        "metric_value": "chosen on the evaluation split itself, which flatters (n_select = 0)",
    }
    chosen = " and ".join(by[key] for key in sorted({cell.chosen_by for cell in best}))
    spread = f"; +-: standard error over {' or '.join(kinds)}" if kinds else ""
    return f"best cells {chosen}, reported on the evaluation split{spread}"
