"""What the commands print about a study: its settings, how far it is, its best cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from bench.best import Best
from bench.commands import _text
from bench.commands._resolve import Resolved
from bench.record import Status
from bench.spec import Trial


def heading(resolved: Resolved, directory: Path) -> str:
    """Return what is run, in a few lines: study, data, budget, profile, place."""
    study, budget = resolved.study, resolved.study.budget
    data = f"{len(resolved.data.train):,} / {len(resolved.data.eval):,} examples"
    clip = "no clipping" if budget.max_grad_norm is None else f"clipped at {budget.max_grad_norm:g}"
    lines = [
        f"{study.name}: {resolved.task.name} ({data}, {resolved.task.metric}) on {resolved.located.name}",
        f"profile {study.profile}, device {study.device}, {budget.precision}; seeds {', '.join(map(str, study.seeds))}",
        f"{budget.max_steps} steps of {budget.batch_size}, {budget.optimizer}, {budget.lr_scheduler_type} schedule, "
        f"{budget.warmup_steps} warm-up steps, {clip}, evaluated every {budget.eval_steps} steps",
        f"results in {directory}",
    ]
    return "\n".join(lines)


def progress(by_method: Mapping[str, Sequence[Trial]], rows: Mapping[str, str], attempts: Collection[str]) -> str:
    """Return a table of trials, finished, diverged and tried in vain for each method.

    `rows` maps the id of each finished trial to its status, `attempts` holds the ids of those that failed. A trial
    that LoRA+ shares with LoRA counts for LoRA, as which it is stored.
    """
    lines = []
    for method in dict.fromkeys(t.method for trials in by_method.values() for t in trials):
        ids = {t.trial_id for trials in by_method.values() for t in trials if t.method == method}
        done = Counter(rows[i] for i in ids if i in rows)
        failed = sum(1 for i in ids if i in attempts and i not in rows)
        n_done = sum(done.values())
        lines.append((method, str(len(ids)), str(n_done), str(done[str(Status.DIVERGED)]), str(failed)))
    return _text.table(("method", "trials", "finished", "diverged", "failed"), lines)


def best_table(found: Sequence[Best], metric: str) -> str:
    """Return the best cells: where they lie, their mean over seeds, the number of seeds and the spread."""
    header = ("method", "rank", "eta_A", "lambda", metric, "+-", "seeds")
    rows = [
        (
            best.method if best.mora_type is None else f"{best.method} type {best.mora_type}",
            "-" if best.rank is None else str(best.rank),
            _text.rate(best.eta_A),
            "-" if best.lr_ratio is None else f"{best.lr_ratio:g}",
            f"{best.mean:.4f}",
            "-" if best.stderr is None else f"{best.stderr:.4f}",
            str(best.n) if best.n == best.n_planned else f"{best.n} of {best.n_planned}",
        )
        for best in found
    ]
    return f"{_text.table(header, rows)}\n{_legend(found)}"


def _legend(found: Sequence[Best]) -> str:
    kinds = sorted({best.stderr_of for best in found if best.stderr_of is not None})
    chosen = sorted({best.chosen_by for best in found})
    by = {
        "select_metric": "chosen on training examples that were held out",
        "metric_value": "chosen on the evaluation split itself, which flatters: nothing was held out",
    }
    spread = f"; +-: standard error over {' or '.join(kinds)}" if kinds else ""
    return f"best cells {' and '.join(by[key] for key in chosen)}, reported on the evaluation split{spread}"


def border_warnings(found: Sequence[Best]) -> Iterator[str]:
    """Yield a line for each best cell that lies on its grid's border: the good region may go on beyond it."""
    for best in found:
        if best.borders:
            name = best.method if best.mora_type is None else f"{best.method} type {best.mora_type}"
            rank = "" if best.rank is None else f" at rank {best.rank}"
            axes = " and ".join("lambda" if axis == "lr_ratio" else axis for axis in best.borders)
            yield f"warning: the best cell of {name}{rank} lies on the border of its grid ({axes}): widen it there"
