"""Figures of a study: each module has `tidy(df, study) -> table` and `draw(table, ax=None) -> Figure`.

A plot reads no file and trains nothing; `plots.figures.figure_set` draws everything a study has rows for, and
`plots.style.save` is the only function that writes.
"""

import contextlib as _contextlib
import os as _os

# Figures are drawn to files, by objects of their own, whatever MPLBACKEND names: matplotlib reads it when it is first
# imported and refuses the name of a backend that is not installed, such as a notebook's in the commands of its cells.
_named = _os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib as _matplotlib
finally:
    if _named is not None:
        _os.environ["MPLBACKEND"] = _named
if _named is not None:
    with _contextlib.suppress(ValueError):  # not installed: pyplot will choose one itself, should anything import it
        _matplotlib.rcParams["backend"] = _named  # for what else is drawn in this process
