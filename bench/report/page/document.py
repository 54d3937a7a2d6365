"""The report as one self-contained HTML page: no file, script, font or picture from anywhere else.

Everything shown is escaped in bench/report/page/html.py; a content security policy lets only the page's own script run
and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from bench.report.charts import Chart
from bench.report.data import Best, Report, Trouble
from bench.report.page import compare_section, heat_section, speed_section, svg
from bench.report.page.html import Html, el, join, trusted
from bench.report.page.tables import Value, decimal, table, whole
from bench.report.text import counted, headline, listed, score, seeds, unit
from bench.report.text import verdict as three_sentences
from plots import style

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_HINT = "Point at a mark, tap it, or walk with the arrow keys."
_CHARTS: dict[str, str] = {
    "ratio": "Ratio of the learning rates",
    "rank": "Rank",
    "curves": "Learning curves",
    "fresh": "Learning curves of the fresh runs",
    "rates": "Learning rate",
    "tuning": "Tuning curves",
}


def page(report: Report) -> str:
    """Return the whole page."""
    script, css = _asset("report.js"), _asset("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"{_POLICY}; script-src 'sha256-{digest}'"
    sections = [s for s in _sections(report) if s[2]]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{report.study}: report"),
        el("style", trusted(css)),
    )
    body = el(
        "body", _header(report, sections),
        el("main", [_section(report, *section) for section in sections]),
        el("script", trusted(script)),
    )  # fmt: skip
    return "<!doctype html>\n" + el("html", head, body, lang="en") + "\n"


def _section(report: Report, name: str, title: str, content: Html) -> Html:
    """Return a section; one with a single chart leaves room for another one beside it."""
    alone = sum(chart.kind == name for chart in report.charts) == 1
    return el("section", el("h2", title), content, id=name, class_="half" if alone else None)


def _asset(name: str) -> str:
    return resources.files("bench.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def _header(report: Report, sections: Sequence[tuple[str, str, Html]]) -> Html:
    devices = listed(report.repeat.devices)
    facts = f"task {report.task}, model {report.model}, {unit(report)}; {counted(report.counts)}; device {devices}"
    links = [el("li", el("a", title, href=f"#{name}")) for name, title, _ in sections]
    return el(
        "header", el("h1", report.study), el("p", facts, class_="note"),
        el("p", report.figure, class_="note") if report.figure else None,
        el("p", f"All cells: {report.fixed}." if report.fixed else None, class_="note"),
        el("nav", el("ul", links), aria_label="Sections"),
    )  # fmt: skip


def _sections(report: Report) -> list[tuple[str, str, Html]]:
    """Return (id, title, content) of every section; one without content is left out."""
    heat = [heat_section.heatmap(panel, report) for panel in report.heatmaps]
    heatmaps = join(heat_section.key(report), _panels(heat, wide=True)) if heat else Html("")
    charts = [(kind, title, _charts(kind, report)) for kind, title in _CHARTS.items()]
    return [
        ("verdict", "Verdict", _verdict(report)),
        ("comparison", "Tuned comparison", compare_section.section(report)),
        ("best", "Best cells", _best(report)),
        ("heatmaps", "Learning-rate heatmaps", heatmaps),
        *charts,
        ("speed", "Speed and memory", speed_section.section(report)),
        ("trouble", "Diverged, collapsed and failed", _trouble(report)),
        ("repeat", "Repeat it", _repeat(report)),
    ]  # fmt: skip


def _verdict(report: Report) -> Html:
    sentences = [el("p", sentence) for sentence in three_sentences(report)]
    warnings = [el("p", f"Warning: {border}.", class_="note") for border in report.borders]
    first = el("p", el("strong", headline(report)))
    return join(el("div", join(first, sentences), class_="verdict"), warnings)


def _best(report: Report) -> Html:
    columns: tuple[tuple[str, bool], ...] = (
        ("method", False), (unit(report), True), ("± s.e.", True), ("rank", True), ("η_A", True), ("λ", True),
        ("seeds", True), ("cells tried", True), ("trained parameters", True), ("train s", True),
    )  # fmt: skip
    others = tuple(dict.fromkeys(name for best in report.best for name in best.others))
    varied = tuple((name, False) for name in report.varying)
    columns = (*columns[:3], *((name, True) for name in others), *columns[3:6], *varied, *columns[6:])
    rows = [_best_row(best, report, others) for best in report.best]
    kinds = sorted({best.cell.stderr_kind for best in report.best if best.cell.stderr_kind})
    by = {best.chosen_by for best in report.best}
    chosen = "held-out training examples" if by == {"select_metric"} else "the evaluation split itself, which flatters"
    note = f"Each method's best cell, chosen on {chosen}; scores on the evaluation split"
    note += f"; s.e.: standard error over {' or '.join(kinds)}." if kinds else "."
    timing = "" if all(b.timing_mode == "isolated" for b in report.best) else " Train seconds are shares of a pack."
    return join(el("p", note + timing, class_="note"), table(columns, rows)) if rows else Html("")


def _best_row(best: Best, report: Report, others: tuple[str, ...]) -> list[Value]:
    cell = best.cell
    name = style.label(cell.series)
    return [
        (name, name), (score(cell.mean, report, digits=2), cell.mean),
        (score(cell.stderr, report, digits=2), cell.stderr),
        *((f"{best.others[name]:.4f}" if name in best.others else "–", best.others.get(name)) for name in others),
        whole(cell.rank), (style.rate(cell.eta_A), cell.eta_A),
        ("–" if cell.lr_ratio is None else style.ratio(cell.lr_ratio), cell.lr_ratio), *_texts(cell.settings),
        (seeds(cell).removesuffix(" seeds").removesuffix(" seed"), cell.n_ok), whole(best.n_choices),
        whole(best.n_trainable),
        decimal(best.train_seconds),
    ]  # fmt: skip


def _texts(settings: Sequence[tuple[str, str]]) -> list[Value]:
    return [(text, text) for _, text in settings]


def _charts(kind: str, report: Report) -> Html:
    mine = [chart for chart in report.charts if chart.kind == kind]
    if not mine:
        return Html("")
    note = f"{mine[0].note[:1].upper()}{mine[0].note[1:]}."
    return join(el("p", note, class_="note"), _panels([_chart(c, report) for c in mine]))


def _chart(chart: Chart, report: Report) -> Html:
    name = f"{_CHARTS[chart.kind]}, {chart.title}".rstrip(", ")
    beside = [other for other in report.charts if other.kind == chart.kind]
    drawn = svg.chart(chart, as_percent=report.higher_is_better, y_label=unit(report), title=name, beside=beside)
    return el(
        "figure", el("figcaption", chart.title) if chart.title else None, el("div", drawn, data_roving=True),
        svg.legend(chart), el("p", _HINT, class_="readout", aria_live="polite"),
    )  # fmt: skip


def _panels(figures: Sequence[Html], *, wide: bool = False) -> Html:
    return el("div", figures, class_="panels wide" if wide else "panels")


def _trouble(report: Report) -> Html:
    if not report.troubles:
        return el("p", "None: every trial of the study ended with a score.")
    columns = (
        ("what", False), ("method", False), ("rank", True), ("η_A", True), ("λ", True),
        *((name, False) for name in report.varying), ("seeds", False), ("detail", False),
    )  # fmt: skip
    n = report.counts
    note = (
        f"{n.n_diverged} trials diverged, {n.n_collapsed} collapsed (they predict one class or end above chance loss), "
        f"{n.n_failed} failed or ran out of memory, {n.n_missing - n.n_failed} were not run."
    )
    rows = [_trouble_row(t) for t in report.troubles]
    return join(el("p", note, class_="note"), table(columns, rows, long=("detail",)))


def _trouble_row(t: Trouble) -> list[Value]:
    name = style.label(t.series)
    return [
        (t.kind, t.kind), (name, name), whole(t.rank), (style.rate(t.eta_A), t.eta_A),
        ("–" if t.lr_ratio is None else style.ratio(t.lr_ratio), t.lr_ratio), *_texts(t.settings),
        (listed(t.seeds), listed(t.seeds)), (t.detail, t.detail),
    ]  # fmt: skip


def _repeat(report: Report) -> Html:
    r = report.repeat
    others = report.counts.n_other_rows
    facts: list[tuple[str, str]] = [
        ("profile", r.profile), ("seeds", listed(r.seeds)), *((name, value) for name, value in r.settings),
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
    listing = [join(el("dt", name), el("dd", value)) for name, value in facts]
    return join(
        el("p", "The commands:" if r.compare_command else "The command:"),
        el("pre", "\n".join(filter(None, (r.command, r.compare_command))), tabindex="0"),
        [el("p", w, class_="note") for w in warnings],
        el("dl", listing), el("h3", r.study_file), el("pre", r.toml, tabindex="0"),
    )  # fmt: skip
