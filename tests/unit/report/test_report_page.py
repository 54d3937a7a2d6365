"""The page of a report: nothing from data reaches the markup, and a browser opens it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import escape

from bench import cli
from bench.core.record import Provenance, Status
from bench.report import contents as report
from bench.report import text as report_text
from bench.report.data import Source
from bench.report.page import document as page
from bench.report.page import tables
from plots.tidy import StudyInfo
from tests.support.comparisons import compared, noisy
from tests.support.plot_rows import frame, lora_grid
from tests.support.report_helpers import (
    ETAS,
    NO_ATTEMPTS,
    RATIOS,
    SEEDS,
    SOURCE,
    STUDY,
    built,
    hand_made,
    outcome,
    rows_of,
    with_optuna,
)


class Tags(HTMLParser):
    """Collects tags, attributes and text, as a browser would read them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    return tags


HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&"


def test_no_text_from_data_becomes_markup() -> None:
    place = Provenance(git_commit=HOSTILE, git_dirty=True, source_hash=HOSTILE, versions=json.dumps({HOSTILE: HOSTILE}),
                       device=HOSTILE)  # fmt: skip
    trials = tuple(replace(t, task=HOSTILE, model=HOSTILE, data_hash=HOSTILE) for t in hand_made()[1])
    values = (outcome(0.8), outcome(0.5), outcome(None, reason=HOSTILE), outcome(0.7), outcome(0.6), outcome(0.6))
    study = replace(STUDY, name=HOSTILE, task=HOSTILE, model=HOSTILE, figure=HOSTILE, profile=HOSTILE)
    source = Source(command=HOSTILE, study_file=HOSTILE, toml=HOSTILE, borders=(HOSTILE,))
    failed = outcome(None, status=Status.FAILED, reason=HOSTILE, diverged_step=None)
    more = replace(trials[0], seed=5)
    rows = rows_of(dict(zip(trials, values, strict=True)), place=place)
    rows["metric_name"] = HOSTILE
    found = built(rows, (*trials, more), attempts=rows_of({more: failed}), study=study, source=source)
    drawn = page.page(found)
    tags = parsed(drawn)
    assert [name for name, _ in tags.tags].count("script") == 1
    assert not {"img", "iframe", "object", "link"} & {name for name, _ in tags.tags}
    assert not [key for _, attributes in tags.tags for key in attributes if key.startswith("on")]
    assert drawn.count(escape(HOSTILE)) > 10
    assert HOSTILE not in drawn


