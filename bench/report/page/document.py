"""The report as one self-contained HTML page: no file, script, font or picture from anywhere else.

templates/ holds the markup; this module works out what it shows. Jinja escapes all that comes from data; a content
security policy lets only the page's own script run and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.claims.verdict import Verdict
from bench.core import pruned
from bench.report.charts import Chart
from bench.report.data import Best, Report, Trouble
from bench.report.page import claims_section, compare_section, heat_section, optuna_section, speed_section, svg
from bench.report.page.tables import Value, decimal, rate, ratio, table, text, whole
from bench.report.text import counted, headline, listed, score, seeds, unit
from bench.report.text import verdict as three_paragraphs
from plots import style

View = Mapping[str, object]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CHARTS: dict[str, str] = {
    "ratio": "Ratio of the learning rates",
    "rank": "Rank",
    "curves": "Learning curves",
    "fresh": "Learning curves of the fresh runs",
    "rates": "Learning rate",
    "tuning": "Tuning curves",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the page; without a view it is left out."""

    name: str
    title: str
    template: str
    view: View | None
    half: bool = False  # it leaves room for another one beside it


def page(report: Report) -> str:
    """Return the whole page."""
    devices = listed(report.repeat.devices)
    facts = f"task {report.task}, model {report.model}, {unit(report)}; {counted(report.counts)}; device {devices}"
    fixed = f"All cells: {report.fixed}." if report.fixed else ""
    notes = [note for note in (facts, report.figure, fixed) if note]
    return render(report.study, notes, _sections(report))


def claims_page(verdicts: Sequence[Verdict]) -> str:
    """Return a page of claims alone, a figure of each."""
    counts = Counter(one.answer for one in verdicts)
    note = ", ".join(f"{n} {answer}" for answer, n in counts.most_common())
    by_document = groupby(verdicts, key=lambda one: one.claim.document)
    sections = [_claims(title, tuple(some), n) for n, (title, some) in enumerate(by_document, 1)]
    return render("Claims", [note], sections)


def _claims(title: str, verdicts: Sequence[Verdict], number: int | None = None) -> Section:
    name = "claims" if number is None else f"claims-{number}"
    return Section(
        name=name, title=title[0].upper() + title[1:], template="claims.html", view=claims_section.view(verdicts)
    )


def render(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a page with these sections; those without a view are left out."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment().get_template("page.html").render(
        title=title,
        notes=notes,
        sections=[section for section in sections if section.view is not None],
        policy=f"{_POLICY}; script-src 'sha256-{digest}'",
        css=Markup(_asset("report.css")),  # files of this package: markup, as no data ever is
        script=Markup(script),
    )  # fmt: skip


def environment() -> Environment:
    """Return what renders the templates: every value is escaped, a name that is not there is an error."""
    loader = PackageLoader("bench.report.page")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip


