"""The report: its numbers worked out by hand from rows, nothing from data reaches the markup, a browser opens it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from jinja2 import UndefinedError
from markupsafe import escape

from bench import cli
from bench.comparison import as_json as comparison_json
from bench.comparison import verdict
from bench.comparison.numbers import Comparison, to_json
from bench.core.errors import BadInput
from bench.core.record import SCHEMA, Outcome, Provenance, Record, Status, to_table
from bench.core.spec import MethodGrid, Study, Trial
from bench.report import contents as report
from bench.report import text as report_text
from bench.report.data import Counts, Report, Source
from bench.report.page import document as page
from bench.report.page import tables
from bench.sweep.optuna_mirror.from_rows import studies_of
from bench.timing.methods import rows as speed_rows
from plots.tidy import StudyInfo
from tests.support.comparisons import compared, noisy, ramp, setup
from tests.support.plot_rows import BUDGET, PLACE, frame, lora_grid, trial

ETAS, RATIOS, SEEDS = (1e-4, 4e-4, 1.6e-3, 6.4e-3), (1, 4, 16), (0, 1, 2)
NO_ATTEMPTS = SCHEMA.empty_table().to_pandas()
STUDY = Study(
    name="sst2-minilm", task="sst2", model="minilm", seeds=SEEDS, budget=BUDGET, profile="quick",
    grids=(MethodGrid(method="lora", axes=()),), figure="LoRA+, Fig. 3",
)  # fmt: skip
SOURCE = Source(command="python -m bench sweep --task sst2", study_file="studies/sst2.toml", toml='task = "sst2"\n')


def outcome(value: float | None, *, select: float | None = None, **changes: object) -> Outcome:
    """Return an outcome with exactly this score; None: diverged at step 7."""
    settings: dict[str, object] = {
        "status": Status.OK if value is not None else Status.DIVERGED, "metric_name": "accuracy", "metric_value": value,
        "metric_stderr": 0.01, "select_metric": select if value is not None else None, "collapsed": value == 0.5,
        "steps_done": 300 if value is not None else 6, "diverged_step": None if value is not None else 7,
        "reason": None if value is not None else "loss or gradient not finite at step 7", "train_seconds": 15.0,
        "timing_mode": "pack_share", "n_trainable": 1234, "started_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return Outcome(**{**settings, **changes})  # type: ignore[arg-type]


def rows_of(scores: dict[Trial, Outcome], *, place: Provenance = PLACE) -> pd.DataFrame:
    records = [
        Record(study="sst2-minilm", trial=t, pack_id="p", pack_size=2, outcome=o, provenance=place)
        for t, o in scores.items()
    ]
    return to_table(records).to_pandas()


def built(
    rows: pd.DataFrame, trials: tuple[Trial, ...], *, attempts: pd.DataFrame = NO_ATTEMPTS, study: Study = STUDY,
    source: Source = SOURCE, comparison: Comparison | None = None,
) -> Report:  # fmt: skip
    info = StudyInfo.of(study, trials, higher_is_better=True)
    return report.build(rows, attempts, study, info, source=source, comparison=comparison)


def whole() -> Report:
    """Return the report of a study with every kind of section."""
    trials = (
        *lora_grid(ETAS, RATIOS, SEEDS), *lora_grid(ETAS, (1,), SEEDS, rank=2),
        *(trial("full", eta, seed) for eta in ETAS for seed in SEEDS),
    )  # fmt: skip
    return built(frame(trials), trials)


def with_optuna() -> Report:
    """Return it with what Optuna makes of LoRA+'s rows."""
    rows = pa.Table.from_pandas(frame(lora_grid(ETAS, RATIOS[1:], SEEDS)), schema=SCHEMA, preserve_index=False)
    return replace(whole(), optuna=studies_of(rows.to_pylist(), STUDY.grids, higher_is_better=True))


# --- numbers ------------------------------------------------------------------------------------------------------


def hand_made() -> tuple[pd.DataFrame, tuple[Trial, ...]]:
    """LoRA at two rates with two seeds each, full with one: the better one on the evaluation split is not chosen."""
    low, high = (lora_grid((eta,), (1,), (0, 1)) for eta in (1e-4, 4e-4))
    full = (trial("full", 1e-4, 0), trial("full", 1e-4, 1))
    scores = {
        low[0]: outcome(0.80, select=0.90), low[1]: outcome(0.84, select=0.92),
        high[0]: outcome(0.90, select=0.70), high[1]: outcome(0.92, select=0.72),
        full[0]: outcome(0.5, select=0.5), full[1]: outcome(None),
    }  # fmt: skip
    return rows_of(scores), (*low, *high, *full)


