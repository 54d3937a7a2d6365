"""How far each half of LoRA's update moves a layer's output as the layer gets wider: measured numbers and their slopes.

Measured by `bench/theory/feature_updates.py`. Pure; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.core.stats import Slope, log_log_slope

WIDTHS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """Rates that change with the width n: eta_A = c n^power_A, eta_B = c n^power_B."""

    power_A: int
    power_B: int

    @property
    def words(self) -> tuple[str, str]:
        """Return eta_A and eta_B as powers of n in words: c, c / n."""
        names = {0: "c", -1: "c / n"}
        return names[self.power_A], names[self.power_B]


SCALINGS = (Scaling(power_A=-1, power_B=0), Scaling(power_A=-1, power_B=-1), Scaling(power_A=0, power_B=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Updates:
    """The output's change by each half in the last step: mean |B dA x| and |dB A x| over examples; one seed."""

    scaling: Scaling
    width: int
    seed: int
    of_A: float
    of_B: float


def exponents(found: Sequence[Updates], scaling: Scaling) -> tuple[Slope, Slope]:
    """Return the slopes of log update over log width, of A's half and of B's: least squares on medians over seeds.

    Raises:
        ValueError: for fewer than two widths.
    """
    own = [one for one in found if one.scaling == scaling]
    widths = sorted({one.width for one in own})
    if len(widths) < 2:
        raise ValueError(f"a slope takes at least two widths, but got {widths}")
    by_width = [[one for one in own if one.width == width] for width in widths]
    first, second = (
        log_log_slope(widths, np.log([[getattr(one, name) for one in ones] for ones in by_width]))
        for name in ("of_A", "of_B")
    )
    return first, second