def _asset(name: str) -> str:
    return resources.files("bench.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def _sections(report: Report) -> list[Section]:
    charts = [
        Section(name=kind, title=title, template="charts.html", view=_charts(kind, report),
                half=sum(chart.kind == kind for chart in report.charts) == 1)
        for kind, title in _CHARTS.items()
    ]  # fmt: skip
    comparison, heat, speed = (module.view(report) for module in (compare_section, heat_section, speed_section))
    return [
        Section(name="verdict", title="Verdict", template="verdict.html", view=_verdict(report)),
        Section(name="comparison", title="Tuned comparison", template="comparison.html", view=comparison),
        Section(name="best", title="Best cells", template="table.html", view=_best(report)),
        Section(name="heatmaps", title="Learning-rate heatmaps", template="heatmaps.html", view=heat),
        *charts,
        Section(name="optuna", title="Which settings matter", template="optuna.html", view=optuna_section.view(report)),
        Section(name="speed", title="Speed and memory", template="speed.html", view=speed),
        _claims("Claims that rest on these rows", report.claims),
        Section(name="trouble", title="Diverged, collapsed and failed", template="trouble.html", view=_trouble(report)),
        Section(name="repeat", title="Repeat it", template="repeat.html", view=_repeat(report)),
    ]


def _verdict(report: Report) -> View:
    return {"headline": headline(report), "paragraphs": three_paragraphs(report), "borders": report.borders}


def _best(report: Report) -> View | None:
    if not report.best:
        return None
    columns: tuple[tuple[str, bool], ...] = (
        ("method", False), (unit(report), True), ("± s.e.", True), ("rank", True), ("η_A", True), ("λ", True),
        ("seeds", True), ("cells tried", True), ("trained parameters", True), ("train s", True),
    )  # fmt: skip
    others = tuple(dict.fromkeys(name for best in report.best for name in best.others))
    varied = tuple((name, False) for name in report.varying)
    columns = (*columns[:3], *((name, True) for name in others), *columns[3:6], *varied, *columns[6:])
    kinds = sorted({best.cell.stderr_kind for best in report.best if best.cell.stderr_kind})
    by = {best.chosen_by for best in report.best}
    chosen = "held-out training examples" if by == {"select_metric"} else "the evaluation split itself, which flatters"
    held_out = f" ({'; '.join(report.repeat.held_out)})" if by == {"select_metric"} and report.repeat.held_out else ""
    note = f"Each method's best cell, chosen on {chosen}{held_out}; scores on the evaluation split"
    note += f"; s.e.: standard error over {' or '.join(kinds)}." if kinds else "."
    timing = "" if all(b.timing_mode == "isolated" for b in report.best) else " Train seconds are shares of a pack."
    return {"note": note + timing, "table": table(columns, [_best_row(best, report, others) for best in report.best])}


def _best_row(best: Best, report: Report, others: tuple[str, ...]) -> list[Value]:
    cell = best.cell
    return [
        text(style.label(cell.series)), (score(cell.mean, report, digits=2), cell.mean),
        (score(cell.stderr, report, digits=2), cell.stderr),
        *((f"{best.others[name]:.4f}" if name in best.others else "–", best.others.get(name)) for name in others),
        whole(cell.rank), rate(cell.eta_A), ratio(cell.lr_ratio), *(text(value) for _, value in cell.settings),
        (seeds(cell).removesuffix(" seeds").removesuffix(" seed"), cell.n_ok), whole(best.n_choices),
        whole(best.n_trainable),
        decimal(best.train_seconds),
    ]  # fmt: skip


def _charts(kind: str, report: Report) -> View | None:
    mine = [chart for chart in report.charts if chart.kind == kind]
    if not mine:
        return None
    panels = [{"caption": chart.title, "drawn": _drawn(chart, mine, report)} for chart in mine]
    return {"note": f"{mine[0].note[:1].upper()}{mine[0].note[1:]}.", "panels": panels}


def _drawn(chart: Chart, beside: list[Chart], report: Report) -> svg.Drawn:
    name = f"{_CHARTS[chart.kind]}, {chart.title}".rstrip(", ")
    return svg.chart(chart, as_percent=report.higher_is_better, y_label=unit(report), title=name, beside=beside)


def _trouble(report: Report) -> View:
    columns = (
        ("what", False), ("method", False), ("rank", True), ("η_A", True), ("λ", True),
        *((name, False) for name in report.varying), ("seeds", False), ("detail", False),
    )  # fmt: skip
    shown = slice(None) if any(t.detail for t in report.troubles) else slice(-1)
    n = report.counts
    note = (
        f"{n.n_diverged} trials diverged, {n.n_collapsed} collapsed (they predict one class or end above chance loss), "
        f"{n.n_failed} failed or ran out of memory, {n.n_missing - n.n_failed} were not run."
    )
    note += f" Left out early: {pruned.told(n.n_pruned, n.share_saved)}." if n.n_pruned else ""
    rows = [_trouble_row(t)[shown] for t in report.troubles]
    return {"note": note, "table": table(columns[shown], rows, long=("detail",)) if rows else None}


def _trouble_row(t: Trouble) -> list[Value]:
    return [
        text(t.kind), text(style.label(t.series)), whole(t.rank), rate(t.eta_A), ratio(t.lr_ratio),
        *(text(value) for _, value in t.settings), text(listed(t.seeds)), text(t.detail),
    ]  # fmt: skip


def _repeat(report: Report) -> View:
    r = report.repeat
    others = report.counts.n_other_rows
    facts: list[tuple[str, str]] = [
        ("profile", r.profile), ("seeds", listed(r.seeds)), *((name, value) for name, value in r.settings),
        ("held out", "; ".join(r.held_out) or "–"),
        ("commit", listed(r.commits)), ("source hash", listed(r.source_hashes)),
        ("versions", "; ".join(r.versions) or "–"), ("device", listed(r.devices)),
        ("data hash", listed(r.data_hashes)), ("model hash", listed(r.model_hashes)),
        ("first pack, last pack", " to ".join(r.started) if r.started else "–"),
    ]  # fmt: skip
    warnings = []
    if any(commit.endswith("+") for commit in r.commits):
        warnings.append("A commit with + had uncommitted changes: the source hash, not the commit, says what ran.")
    if len(r.source_hashes) > 1:
        n = len(r.source_hashes)
        warnings.append(f"The rows come from {n} versions of the harness; --rerun-stale repeats them.")
    if others:
        warnings.append(f"{others} other rows in the directory are not of this study's cells and are not shown.")
    commands = [command for command in (r.command, r.compare_command) if command]
    return {"commands": commands, "warnings": warnings, "facts": facts, "study_file": r.study_file, "toml": r.toml}