def test_trials_that_were_left_out_early_are_not_missing_and_what_they_saved_is_told() -> None:
    rows, trials = hand_made()
    gone = trial("full", 4e-4, 0)
    left = rows_of({gone: outcome(None, status=Status.PRUNED, steps_done=75), trials[0]: outcome(0.8, steps_done=75)})
    info = StudyInfo.of(STUDY, (*trials, gone), higher_is_better=True)
    found = report.build(rows, NO_ATTEMPTS, STUDY, info, source=SOURCE, pruned=left)  # trials[0] has finished since
    assert (found.counts.n_planned, found.counts.n_missing, found.counts.n_pruned) == (7, 0, 1)
    assert found.counts.share_saved == pytest.approx(225 / (7 * 300))
    assert not [one for one in found.troubles if one.kind == "missing"]
    assert "1 pruned (11% of the steps saved)" in report_text.counted(found.counts)
    assert "Left out early: 1 pruned (11% of the steps saved)." in page.page(found)
    of_search = report.build(rows, NO_ATTEMPTS, STUDY, StudyInfo(name="s"), source=SOURCE, pruned=left)
    assert (of_search.counts.n_planned, of_search.counts.n_pruned) == (7, 1)


def test_counts_and_best_cells_by_hand() -> None:
    found = built(*hand_made())
    assert found.counts == Counts(
        n_planned=6, n_ok=5, n_diverged=1, n_collapsed=1, n_missing=0, n_failed=0, n_other_rows=0
    )
    lora, full = found.best
    assert (lora.cell.eta_A, lora.cell.n_ok, lora.n_choices, lora.chosen_by) == (1e-4, 2, 2, "select_metric")
    assert lora.cell.mean == pytest.approx(0.82)
    assert lora.cell.select == pytest.approx(0.91)
    assert (lora.cell.stderr_kind, lora.cell.stderr) == ("examples", pytest.approx(0.01))  # two seeds are too few
    assert (lora.n_trainable, lora.train_seconds, lora.timing_mode) == (1234, 15.0, "pack_share")
    assert (full.cell.mean, full.cell.n_ok, full.cell.n_diverged, full.cell.n_collapsed) == (0.5, 1, 1, 1)
    assert full.cell.lr_ratio is None


def test_three_seeds_give_a_standard_error_over_seeds() -> None:
    trials = lora_grid((1e-4,), (1,), SEEDS)
    scores = dict(zip(trials, (outcome(0.8), outcome(0.9), outcome(0.85)), strict=True))
    (best,) = built(rows_of(scores), trials).best
    assert (best.cell.stderr_kind, best.chosen_by) == ("seeds", "metric_value")
    assert best.cell.stderr == pytest.approx(np.std([0.8, 0.9, 0.85], ddof=1) / 3**0.5)


def test_troubles_name_what_went_wrong_by_cell() -> None:
    rows, trials = hand_made()
    more = lora_grid((1.6e-3, 6.4e-3), (1,), (0,))
    failed = replace(outcome(None, status=Status.OOM, reason="out of memory", diverged_step=None), steps_done=0)
    attempts = rows_of({more[0]: failed, trials[0]: failed})  # the second one finished later: no trouble
    found = built(rows, (*trials, *more), attempts=attempts)
    assert [(t.kind, t.series, t.eta_A, t.seeds, t.detail) for t in found.troubles] == [
        ("diverged", "full", 1e-4, (1,), "at step 7"),
        ("collapsed", "full", 1e-4, (0,), ""),
        ("oom", "lora", 1.6e-3, (0,), "out of memory"),
        ("missing", "lora", 6.4e-3, (0,), ""),
    ]
    assert (found.counts.n_missing, found.counts.n_failed) == (2, 1)


