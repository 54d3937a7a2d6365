"""How a series looks: a colour and a marker for each method, shades, other markers and dashes for variants of one.

No two series of a figure look alike, however many there are; a series looks the same on every figure.
"""

from __future__ import annotations

import colorsys
import zlib
from dataclasses import dataclass
from functools import cache

from matplotlib.colors import to_hex, to_rgb

from bench import methods

INK, GREY, PALE = "#1a1a1a", "#666666", "#d9d9d9"

# seaborn's "colorblind" palette, after Okabe and Ito; importing seaborn for ten constants costs more than drawing
PALETTE = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
)  # fmt: skip

# The palette has ten, the methods are more. Each of these is as far as it can be from those before it and from white,
# as everybody and as the colour-blind see it (chosen greedily of 360; tests/unit/plots/test_plots.py).
_MORE = (
    "#6600cc", "#663300", "#4d0066", "#b266ff", "#0f4557", "#cc0033", "#1a1aff",
    "#000099", "#4d6732", "#00cc33", "#ad1f8a",
)  # fmt: skip
COLORS = (*PALETTE, INK, *_MORE)  # what the look of a method counts in

_MARKERS = (*"os^vD<>PX*hd",)  # so that colour is never the only difference
_SHADES = (0.0, -0.38, 0.42, -0.62, 0.62)  # towards black (negative) or white


Dash = str | tuple[float, tuple[float, ...]]
Marker = str | tuple[int, int, float]
_DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one series is drawn and named."""

    label: str
    color: str
    marker: Marker
    dash: Dash


@cache
def look(series: str, variant: int = 0) -> Look:
    """Return how a series (of a method's `Identity`) is drawn; `variant` counts its settings from 0.

    Variants go round 5 shades and 12 markers, whose pairs are all different up to the 60th; from there on markers are
    stars of more and more points. Each has a dash pattern of its own.
    """
    color, marker = _base(series)
    place = _MARKERS.index(marker)
    rounds = variant // (len(_SHADES) * len(_MARKERS))
    return Look(
        label=methods.label(series),
        color=_shaded(color, _SHADES[variant % len(_SHADES)]),
        marker=(3 + rounds, 1, float(variant)) if rounds else _MARKERS[(place + variant) % len(_MARKERS)],
        dash=_DASHES[variant] if variant < len(_DASHES) else (0.0, (float(variant), 1.5, 1.0, 1.5)),
    )


def _base(series: str) -> tuple[str, str]:
    """Return colour and marker as the method has them, or by the series' name: a hue that no method has."""
    own = methods.named(series).look
    if own is not None:
        return COLORS[own[0]], own[1]
    number = zlib.crc32(series.encode())
    hue, lightness = number % 9973 / 9973, 0.3 + 0.3 * (number // 9973 % 997) / 997
    return to_hex(colorsys.hls_to_rgb(hue, lightness, 0.65)), _MARKERS[number % len(_MARKERS)]


def _shaded(color: str, by: float) -> str:
    end = 1.0 if by > 0 else 0.0
    red, green, blue = (channel + abs(by) * (end - channel) for channel in to_rgb(color))
    return to_hex((red, green, blue))