def test_the_page_asks_for_nothing_and_only_its_own_script_may_run() -> None:
    drawn = page.page(with_optuna())
    tags = parsed(drawn)
    links = [v for _, attributes in tags.tags for k, v in attributes.items() if k in ("src", "href", "action", "data")]
    assert all(link is not None and link.startswith("#") for link in links)
    assert not re.search(r"url\(|@import|https?://", drawn)
    policy = next(
        a["content"] for n, a in tags.tags if n == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    script = re.search(r"<script>(.*)</script>", drawn, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    ids = {a["id"] for _, a in tags.tags if "id" in a}
    assert {link[1:] for link in links if link} <= ids  # every link of the contents leads somewhere
    assert {
        "verdict",
        "best",
        "heatmaps",
        "ratio",
        "rank",
        "curves",
        "rates",
        "tuning",
        "optuna",
        "speed",
        "trouble",
        "repeat",
    } <= ids


def test_settings_that_vary_are_columns_and_the_others_stand_at_the_top() -> None:
    trials = tuple(
        replace(t, lora_alpha=alpha, target_modules=modules)
        for t in lora_grid(ETAS, (1,), (0, 1))
        for alpha, modules in ((4.0, ("query",)), (64.0, ("query", "value")))
    )
    made = built(frame(trials), trials)
    assert made.varying == ("lora_alpha", "target_modules")
    assert "rank 8" in made.fixed
    assert "lora_alpha" not in made.fixed
    assert [best.cell.settings for best in made.best] == [
        (("lora_alpha", "4"), ("target_modules", "query")), (("lora_alpha", "64"), ("target_modules", "query, value")),
    ]  # fmt: skip
    text = page.page(made)
    best = text[text.index('id="best"') : text.index('id="curves"')]
    assert re.findall(r"<button[^>]*>(lora_alpha|target_modules)</button>", best) == ["lora_alpha", "target_modules"]
    assert "query, value</td>" in best
    (chart,) = (one for one in made.charts if one.kind == "curves")
    assert len({line.label for line in chart.lines}) == len({(line.series, line.variant) for line in chart.lines}) == 2
    assert "LoRA, lora_alpha 64, target_modules query, value" in text


def test_the_page_says_how_examples_were_held_out_as_the_rows_tell_it() -> None:
    def made(n_select: int, **told: object) -> str:
        trials = tuple(replace(t, budget=replace(t.budget, n_select=n_select)) for t in lora_grid(ETAS, (1,), (0,)))
        return page.page(built(frame(trials).assign(**told), trials))

    text = made(60, select_by="groups of texts", n_left_out=3)
    words = "60 training examples, drawn by groups of texts, 3 that overlap with them left out"
    assert f"<dt>held out</dt><dd>{words}</dd>" in text
    older = made(60, select_by=None, n_left_out=None)
    assert "<dd>60 training examples, how they were drawn is not in the rows</dd>" in older
    assert "<dt>held out</dt><dd>none</dd>" in made(0)


def test_what_no_row_tells_is_left_out_of_the_settings_that_all_cells_share() -> None:
    trials = lora_grid(ETAS, (1,), (0,))
    trials = tuple(replace(t, budget=replace(t.budget, max_grad_norm=None), spec_version=1) for t in trials)
    rows = frame(trials)
    as_they_are = StudyInfo(name=STUDY.name, higher_is_better=True)  # older rows alone: no trial says what they lack
    made = report.build(rows.assign(n_select=None, spec_version=None), NO_ATTEMPTS, STUDY, as_they_are, source=SOURCE)
    assert "max_grad_norm none" in made.fixed  # not clipped: a null that is a value
    assert "n_select" not in made.fixed
    assert "spec_version" not in made.fixed


def test_panels_of_one_quantity_share_their_axis() -> None:
    trials = sum((lora_grid(ETAS, RATIOS, (0,), rank=r) for r in (2, 8)), ())
    made = built(frame(trials, surface=lambda t: 0.9 if t.rank == 2 else 0.5 + 100 * t.eta_A / 4), trials)
    text = page.page(made)
    section = text[text.index('id="ratio"') : text.index("</section>", text.index('id="ratio"'))]
    panels = [re.findall(r'text-anchor="end">([\d.]+)</text>', part) for part in section.split("<svg")[1:]]
    ticks = [found for found in panels if found]
    assert len(ticks) == 2
    assert ticks[0] == ticks[1]
    assert float(ticks[0][-1]) - float(ticks[0][0]) >= 20


def test_a_comparison_has_its_intervals_as_a_picture_its_fresh_curves_and_its_command() -> None:
    c = compared(noisy({"lora+": 0.02}))
    trials = lora_grid(ETAS, (1,), SEEDS)
    info = StudyInfo.of(STUDY, trials, higher_is_better=True)
    source = replace(SOURCE, compare_command="python -m bench compare --task sst2")
    fresh = frame(lora_grid((1e-3,), (1, 4), range(1000, 1008)))
    made = report.build(frame(trials), NO_ATTEMPTS, STUDY, info, source=source, comparison=c, fresh=fresh)
    text = page.page(made)
    assert "python -m bench sweep --task sst2\npython -m bench compare --task sst2" in html.unescape(text)
    forest = text[text.index('class="chart forest"') : text.index("</svg>", text.index('class="chart forest"'))]
    for d in c.differences:
        if d.interval is not None:
            assert f"n = {d.n}, claim: {d.claim}" in html.unescape(forest)
    (chart,) = (one for one in made.charts if one.kind == "fresh")
    assert [line.series for line in chart.lines] == ["lora", "lora+"]
    assert all("8 seeds" in point.note for line in chart.lines for point in line.points)
    alone = page.page(replace(made, comparison=None, charts=(), repeat=replace(made.repeat, compare_command="")))
    assert "bench compare --task" not in alone
    assert "chart forest" not in alone


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (1737.4, "1,737"), (99.6, "100"), (99.4, "99.4"), (0.01234, "0.0123"), (1.2e-7, "1.2e-07")],
)
def test_numbers_of_tables_have_no_exponent_unless_they_are_tiny(value: float | None, shown: str) -> None:
    assert tables.decimal(value)[0] == shown


def test_the_templates_escape_every_value_and_refuse_a_name_that_is_not_there() -> None:
    env = page.environment()
    for name in env.list_templates():
        source = (Path(page.__file__).parent / "templates" / name).read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", source), f"{name} takes a value for markup"
    render = env.from_string('<p class="{{ value }}">{{ value }}</p>').render
    assert render(value="<b>\"'&") == '<p class="&lt;b&gt;&#34;&#39;&amp;">&lt;b&gt;&#34;&#39;&amp;</p>'
    with pytest.raises(UndefinedError, match="'value' is undefined"):
        render()