def test_heatmaps_hold_the_cells_in_both_views() -> None:
    trials = lora_grid(ETAS, RATIOS, SEEDS)
    found = built(frame(trials), trials)
    by_B, by_ratio = found.heatmaps
    assert (by_B.view, by_ratio.view) == ("eta_B", "lr_ratio")
    assert by_ratio.ys == (16, 4, 1)
    assert by_ratio.xs == by_B.xs == ETAS
    numbers = frame(trials).query("eta_A == 4e-4 and lr_ratio == 4")["metric_value"]
    cell = by_ratio.cells[1][1]
    assert cell is not None
    assert cell.numbers.mean == pytest.approx(numbers.mean())
    other = by_B.cells[by_B.ys.index(1.6e-3)][1]
    assert other is not None
    assert other.numbers == cell.numbers
    flat = [c for line in by_ratio.cells for c in line if c is not None]
    assert len(flat) == 12
    assert sum(c.best for c in flat) == sum(c.chosen for c in flat) == 1
    assert max((c for c in flat), key=lambda c: c.numbers.mean or 0).best
    assert sum(c is not None for line in by_B.cells for c in line) == 12


def test_speeds_are_medians_of_whole_runs_and_keep_timing_modes_apart() -> None:
    trials = lora_grid(ETAS[:3], (1,), (0,))
    scores = {
        trials[0]: outcome(0.8, train_seconds=3.0, timing_mode="isolated", peak_memory_bytes=2**20),
        trials[1]: outcome(0.8, train_seconds=9.0), trials[2]: outcome(None, train_seconds=0.1),
    }  # fmt: skip
    isolated, shared = built(rows_of(scores), trials).speeds
    assert (isolated.timing_mode, isolated.n, isolated.seconds_per_step) == ("isolated", 1, 0.01)
    assert (shared.timing_mode, shared.n, shared.seconds_per_step) == ("pack_share", 1, 0.03)
    assert (isolated.peak_memory_bytes, shared.peak_memory_bytes) == (2**20, None)


def timed(case: str, rank: int | None, seconds: Sequence[float], **changes: object) -> list[dict[str, object]]:
    """Return rows of bench speed: one round for each of these seconds per step."""
    shared = {"case": case, "method": case.split()[0], "rank": rank, "timing_mode": "isolated", "device": "cpu"}
    return [shared | {"repeat": i, "seconds_per_step": s, "n_trainable": 7} | changes for i, s in enumerate(seconds)]


def test_isolated_times_are_shown_with_their_ratio_and_claimed_only_where_measured() -> None:
    rows, trials = hand_made()
    without = built(rows, trials)
    assert without.isolated is None
    assert "No isolated timing was run" in page.page(without)
    found = [*timed("lora rank 8", 8, [0.010, 0.012, 0.011]), *timed("mora rank 8", 8, [0.020, 0.036, 0.022])]
    table = pa.Table.from_pylist(found, schema=speed_rows.SCHEMA)
    info = StudyInfo.of(STUDY, trials, higher_is_better=True)
    drawn = page.page(report.build(rows, NO_ATTEMPTS, STUDY, info, source=SOURCE, speed=table))
    assert "No isolated timing was run" not in drawn
    cells = re.search(r"<td[^>]*>mora rank 8</td>(.*?)</tr>", drawn)
    assert cells is not None
    shown = re.findall(r">([^<]*)</td>", cells[1])
    assert (shown[0], shown[2]) == ("22", "2")  # ms per step; the median of 2, 3 and 2, paired by round


def test_charts_hold_the_numbers_of_the_cells() -> None:
    rows, trials = hand_made()
    found = built(rows, trials)
    kinds = {chart.kind: chart for chart in found.charts}
    lora = kinds["rates"].lines[0]
    assert [(p.x, round(p.y, 6)) for p in lora.points] == [(1e-4, 0.82), (4e-4, 0.91)]
    # of one cell drawn from two: the mean; of both: the one that was chosen, not the better one
    tuned = kinds["tuning"].lines[0]
    assert [round(p.y, 6) for p in tuned.points] == [0.865, 0.82]
    everything = {chart.kind for chart in whole().charts}
    assert everything == {"ratio", "rank", "curves", "rates", "tuning"}


def test_the_tuning_curve_waits_for_the_whole_grid() -> None:
    rows, trials = hand_made()
    kinds = {chart.kind: chart for chart in built(rows, (*trials, *lora_grid((1.6e-3,), (1,), (0, 1)))).charts}
    assert "tuning" not in kinds


