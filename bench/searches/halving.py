"""Successive halving: every cell of the grid starts, and at each rung only the best of a method's cells go on.

Jamieson and Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization, arXiv:1502.07943.
"""

from bench.searches._base import Search
from bench.searches._rungs import Rungs

SEARCH = Search(rungs=Rungs())
