"""The set of figures, how they look, and what holds for every plot."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import os
import pkgutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

import plots
from bench import methods
from plots import figures, heatmap, page, style
from plots.figures import rank
from plots.tidy import CellTable, StudyInfo
from tests.support.plot_helpers import ETAS, RATIOS, info, mixed, panel_axes
from tests.support.plot_rows import frame, lora_grid, score, trial

# --- the set of figures ----------------------------------------------------------------------------------------------


def test_all_figures_are_named_and_captioned() -> None:
    trials = mixed((0, 1))
    drawn = figures.all_figures(frame(trials), info(trials))
    assert list(drawn) == [
        "heatmap_eta_B_zero_B", "heatmap_lr_ratio_zero_B", "heatmap_eta_A_rank", "rates", "best_rate_rank", "rank",
        "curves",
    ]  # fmt: skip
    for name, figure in drawn.items():
        caption = style.figure_caption(figure)
        assert caption.startswith(
            "Study sst2-minilm; task sst2; model minilm; 2 seeds; device cpu, 2 cores; commit 0123456. "
        ), name


def test_inits_and_tasks_make_figures_of_their_own() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,)) + lora_grid(ETAS, RATIOS, (0,), init="zero_A")
    other = tuple(replace(t, task="cola") for t in trials)
    df = frame(trials + other)
    df.loc[df["task"] == "cola", "metric_name"] = "matthews"
    drawn = figures.all_figures(df, info(trials + other, (0,)))
    expected = {"cola_minilm_heatmap_eta_B_zero_A", "sst2_minilm_heatmap_lr_ratio_zero_B", "sst2_minilm_rates"}
    assert expected <= set(drawn)
    assert "other row" not in style.figure_caption(drawn["sst2_minilm_rates"])
    assert "matthews (%)" in style.figure_caption(drawn["cola_minilm_rates"])


def test_a_metric_without_a_standard_error_is_drawn_and_said_to_have_none() -> None:
    """Matthews correlation has none where one class is predicted throughout, and one seed has none over seeds."""
    trials = lora_grid(ETAS, RATIOS, (0,)) + lora_grid(ETAS, RATIOS, (0,), init="zero_A")
    df = frame(trials)
    df.loc[df["init"] == "zero_A", "metric_stderr"] = np.nan
    drawn = figures.all_figures(df, info(trials, (0,)))
    captions = {init: style.figure_caption(drawn[f"heatmap_eta_B_{init}"]) for init in ("zero_A", "zero_B")}
    assert "No standard error is known" in captions["zero_A"]
    assert "Standard errors (±, marks) are over the evaluation examples" in captions["zero_B"]


def test_scattered_rates_of_a_search_make_no_heatmap() -> None:
    rng = np.random.default_rng(0)
    trials = tuple(trial("lora+", 10 ** rng.uniform(-4, -2), ratio=10 ** rng.uniform(0, 2)) for _ in range(40))
    made = figures.figure_set(frame(trials), info(trials, (0,)))
    assert list(made.drawn) == ["scatter_zero_B", "rates", "curves"]
    assert made.left_out == {"heatmap_eta_B_zero_B": "the pairs of rates are no grid: scatter shows them"}
    (ax,) = panel_axes(made.drawn["scatter_zero_B"])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    (points,) = [c for c in ax.collections if c.get_gid() == "cells"]
    assert len(points.get_offsets()) == sum(not np.isnan(score(t)) and True for t in trials if score(t) == score(t))


def test_mixed_code_and_dirty_commits_are_in_the_caption() -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    df = frame(trials)
    df.loc[0, ["source_hash", "git_commit", "git_dirty"]] = ["s1", "fedcba9876", True]
    caption = style.figure_caption(heatmap.draw(heatmap.tidy(df, info(trials, (0,)))))
    assert "commit 0123456, fedcba9+" in caption
    assert "Rows of 2 versions of the harness are mixed" in caption


def test_a_grid_of_both_rates_has_no_heatmap_over_the_ratio_and_one_evaluation_no_curves() -> None:
    etas_A, etas_B = (1e-4, 2e-4, 5e-4, 1e-3), (2e-4, 4e-4, 1e-3, 2e-3)
    trials = tuple(trial("lora" if a == b else "lora+", a, ratio=b / a, eta_B=b) for a in etas_A for b in etas_B)
    df = frame(trials)
    df["curve"] = [list(curve)[-1:] for curve in df["curve"]]
    made = figures.figure_set(df, info(trials, (0,)))
    assert list(made.drawn) == ["heatmap_eta_B_zero_B", "rates"]
    assert "over lambda most positions would be empty" in made.left_out["heatmap_lr_ratio_zero_B"]
    assert "evaluated once" in made.left_out["curves"]


def test_the_form_for_a_column_is_240_pt_wide_readable_and_has_its_caption_beside_it(tmp_path: Path) -> None:
    trials = mixed((0, 1))
    wide, narrow = (figures.figure_set(frame(trials), info(trials), form=form).drawn for form in ("full", "column"))
    assert list(narrow) == [f"column_{name}" for name in wide]
    for name, figure in narrow.items():
        assert 72 * figure.get_size_inches()[0] == pytest.approx(240)
        png, pdf = style.save(figure, tmp_path, name)
        written = (tmp_path / f"{name}.txt").read_text(encoding="utf-8").strip()
        assert written == style.figure_caption(figure) == style.figure_caption(wide[name.removeprefix("column_")])
        shown = [t for t in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if t.get_visible() and t.get_text()]
        assert min(text.get_fontsize() for text in shown) >= 6
        assert not [text for text in shown if text.get_text().startswith("Study")]
        assert (png.suffix, pdf.suffix) == (".png", ".pdf")
    style.save(wide["rank"], tmp_path, "rank")
    assert not (tmp_path / "rank.txt").exists()


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    trials = lora_grid(ETAS, RATIOS, (0,))
    df = frame(trials)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        style.save(rank.draw(rank.tidy(df, info(trials, (0,)))), tmp_path / folder, "rank")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["rank.pdf", "rank.png"]
    for name in ("rank.pdf", "rank.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"CreationDate" not in (tmp_path / "a" / "rank.pdf").read_bytes()


def test_formats_and_looks() -> None:
    import seaborn

    assert style.rate(4e-3) == "4.0e-03"
    assert style.ratio(31.6227766) == "31.6"
    assert style.metric(0.9141, as_percent=True) == "91.4"
    assert style.metric(0.31234, as_percent=False) == "0.312"
    assert list(style.PALETTE) == [to_hex(c) for c in seaborn.color_palette("colorblind")]
    assert style.look("lora+").label == "LoRA+"
    assert style.look("mora-6").label == "MoRA type 6"
    assert style.look("bitfit").label == "BitFit"
    assert style.look("of-another-version").label == "of-another-version"


SERIES = sorted(method.identity(kind).series for method in map(methods.get, methods.names()) for kind in method.looks)


def test_no_two_lines_look_alike_however_many_there_are() -> None:
    known = [style.look(s, k) for s in (*SERIES, "of-another-version", "a-third") for k in range(200)]
    assert len({(look.color, look.marker, look.dash) for look in known}) == len(known)
    for series in SERIES:
        mine = [style.look(series, k) for k in range(200)]
        assert len({(look.color, look.marker) for look in mine}) == len({look.dash for look in mine}) == len(mine)


def test_every_method_has_a_colour_and_a_marker_of_its_own() -> None:
    known = [style.look(s) for s in SERIES]
    assert len({look.color for look in known}) == len({(look.color, look.marker) for look in known}) == len(SERIES)


# What the colour-blind see of linear RGB (Machado, Oliveira and Fernandes 2009, table 1, severity 1.0).
SEEN_AS = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(color: str, seen_as: list[list[float]]) -> np.ndarray:
    """Return CIE L*a*b* (D65) of a colour as it is seen."""
    srgb = np.array(to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    xyz = to_xyz @ np.clip(np.array(seen_as) @ linear, 0, 1) / [0.9505, 1, 1.0888]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", SEEN_AS)
def test_the_colours_of_methods_differ_for_the_colour_blind(kind: str) -> None:
    colours = [lab(style.look(s).color, SEEN_AS[kind]) for s in SERIES]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
    assert min(apart) > 10  # CIE 1976 units; about 2 are just noticeable


def test_importing_the_plots_is_light() -> None:
    heavy = ("torch", "seaborn", "scipy", "matplotlib.pyplot", "optuna")
    code = f"import sys, plots.figures; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("named", ["module://not_installed.backend_inline", "no-such-backend", "svg"])
def test_figures_are_drawn_to_files_whatever_backend_the_environment_names(named: str, tmp_path: Path) -> None:
    """A notebook's cells have MPLBACKEND set to its own backend, which need not be installed beside the project."""
    code = (
        "import sys; from pathlib import Path\n"
        "from plots import style; from plots.figures import rates; import matplotlib\n"
        "from tests.support.plot_rows import frame, lora_grid\n"
        "figure = rates.draw(rates.tidy(frame(lora_grid((1e-3, 1e-2), (1,), (0,)))))\n"
        f"style.save(figure, Path({str(tmp_path)!r}), 'rates')\n"
        "print('matplotlib.pyplot' in sys.modules, __import__('os').environ['MPLBACKEND'])\n"
        f"assert {named == 'svg'} == (matplotlib.rcParams['backend'] == 'svg')  # a known one stays, for others\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"MPLBACKEND": named}
    )
    assert done.stdout.split() == ["False", named], done.stderr
    assert (tmp_path / "rates.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "rates.pdf").read_bytes()[:4] == b"%PDF"


# --- every plot ------------------------------------------------------------------------------------------------------


def plot_modules() -> list[ModuleType]:
    packages = [plots, figures]
    modules = [
        importlib.import_module(f"{p.__name__}.{m.name}") for p in packages for m in pkgutil.iter_modules(p.__path__)
    ]
    return [m for m in modules if hasattr(m, "draw") and inspect.getmodule(m.draw) is m and hasattr(m, "tidy")]


@pytest.fixture(scope="module")
def one_rank() -> tuple[pd.DataFrame, StudyInfo]:
    trials = tuple(t for t in mixed((0, 1)) if t.rank in (8, None))
    df = frame(trials, drop=lambda t: t.eta_A == 1e-4 and t.seed == 1 and t.method == "lora")
    return that_forget(df), info(trials)


def that_forget(df: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a loss on a fixed text that rises with the rate."""
    after = 3.0 + df["eta_A"].astype(float)
    return df.assign(forgetting_before=3.0, forgetting_after=after, forgetting_hash="t")


def test_every_module_that_draws_is_found() -> None:
    assert {m.__name__ for m in plot_modules()} >= {"plots.heatmap", "plots.figures.rates", "plots.figures.rank"}


@pytest.mark.parametrize("module", plot_modules(), ids=lambda m: m.__name__)
class TestEveryPlot:
    def test_signature_and_docstrings(self, module: ModuleType) -> None:
        first, second, *_ = inspect.signature(module.draw).parameters.values()
        assert (first.name, second.name, second.default) == ("table", "ax", None)
        assert list(inspect.signature(module.tidy).parameters)[:2] == ["df", "study"]
        assert module.__doc__
        assert module.draw.__doc__
        assert module.tidy.__doc__

    def test_draws_on_the_given_axes_and_nowhere_else(self, module: ModuleType, one_rank: tuple) -> None:  # type: ignore[type-arg]
        figure = Figure()
        ax = figure.subplots()
        assert module.draw(module.tidy(*one_rank), ax) is figure
        assert ax.has_data()
        assert figure.axes[0] is ax

    def test_changes_neither_rows_nor_table(self, module: ModuleType, one_rank: tuple) -> None:  # type: ignore[type-arg]
        df, study = one_rank
        before = df.drop(columns="curve").copy(deep=True)
        table = module.tidy(df, study)
        frames = {f.name: getattr(table, f.name) for f in fields(table)}
        copies = {n: v.copy(deep=True) for n, v in frames.items() if isinstance(v, pd.DataFrame)}
        module.draw(table)
        pd.testing.assert_frame_equal(df.drop(columns="curve"), before)
        for name, copy in copies.items():
            pd.testing.assert_frame_equal(frames[name], copy)

    def test_reads_no_file(self, module: ModuleType) -> None:
        tree = ast.parse(inspect.getsource(module))
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        calls = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        calls |= {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not imported & {"os", "pathlib", "io", "pyarrow", "torch", "bench.store"}
        assert not {c for c in calls if c == "open" or c.startswith("read_")}

    def test_nothing_is_cut_and_no_labels_overlap(self, module: ModuleType) -> None:
        trials = mixed((0, 1))
        figure = module.draw(module.tidy(that_forget(frame(trials)), info(trials)))
        with style.settings():
            renderer = FigureCanvasAgg(figure).get_renderer()
            figure.draw(renderer)
            whole = figure.bbox
            for text in figure.findobj(lambda a: hasattr(a, "get_text") and a.get_visible() and a.get_text()):
                box = text.get_window_extent(renderer)
                inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
                assert inside or text in _ticks_outside(figure), text.get_text()
            for ax in panel_axes(figure):
                if ax.get_xticklabels()[0].get_rotation() == 0:
                    boxes = sorted((t.get_window_extent(renderer) for t in ax.get_xticklabels()), key=lambda b: b.x0)
                    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
            legend = figure.legends[0].get_window_extent(renderer)
            assert all(not legend.overlaps(ax.get_tightbbox(renderer)) for ax in panel_axes(figure))


def _ticks_outside(figure: Figure) -> list[object]:
    """Tick labels beyond the limits of their axis: matplotlib keeps them and does not draw them."""
    found: list[object] = []
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = min(low, high), max(low, high)
            labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            found += [label for at, label in labels if not low <= at <= high]
    return found


def test_the_made_up_surface_has_what_sweeps_have() -> None:
    trials = lora_grid([5e-5 * 2**k for k in range(9)], (1, 4, 16, 64), (0, 1, 2))
    df = frame(trials)
    assert {"ok", "diverged"} == set(df["status"])
    assert df["collapsed"].eq(True).any()
    assert max(score(t) for t in trials if not np.isnan(score(t))) > 0.85
    assert isinstance(heatmap.tidy(df), CellTable)


@pytest.mark.parametrize("dpi", [100, 160, 200, 320])
def test_a_line_is_as_wide_as_it_was_measured_at_every_resolution(dpi: int) -> None:
    """Captions are wrapped by measured widths; hinting would make letters wider at some resolutions."""
    line = "lora_alpha = rank, target_modules query, value, loraplus_lr_embedding 1e-06, head_policy eta_A, batch 32"
    figure = Figure(figsize=(12, 1), dpi=dpi)
    FigureCanvasAgg(figure)
    with style.settings():
        text = figure.text(0, 0.5, line, fontsize=page.CAPTION_POINTS)
        figure.canvas.draw()  # type: ignore[no-untyped-call]
        drawn = text.get_window_extent().width / dpi
    assert drawn == pytest.approx(page.width_of(line, page.CAPTION_POINTS), rel=0.002)
