"""The harness from Python: sweep, plan, load, best, compare, recommend and heatmap.

Each function takes the settings of the command of its name as keyword arguments: `eta_A=[1e-4, 1e-3]` is
`--eta-A 1e-4,1e-3`, under any name that the option has. It works in the same directories on trials of the same ids, so
that a sweep begun by either is resumed by the other. `import lorasweep` gives the same functions where the package is
installed.

Errors are `BadInput` with the text of the command line, in Python's names.
"""

from __future__ import annotations

from bench.api._compare import compare
from bench.api._read import Recommendation, best, heatmap, load, recommend
from bench.api._run import Plan, plan, sweep
from bench.core.errors import BadInput

__all__ = ["BadInput", "Plan", "Recommendation", "best", "compare", "heatmap", "load", "plan", "recommend", "sweep"]
