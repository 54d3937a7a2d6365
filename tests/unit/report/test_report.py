"""The report: its numbers worked out by hand from rows, its claims those of the comparison."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from markupsafe import escape

from bench.comparison import as_json as comparison_json
from bench.comparison import verdict
from bench.comparison.numbers import to_json
from bench.core.errors import BadInput
from bench.core.record import Status
from bench.report import contents as report
from bench.report import text as report_text
from bench.report.data import Counts
from bench.report.page import document as page
from bench.timing.methods import rows as speed_rows
from plots.tidy import StudyInfo
from tests.support.comparisons import compared, noisy, ramp, setup
from tests.support.plot_rows import frame, lora_grid, trial
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
    whole,
)

# --- numbers ------------------------------------------------------------------------------------------------------


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
    rows, trials = hand_made()
    drawn = page.page(built(rows, trials, comparison=found))
    section = drawn[drawn.index("its interval") :]
    assert "never there" in section[: section.index("</table>")], "a factor of 0 is said in words"


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
