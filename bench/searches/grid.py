"""Every cell of the grid, with every seed."""

from bench.searches._base import Search

SEARCH = Search()