def test_the_command_writes_the_page_beside_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--methods", "lora,lora+", "--ranks", "2", "--eta-A", "1e-3,1.6e-2", "--lambda", "1,4", "--seeds", "0"]
    options = [*chosen, "--steps", "2", "--n-select", "0", "--results-dir", str(tmp_path), "--device", "cpu"]
    assert cli.main(["report", *options]) == 2
    assert "there must be finished trials of the study" in capsys.readouterr().err
    assert cli.main(["sweep", *options]) == 0
    assert cli.main(["report", *options]) == 0
    target = tmp_path / "demo-tiny-roberta" / "report.html"
    assert capsys.readouterr().out.endswith(f"{target}\n")
    text = html.unescape(target.read_text(encoding="utf-8"))
    assert "python -m bench sweep --methods lora,lora+ --rank" in text.replace("--ranks", "--rank")
    assert "--results-dir RESULTS" in text
    assert str(tmp_path) not in text  # no path of this machine
    assert re.search(r"^rank = 2 +# --ranks$", text, re.MULTILINE), "the study as it was run"
    assert report_text.NO_COMPARISON in text


def test_the_page_of_a_task_of_ones_own_names_no_path_and_no_figure_of_a_paper(tmp_path: Path) -> None:
    for name, n in (("train", 24), ("dev", 8)):
        lines = "".join(f"text {i} of {name},{'ab'[i % 2]}\n" for i in range(n))
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    task = tmp_path / "my-task.toml"
    task.write_text(
        'name = "mine"\nlabels = ["a", "b"]\nmetric = "accuracy"\n[columns]\ntext = "text"\nlabel = "label"\n'
        '[files]\ntrain = "train.csv"\neval = "dev.csv"\n',
        encoding="utf-8",
    )
    options = ["--task", str(task), "--model", "tiny-roberta", "--methods", "lora", "--ranks", "2", "--eta-A", "1e-3"]
    options += ["--seeds", "0", "--steps", "2", "--n-select", "0", "--device", "cpu", "--results-dir", str(tmp_path)]
    assert cli.main(["sweep", *options]) == 0
    assert cli.main(["report", *options]) == 0
    (target,) = tmp_path.glob("*/report.html")
    text = html.unescape(target.read_text(encoding="utf-8"))
    assert str(tmp_path) not in text
    assert "--task my-task.toml" in text
    assert "arXiv" not in text


# --- in a browser -------------------------------------------------------------------------------------------------

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=3000",
)  # fmt: skip
PROBE = """
const out = {}, table = document.querySelector("#best table"), head = table.querySelectorAll("th")[1];
const column = () => Array.from(table.tBodies[0].rows, (row) => Number(row.cells[1].dataset.sort));
head.querySelector("button").click(); out.up = column(); out.sort = head.getAttribute("aria-sort");
head.querySelector("button").click(); out.down = column();
const heat = document.querySelector("table.heat"), cells = Array.from(heat.querySelectorAll("[data-tip]"));
// A page that has no window's focus moves activeElement but sends no focus event: then it is sent here.
const arrive = () => document.hasFocus() || document.activeElement.dispatchEvent(new FocusEvent("focus"));
const key = (name) => {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true })); arrive();
};
out.stops = cells.filter((cell) => cell.tabIndex === 0).length;
cells[0].focus(); arrive();
out.first = heat.closest("figure").querySelector(".readout").textContent === cells[0].dataset.tip;
key("ArrowRight"); out.right = document.activeElement === cells[1];
out.told = heat.closest("figure").querySelector(".readout").textContent === document.activeElement.dataset.tip;
key("ArrowDown"); out.down_cell = document.activeElement.cellIndex === cells[1].cellIndex;
const point = document.querySelector("#curves [data-tip]"); point.dispatchEvent(new Event("click"));
out.point = point.closest("figure").querySelector(".readout").textContent === point.dataset.tip;
out.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
out.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
// A telephone: chromium's window is no narrower than 500, the page is. Text wraps, a wide table scrolls and says so.
document.documentElement.style.width = "390px"; window.dispatchEvent(new Event("resize"));
out.past = Array.from(document.querySelectorAll("body *"))
  .filter((one) => !one.closest(".scroll, svg, pre") && one.getBoundingClientRect().right > 391)
  .map((one) => one.outerHTML);
const boxes = Array.from(document.querySelectorAll(".scroll"));
const cut = boxes.map((box) => box.scrollWidth > box.clientWidth + 1);
out.cut = cut.filter(Boolean).length;
out.wrong_hints = boxes.filter((box, i) => box.previousElementSibling.hidden === cut[i]).length;
document.title = JSON.stringify(out);
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_a_browser_opens_it_without_error_or_request_and_it_works_by_keyboard(tmp_path: Path, size: str) -> None:
    text = page.page(with_optuna())
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    text = text.replace("</body>", f"<script>{PROBE}</script></body>")
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    profile = tmp_path / "profile"
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={size}",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    found = json.loads(html.unescape(title[1]))
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["up"], reverse=True)
    assert len(set(found["up"])) > 1
    assert (found["sort"], found["stops"], found["requests"], found["wide"]) == ("ascending", 1, [], False)
    assert (found["past"], found["wrong_hints"]) == ([], 0)
    assert found["cut"] > 0
    works = {name: found[name] for name in ("first", "right", "told", "down_cell", "point")}
    assert works == dict.fromkeys(works, True)
