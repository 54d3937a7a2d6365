"""What the LoRA+ paper proves (Hayou et al. 2024, arXiv:2402.12354), measured with the project's LoRA and AdamW."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bench import cli
from bench.methods._base import Role
from bench.theory import feature_updates
from bench.theory.feature_updates import N_STEPS, OneLayer, measure, one_trial
from bench.theory.widths import SCALINGS, WIDTHS, Scaling, Updates, exponents
from plots import widths as drawn


@pytest.fixture(scope="module")
def found() -> tuple[Updates, ...]:
    return measure()


@pytest.mark.parametrize(("scaling", "expected"), list(zip(SCALINGS, (0, -1, 1), strict=True)))
def test_features_move_at_every_width_only_if_eta_B_outgrows_eta_A(
    scaling: Scaling, expected: int, found: tuple[Updates, ...]
) -> None:
    """eta_A of order 1/n and eta_B of order 1 keep both updates of order 1; equal rates let them vanish or explode."""
    for exponent in exponents(found, scaling):
        assert exponent.value == pytest.approx(expected, abs=0.15)
        assert exponent.interval.low < exponent.value < exponent.interval.high


def test_an_exponent_is_the_slope_of_medians() -> None:
    scaling = SCALINGS[0]
    noise = (0.5, 1.0, 4.0)
    made = [
        Updates(scaling=scaling, width=n, seed=k, of_A=factor * n**0.5, of_B=factor * n**-2.0)
        for n in (10, 100, 1000) for k, factor in enumerate(noise)
    ]  # fmt: skip
    of_A, of_B = exponents(made, scaling)
    assert (of_A.value, of_B.value) == (pytest.approx(0.5), pytest.approx(-2.0))
    assert of_A.interval.low < 0.5 - 0.1 < 0.5 + 0.1 < of_A.interval.high, "seeds that differ make it uncertain"
    with pytest.raises(ValueError, match="at least two widths"):
        exponents(made[:3], scaling)


@pytest.mark.parametrize("ratio", [1, 4, 32])
def test_the_first_step_moves_B_by_its_rate_and_A_not_at_all(ratio: int) -> None:
    run = OneLayer([one_trial(0, 1e-3, 1e-3 * ratio)], 64)
    before = run.values()
    run.step()
    after = run.values()
    assert torch.equal(after["A"], before["A"])
    torch.testing.assert_close((after["B"] - before["B"]).abs(), torch.full((1, 1, 1), 1e-3 * ratio).double())


def test_alpha_init_and_rates_are_two_numbers_too_many() -> None:
    """alpha / (p q), p init_A, p eta_A, q eta_B train the same function; p and q powers of 2, so to the last bit.

    (Schulman and Thinking Machines Lab 2025, "LoRA Without Regret": with eps = 0 and B = 0.)
    """
    factors = [(1.0, 1.0), (4.0, 1.0), (1.0, 8.0), (0.25, 2.0), (16.0, 0.5)]
    base = one_trial(0, 1e-3, 1.6e-2, rank=4, lora_alpha=4.0)
    trials = [
        replace(base, lora_alpha=4.0 / (p * q), eta_A=p * base.eta_A, eta_B=q * (base.eta_B or 0)) for p, q in factors
    ]
    run = OneLayer(trials, 64, [p for p, _ in factors])
    for _ in range(N_STEPS):
        run.step()
    output = run.output().detach()
    assert output[0].abs().min() > 1e-3
    for other in output[1:]:
        assert torch.equal(other, output[0])
    broken = OneLayer([base, replace(base, eta_A=2 * base.eta_A)], 64)
    for _ in range(N_STEPS):
        broken.step()
    first, second = broken.output().detach()
    assert not torch.allclose(first, second, rtol=1e-6)


def test_roles_are_A_and_B() -> None:
    run = OneLayer([one_trial(0, 1e-3, 1e-2)], 8)
    assert {segment.role for segment in run.bank.segments} == {Role.A, Role.B}


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_the_command_prints_exponents_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: tuple[Updates, ...]
) -> None:
    monkeypatch.setattr(feature_updates, "measure", lambda: found)
    assert cli.main(["theory", "--results-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("c / n  c      "))
    assert "+0.0" in line or "-0.0" in line
    assert {p.name for p in (tmp_path / "theory" / "figures").iterdir()} == {"widths.png", "widths.pdf"}


def test_the_figure_has_a_panel_for_each_scaling(found: tuple[Updates, ...]) -> None:
    figure = drawn.draw(found)
    assert isinstance(figure, Figure)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [drawn.title(scaling) for scaling in SCALINGS]
    for ax, scaling in zip(figure.axes, SCALINGS, strict=True):
        medians = [
            float(np.median([one.of_B for one in found if (one.scaling, one.width) == (scaling, n)])) for n in WIDTHS
        ]
        (line,) = (line for line in ax.lines if line.get_gid() == "of_B")
        np.testing.assert_allclose(line.get_ydata(), medians)