# --- verdict ------------------------------------------------------------------------------------------------------


def test_without_a_comparison_nothing_is_claimed() -> None:
    (state,), scores, (claim,) = report_text.verdict(built(*hand_made()))
    assert state == ("On sst2 with minilm, 6 of 6 trials finished, 1 diverged, 1 collapsed (3 seeds, 300 steps each).")
    assert scores[1:] == ("LoRA 82.0 ± 1.0 (best of 2 cells)", "full fine-tuning 50.0 ± 1.0 (the only cell)")
    assert claim == report_text.NO_COMPARISON
    assert report_text.headline(built(*hand_made())) == "No comparison of methods yet."
    assert not re.search(r"\b(is|are) (better|worse|faster)\b", state + " ".join(scores))


@pytest.mark.parametrize(
    ("gap", "word"), [(0.02, "as tuned is better"), (0.0, "shows no difference"), (-0.02, "as tuned is worse")]
)
def test_a_claim_is_the_comparisons_own(gap: float, word: str) -> None:
    comparison = compared(noisy({"lora+": gap}))
    rows, trials = hand_made()
    found = built(rows, trials, comparison=comparison)
    text = report_text.verdict(found)
    assert len(text) == 3
    assert text[0][1].startswith(f"LoRA+ {word}")
    first = report_text.headline(found)
    assert ("LoRA+ as tuned is" in first) == (gap != 0)
    assert f"LoRA+ {word}" in first or first == "No method as tuned here can be said to differ from tuned LoRA."
    (plus,) = (d for d in comparison.differences if d.arm == "lora+")
    assert plus.mean is not None
    assert f"{100 * plus.mean:+.2f} points" in text[0][1]
    drawn = page.page(found)
    assert "Tuned comparison" in drawn
    assert f"<p>{escape(text[0][0])}</p>\n<ul>\n<li>{escape(text[0][1])}</li>" in drawn
    assert f"<strong>{escape(first)}</strong>" in drawn


def test_a_factor_of_speed_is_no_claim_where_its_interval_holds_one() -> None:
    """LoRA is at the target after 240 steps, LoRA+ in half of them but not surely, full fine-tuning never."""
    ramps = {"lora": 20, "lora+": 10, "full": 0}
    found = compared(noisy({}), curve=ramp(ramps))
    sure, never = found.speed_ups
    unsure = replace(sure, claim="none", p_holm=0.2)  # the interval is far from 1 and claims nothing by itself
    told = verdict.short(replace(found, speed_ups=(sure, unsure, never)))[1][1:]
    numbers = "(95% interval 2 to 2, n = 10, p ="
    assert told[0].endswith(
        f"LoRA+ takes 1/2 of the steps {numbers} 0.0039 after Holm), faster in steps, 2x lies within the interval, its "
        "seconds not measured in isolation"
    )
    assert told[1].startswith(f"LoRA+ takes 1/2 of the steps {numbers} 0.2 after Holm), no difference in steps can be")
    assert told[2].startswith(
        "full fine-tuning: slower in steps: LoRA's median run reaches it and its own never does, so there is no factor"
    )


def test_a_comparison_comes_back_from_its_file(tmp_path: Path) -> None:
    comparison = compared(noisy({"lora+": 0.02}), of=setup(seconds_per_step={"lora": 0.1, "lora+": 0.1, "full": 0.3}))
    assert comparison_json.read(tmp_path) is None
    written = {**to_json(comparison), "verdict": ["a sentence"]}
    (tmp_path / "comparison.json").write_text(json.dumps(written), encoding="utf-8")
    back = comparison_json.read(tmp_path)
    assert back is not None
    assert to_json(back) == to_json(comparison)
    assert back.arms[0].reach.steps == comparison.arms[0].reach.steps  # infinite ones too


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 99}', '{"version": 1}', "{", '{"version": 1, "setup": null}', "[" * 100_000]
)
def test_a_file_that_is_no_comparison_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "comparison.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="must be a comparison of this version") as raised:
        comparison_json.read(tmp_path)
    assert "\n" not in str(raised.value)


# --- page ---------------------------------------------------------------------------------------------------------


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
    works = {name: found[name] for name in ("first", "right", "told", "down_cell", "point")}
    assert works == dict.fromkeys(works, True)
